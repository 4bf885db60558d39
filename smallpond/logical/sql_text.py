"""Placeholders in SQL text: `{0}`, `{name}`; every other brace is just a brace.

A number in braces outside of quotes is an input; inside of quotes it is text (`'x{2}'` is a pattern). A name in braces
is replaced, quoted or not, when it is known. Struct literals (`{'a': 1}`) and map literals pass through untouched. Text
written for templates that need doubled braces (`{{'a': 1}}`) is understood too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from threefs.smallpond.errors import PlanError

_TOKEN = re.compile(
    r"""(?P<text>'(?:[^']|'')*'|\$\$.*?\$\$|--[^\n]*|/\*.*?\*/)|(?P<double>\{\{(?=\s*['"}\w]))|(?P<hole>\{\s*(?P<key>\w+)\s*\})""",
    re.DOTALL,
)
_NAME_IN_TEXT = re.compile(r"\{\s*([A-Za-z_]\w*)\s*\}")
TASK_NAMES = ("batch_index", "query_index", "cpu_limit", "memory_limit", "rand_seed", "output_filename")


def render(query: str, inputs: Sequence[str], names: Mapping[str, str]) -> str:
    """The query with inputs and names filled in."""
    return _substitute(_undouble(query), lambda key: _lookup(key, inputs, names))


def references(query: str) -> set[str]:
    """The keys in braces outside of quotes."""
    return {found["key"] for found in _TOKEN.finditer(_undouble(query)) if found["hole"]}


def check(query: str, inputs: int, names: Sequence[str]) -> None:
    """PlanError when the query asks for an input that is not there."""
    for key in sorted(references(query)):
        if key.isdigit() and int(key) >= inputs:
            given = "no input is given" if inputs == 0 else f"the inputs are {{0}} to {{{inputs - 1}}}"
            raise PlanError(f"the query reads {{{key}}}, but {given}: {' '.join(query.split())[:200]}")


def _lookup(key: str, inputs: Sequence[str], names: Mapping[str, str]) -> str | None:
    if key.isdigit():
        if int(key) < len(inputs):
            return inputs[int(key)]
        raise PlanError(f"the query reads {{{key}}}, but has {len(inputs)} inputs")
    return names.get(key)


def _substitute(query: str, lookup: Callable[[str], str | None]) -> str:
    def replace(found: re.Match[str]) -> str:
        if found["hole"]:
            value = lookup(found["key"])
            return found[0] if value is None else value
        if found["text"] and found["text"][0] == "'":
            return _NAME_IN_TEXT.sub(lambda inner: _text_value(inner, lookup), found["text"])
        return found[0]

    return _TOKEN.sub(replace, query)


def _text_value(found: re.Match[str], lookup: Callable[[str], str | None]) -> str:
    value = lookup(found[1])
    return found[0] if value is None else value


def _undouble(query: str) -> str:
    """Doubled braces made single, if the text uses them: `{{` begins nothing in SQL."""
    if not any(found["double"] for found in _TOKEN.finditer(query)):
        return query
    parts, last = [], 0
    for found in re.finditer(r"'(?:[^']|'')*'", query):
        parts += [_halve(query[last : found.start()]), found[0]]
        last = found.end()
    return "".join([*parts, _halve(query[last:])])


def _halve(text: str) -> str:
    return text.replace("{{", "{").replace("}}", "}")
