"""The FP8 products under the names and arguments of DeepGEMM's current release.

Arguments that steer its own compiler or Blackwell's scales are taken and mean nothing here: `compiled_dims` (shapes are
never compiled in) and `disable_ue8m0_cast` (scales are float32 on Hopper). What Hopper cannot do is refused.
"""

from __future__ import annotations

import torch

from threefs.compute_kernels.deep_gemm.api import (
    gemm_fp8_fp8_bf16_nt,
    m_grouped_gemm_fp8_fp8_bf16_nt_contiguous,
    m_grouped_gemm_fp8_fp8_bf16_nt_masked,
)
from threefs.compute_kernels.deep_gemm.checks import Quantised
from threefs.compute_kernels.deep_gemm.group_ids import groups_of_ends
from threefs.compute_kernels.errors import InvalidInput

__all__ = ["fp8_gemm_nt", "m_grouped_fp8_gemm_nt_contiguous", "m_grouped_fp8_gemm_nt_masked"]

Recipe = tuple[int, int, int] | None
SideRecipe = tuple[int, int] | None


def _check_recipes(recipe: Recipe, recipe_a: SideRecipe, recipe_b: SideRecipe) -> None:
    for name, given, only in (
        ("recipe", recipe, (1, 128, 128)),
        ("recipe_a", recipe_a, (1, 128)),
        ("recipe_b", recipe_b, (128, 128)),
    ):
        if given not in (None, only):
            raise InvalidInput(f"{name} is {given}; on Hopper these products take {only} only")


def fp8_gemm_nt(
    a: Quantised,
    b: Quantised,
    d: torch.Tensor,
    c: torch.Tensor | None = None,
    recipe: Recipe = None,
    recipe_a: SideRecipe = None,
    recipe_b: SideRecipe = None,
    compiled_dims: str = "nk",
    disable_ue8m0_cast: bool = False,
) -> None:
    """The current name of `gemm_fp8_fp8_bf16_nt`. `c` (an addend) must be None: the output is bf16."""
    _check_recipes(recipe, recipe_a, recipe_b)
    if c is not None:
        raise InvalidInput("c is given; a bf16 output cannot accumulate, pass c=None")
    gemm_fp8_fp8_bf16_nt(a, b, d)


def m_grouped_fp8_gemm_nt_contiguous(
    a: Quantised,
    b: Quantised,
    d: torch.Tensor,
    grouped_layout: torch.Tensor,
    recipe: Recipe = None,
    recipe_a: SideRecipe = None,
    recipe_b: SideRecipe = None,
    compiled_dims: str = "nk",
    disable_ue8m0_cast: bool = False,
    use_psum_layout: bool = False,
    ensure_zero_padding: bool = True,
    expected_m_for_psum_layout: int | None = None,
) -> None:
    """The current name of `m_grouped_gemm_fp8_fp8_bf16_nt_contiguous`.

    With `use_psum_layout`, `grouped_layout` int32 [g] says where each group ends; the next one starts at the next
    multiple of the alignment. The tile does not depend on `expected_m_for_psum_layout`. Rows of a between groups are
    multiplied too, so zeros there are zeros in d, whatever `ensure_zero_padding` says.
    """
    _check_recipes(recipe, recipe_a, recipe_b)
    if use_psum_layout:
        grouped_layout = groups_of_ends(grouped_layout, a[0].shape[0], b[0].shape[0])
    m_grouped_gemm_fp8_fp8_bf16_nt_contiguous(a, b, d, grouped_layout)


def m_grouped_fp8_gemm_nt_masked(
    a: Quantised,
    b: Quantised,
    d: torch.Tensor,
    masked_m: torch.Tensor,
    expected_m: int,
    recipe: Recipe = None,
    recipe_a: SideRecipe = None,
    recipe_b: SideRecipe = None,
    compiled_dims: str = "nk",
    disable_ue8m0_cast: bool = False,
) -> None:
    """The current name of `m_grouped_gemm_fp8_fp8_bf16_nt_masked`."""
    _check_recipes(recipe, recipe_a, recipe_b)
    m_grouped_gemm_fp8_fp8_bf16_nt_masked(a, b, d, masked_m, expected_m)
