"""What kind of work a kernel is: computation, communication or memory traffic, and which sort of it.

Used by `analyse.py` once for each kernel name. The rule: the first rule that matches decides; a user's rules come
before ours. A rule looks at the function's name without its template arguments and parameters, because CUTLASS
kernels carry words such as "dispatch" in their template arguments and are no communication.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from threefs.compute_kernels.overlap.errors import TraceError

Kind = Literal["compute", "communication", "memory"]
KINDS: tuple[Kind, ...] = ("compute", "communication", "memory")


@dataclass(frozen=True)
class Rule:
    """`pattern` is searched, ignoring case, in the kernel's function name or in an annotation around it."""

    pattern: str
    kind: Kind
    label: str
    on: Literal["function", "name", "annotation"] = "function"

    def matches(self, text: str) -> bool:
        return re.search(self.pattern, text, re.IGNORECASE) is not None


_DEEP_EP = (
    r"(^|::)deep_?ep(::|_)|(^|::|_)(intranode|internode)(_ll)?(::|_|$)"
    r"|(^|::)(cached_)?(notify_)?(dispatch|combine)(_ll|_impl|_kernel|_main|_copy_epilogue|_reduce_epilogue)*$"
    r"|(^|::)get_dispatch_layout"
)

DEFAULT_RULES: tuple[Rule, ...] = (
    Rule(_DEEP_EP, "communication", "DeepEP"),
    Rule(r"nvshmem", "communication", "NVSHMEM"),
    Rule(r"^nccl", "communication", "NCCL"),
    Rule(r"one_shot_|two_shot_|multimem_|symm_mem|cross_device_reduce", "communication", "symmetric memory"),
    Rule(r"^Memcpy (PtoP|P2P)", "communication", "peer copy", on="name"),
    Rule(r"^Memcpy", "memory", "copy", on="name"),
    Rule(r"^Memset", "memory", "set", on="name"),
    Rule(r"flash|fmha|attention|(^|_)mla(_|$)|softmax_warp", "compute", "attention"),
    Rule(r"gemm|cutlass|nvjet|xmma|cublas|_mm_|splitkreduce|deep_gemm|conv", "compute", "matrix product"),
    Rule(r"norm", "compute", "normalisation"),
    Rule(r"sort|scan|topk|radix|bincount|index|gather|scatter", "compute", "indexing"),
    Rule(r"reduce", "compute", "reduction"),
    Rule(r"elementwise|copy|fill|triton_poi|cat", "compute", "elementwise"),
    Rule(r"", "compute", "other"),
)


def load_rules(path: Path) -> tuple[Rule, ...]:
    """Rules from a TOML file of `[[rule]]` tables with `pattern`, `kind`, `label` and, if wanted, `on`."""
    try:
        tables = tomllib.loads(path.read_text()).get("rule", [])
        rules = tuple(Rule(**table) for table in tables)
    except (OSError, tomllib.TOMLDecodeError, TypeError) as exc:
        raise TraceError(f"{path}: not a rule file: {exc}") from exc
    for rule in rules:
        if rule.kind not in KINDS or rule.on not in ("function", "name", "annotation"):
            raise TraceError(f"{path}: rule {rule.pattern!r}: kind is one of {', '.join(KINDS)}")
        try:
            re.compile(rule.pattern)
        except re.error as exc:
            raise TraceError(f"{path}: rule {rule.pattern!r} is no regular expression: {exc}") from exc
    return rules


def classify(name: str, rules: Sequence[Rule]) -> Rule:
    """The first of `rules` and the default ones that knows the kernel's name."""
    function = function_name(name)
    for rule in (*rules, *DEFAULT_RULES):
        if rule.on != "annotation" and rule.matches(name if rule.on == "name" else function):
            return rule
    raise AssertionError("the last default rule matches everything")


def short_name(name: str) -> str:
    """The last parts of the function's name, and the operation that a generic kernel was made for."""
    short = "::".join(function_name(name).split("::")[-2:])
    operations = re.findall(r"\w+Functor\w*|\w+_kernel_cuda|\w+_kernel_impl(?!_)|\b\w+Op\b", name)
    inner = [each for each in operations if each not in short and each != "gpu_kernel_impl"]
    return f"{short} [{inner[0]}]" if inner else short


def function_name(name: str) -> str:
    """The qualified name of a C++ function: no return type, no template arguments, no parameters."""
    text = name.replace("(anonymous namespace)", "anonymous").replace("operator()", "operator")
    depth = 0
    kept: list[str] = []
    for letter in text:
        if letter == "<":
            depth += 1
        elif letter == ">":
            depth = max(depth - 1, 0)
        elif letter == "(" and depth == 0:
            break
        elif depth == 0:
            kept.append(letter)
    words = "".join(kept).split()
    return words[-1] if words else name
