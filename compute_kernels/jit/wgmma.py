"""Writes the header of warpgroup matrix instructions for the shapes that a kernel asks for.

A `wgmma` names every accumulator register in its text, so a header with all shapes would be thousands of lines
that nobody reads. A kernel lists its few shapes instead (`Wgmma`), and this module spells them out; each becomes
one overload of `wgmma_*` with the accumulator as a float array, and one of `wgmma_*_x4`, four k steps in one statement.
A statement carries its whole accumulator through the compiler, so fewer of them take decode a third less time to
compile; the machine code is the same. Called by `compiler` only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Operand", "Wgmma", "header"]

Operand = Literal["e4m3", "bf16", "f16"]

_K_STEP: dict[Operand, int] = {"e4m3": 32, "bf16": 16, "f16": 16}


@dataclass(frozen=True, order=True)
class Wgmma:
    """One shape: 64 x n float32 += 64 x k @ k x n.

    The first operand lies in shared memory, or in registers if `a_registers`. The second lies in shared memory,
    contiguous along k, or along n if `b_transposed` (16-bit types only); the first likewise along m if `a_transposed`.
    """

    operand: Operand
    n: int
    a_registers: bool = False
    b_transposed: bool = False
    a_transposed: bool = False

    def __post_init__(self) -> None:
        assert 8 <= self.n <= 256, self.n
        assert self.n % 8 == 0, self.n
        assert not (self.b_transposed and self.operand == "e4m3"), "8-bit operands are contiguous along k"
        assert not (self.a_transposed and (self.a_registers or self.operand == "e4m3")), "16 bits, from shared memory"

    @property
    def name(self) -> str:
        flags = (("_rs", self.a_registers), ("_at", self.a_transposed), ("_bt", self.b_transposed))
        return f"wgmma_{self.operand}" + "".join(suffix for suffix, on in flags if on)


def _instruction(shape: Wgmma, a_text: str, b_text: str, predicate: str) -> str:
    """One line of PTX; it adds to the accumulator where `predicate` holds."""
    accumulators = ", ".join(f"%{i}" for i in range(shape.n // 2))
    tail = f"{predicate}, 1, 1"
    if shape.operand != "e4m3":
        tail += ("" if shape.a_registers else f", {int(shape.a_transposed)}") + f", {int(shape.b_transposed)}"
    name = f"wgmma.mma_async.sync.aligned.m64n{shape.n}k{_K_STEP[shape.operand]}.f32.{shape.operand}.{shape.operand}"
    return f'      " {name}"\n      " {{{accumulators}}}, {a_text}, {b_text}, {tail};\\n"\n'


def _a_texts(shape: Wgmma, steps: int) -> list[str]:
    """The first operand of each step as PTX names it."""
    at = shape.n // 2
    if not shape.a_registers:
        return [f"%{at + step}" for step in range(steps)]
    return ["{" + ", ".join(f"%{at + 4 * step + i}" for i in range(4)) + "}" for step in range(steps)]


def _statement(shape: Wgmma, steps: int, a_inputs: list[str], b_inputs: list[str]) -> str:
    """The body: `steps` products, the first of which adds only if `accumulate`."""
    first_b = shape.n // 2 + len(a_inputs)
    outputs = ", ".join(f'"+f"(d[{i}])' for i in range(shape.n // 2))
    later = " setp.eq.u32 q, 0, 0;" if steps > 1 else ""
    lines = "".join(
        _instruction(shape, a_text, f"%{first_b + step}", "q" if step else "p")
        for step, a_text in enumerate(_a_texts(shape, steps))
    )
    return (
        f'  asm volatile(\n      "{{\\n .reg .pred p, q;\\n setp.ne.b32 p, %{first_b + steps}, 0;{later}\\n"\n{lines}'
        f'      "}}\\n"\n      : {outputs}\n      : {", ".join(a_inputs + b_inputs)}, "r"(u32(accumulate)));\n'
    )


def _function(shape: Wgmma) -> str:
    a_parameter = "const u32 (&a)[4]" if shape.a_registers else "u64 a"
    a_inputs = [f'"r"(a[{i}])' for i in range(4)] if shape.a_registers else ['"l"(a)']
    head = f"DEVICE void {shape.name}(float (&d)[{shape.n // 2}], {a_parameter}, u64 b, bool accumulate) {{\n"
    return head + _statement(shape, 1, a_inputs, ['"l"(b)']) + "}\n"


def _function_x4(shape: Wgmma) -> str:
    """Descriptors advance by kStepA and kStepB, in units of 16 bytes; in registers the steps are a's first index."""
    a_parameter = "const u32 (&a)[4][4]" if shape.a_registers else "u64 a"
    a_inputs = [f'"l"(a + {step} * kStepA)' for step in range(4)]
    if shape.a_registers:
        a_inputs = [f'"r"(a[{step}][{i}])' for step in range(4) for i in range(4)]
    b_inputs = [f'"l"(b + {step} * kStepB)' for step in range(4)]
    head = f"DEVICE void {shape.name}_x4(float (&d)[{shape.n // 2}], {a_parameter}, u64 b, bool accumulate) {{\n"
    return f"template <u32 kStepA, u32 kStepB>\n{head}" + _statement(shape, 4, a_inputs, b_inputs) + "}\n"


def header(shapes: tuple[Wgmma, ...]) -> str:
    """The text of `wgmma.cuh` for these shapes."""
    return '#pragma once\n#include "ptx.cuh"\n' + "".join(
        _function(shape) + _function_x4(shape) for shape in sorted(set(shapes))
    )
