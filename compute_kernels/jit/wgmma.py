"""Writes the header of warpgroup matrix instructions for the shapes that a kernel asks for.

A `wgmma` names every accumulator register in its text, so a header with all shapes would be thousands of lines
that nobody reads. A kernel lists its few shapes instead (`Wgmma`), and this module spells them out; each becomes
one overload of `wgmma_*` with the accumulator as a float array. Called by `compiler` only.
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


def _function(shape: Wgmma) -> str:
    registers = shape.n // 2
    accumulators = ", ".join(f"%{i}" for i in range(registers))
    next_operand = registers
    if shape.a_registers:
        a_text = "{" + ", ".join(f"%{next_operand + i}" for i in range(4)) + "}"
        a_parameter, a_inputs = "const u32 (&a)[4]", ", ".join(f'"r"(a[{i}])' for i in range(4))
        next_operand += 4
    else:
        a_text, a_parameter, a_inputs = f"%{next_operand}", "u64 a", '"l"(a)'
        next_operand += 1
    b_text, scale_text = f"%{next_operand}", f"%{next_operand + 1}"
    tail = "p, 1, 1"
    if shape.operand != "e4m3":
        tail += ("" if shape.a_registers else f", {int(shape.a_transposed)}") + f", {int(shape.b_transposed)}"
    outputs = ", ".join(f'"+f"(d[{i}])' for i in range(registers))
    return (
        f"DEVICE void {shape.name}(float (&d)[{registers}], {a_parameter}, u64 b, bool accumulate) {{\n"
        f'  asm volatile(\n      "{{\\n .reg .pred p;\\n setp.ne.b32 p, {scale_text}, 0;\\n"\n'
        f'      " wgmma.mma_async.sync.aligned.m64n{shape.n}k{_K_STEP[shape.operand]}'
        f'.f32.{shape.operand}.{shape.operand}"\n'
        f'      " {{{accumulators}}}, {a_text}, {b_text}, {tail};\\n}}\\n"\n'
        f'      : {outputs}\n      : {a_inputs}, "l"(b), "r"(u32(accumulate)));\n}}\n'
    )


def header(shapes: tuple[Wgmma, ...]) -> str:
    """The text of `wgmma.cuh` for these shapes."""
    return '#pragma once\n#include "ptx.cuh"\n' + "".join(_function(shape) for shape in sorted(set(shapes)))
