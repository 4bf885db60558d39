"""Checks of what users pass in: each failure names the argument, what it was and what it must be."""

from __future__ import annotations

from collections.abc import Callable

import torch

from threefs.compute_kernels.deep_gemm.layout import K_BLOCK, ceil_div
from threefs.compute_kernels.errors import InvalidInput

__all__ = [
    "Quantised",
    "check_bf16_k_groups",
    "check_bf16_operands",
    "check_fine_operands",
    "check_fp8_operands",
    "check_groups",
    "check_k_groups",
    "check_output",
]

Quantised = tuple[torch.Tensor, torch.Tensor]


def _expect(condition: bool, message: Callable[[], str]) -> None:
    if not condition:
        raise InvalidInput(message())


def _check_values(name: str, values: torch.Tensor, dims: tuple[int, ...]) -> None:
    shape = tuple(values.shape)
    _expect(values.dtype == torch.float8_e4m3fn, lambda: f"{name} is {values.dtype}; it must be torch.float8_e4m3fn")
    _expect(
        values.dim() in dims, lambda: f"{name} has shape {shape}; it must have {' or '.join(map(str, dims))} dimensions"
    )
    _expect(values.is_contiguous(), lambda: f"{name} {shape} has strides {values.stride()}; call .contiguous() first")
    _expect(values.shape[-1] % 16 == 0, lambda: f"{name} has k = {shape[-1]}; rows must be a multiple of 16 bytes")
    _expect(values.data_ptr() % 16 == 0, lambda: f"{name} begins at an address that is no multiple of 16: copy it")


def _check_scale(name: str, scale: torch.Tensor, shape: tuple[int, ...]) -> None:
    _expect(scale.dtype == torch.float32, lambda: f"{name} is {scale.dtype}; scales must be torch.float32")
    _expect(
        tuple(scale.shape) == shape,
        lambda: f"{name} has shape {tuple(scale.shape)}; for these operands it must be {shape}",
    )


def check_fp8_operands(lhs: Quantised, rhs: Quantised, *, lhs_dims: int, rhs_dims: int) -> tuple[int, int, int]:
    """Values and scales of both sides; returns m (rows of one group if lhs has groups), n, k."""
    (a, scale_a), (b, scale_b) = lhs, rhs
    _check_values("lhs", a, (lhs_dims,))
    _check_values("rhs", b, (rhs_dims,))
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-2]
    _expect(b.shape[-1] == k, lambda: f"lhs has k = {k} and rhs has k = {b.shape[-1]}; both must have the same")
    _expect(k > 0, lambda: "k is 0; there is nothing to multiply")
    _expect(n % 8 == 0, lambda: f"n is {n}; it must be a multiple of 8, so that output rows are a multiple of 16 bytes")
    if lhs_dims == 3:
        _expect(
            a.shape[0] == b.shape[0],
            lambda: f"lhs has {a.shape[0]} groups and rhs has {b.shape[0]}; both must have the same",
        )
    _check_scale("lhs scales", scale_a, (*a.shape[:-1], ceil_div(k, K_BLOCK)))
    _check_scale("rhs scales", scale_b, (*b.shape[:-2], ceil_div(n, 128), ceil_div(k, K_BLOCK)))
    _expect(scale_b.is_contiguous(), lambda: f"rhs scales have strides {scale_b.stride()}; call .contiguous() first")
    for name, tensor in (("lhs scales", scale_a), ("rhs", b), ("rhs scales", scale_b)):
        if tensor.device != a.device:
            raise InvalidInput(f"{name} are on {tensor.device} and lhs on {a.device}; use one device")
    return m, n, k


def check_output(
    out: torch.Tensor, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.bfloat16
) -> None:
    _expect(out.dtype == dtype, lambda: f"out is {out.dtype}; it must be {dtype}")
    _expect(tuple(out.shape) == shape, lambda: f"out has shape {tuple(out.shape)}; it must be {shape}")
    _expect(out.is_contiguous(), lambda: f"out has strides {out.stride()}; it must be contiguous")
    _expect(out.device == device, lambda: f"out is on {out.device} and lhs on {device}; use one device")
    _expect(out.data_ptr() % 16 == 0, lambda: "out begins at an address that is no multiple of 16: copy it")


def check_groups(name: str, groups: torch.Tensor, count: int, device: torch.device) -> None:
    _expect(groups.dtype == torch.int32, lambda: f"{name} is {groups.dtype}; it must be torch.int32")
    _expect(tuple(groups.shape) == (count,), lambda: f"{name} has shape {tuple(groups.shape)}; it must be {(count,)}")
    _expect(groups.is_contiguous(), lambda: f"{name} has strides {groups.stride()}; call .contiguous() first")
    _expect(groups.device == device, lambda: f"{name} is on {groups.device} and lhs on {device}; use one device")


def check_fine_operands(lhs: Quantised, rhs: Quantised) -> tuple[int, int, int]:
    """Both sides with one scale for each row and 128 values; returns m, n, k."""
    (a, scale_a), (b, scale_b) = lhs, rhs
    _check_values("lhs", a, (2,))
    _check_values("rhs", b, (2,))
    m, k, n = a.shape[0], a.shape[1], b.shape[0]
    _expect(b.shape[1] == k, lambda: f"lhs has k = {k} and rhs has k = {b.shape[1]}; both must have the same")
    _expect(k > 0, lambda: "k is 0; there is nothing to multiply")
    _expect(n % 4 == 0, lambda: f"n is {n}; it must be a multiple of 4, so that output rows are a multiple of 16 bytes")
    _check_scale("lhs scales", scale_a, (m, ceil_div(k, K_BLOCK)))
    _check_scale("rhs scales", scale_b, (n, ceil_div(k, K_BLOCK)))
    _check_devices(a, {"lhs scales": scale_a, "rhs": b, "rhs scales": scale_b})
    return m, n, k


def check_k_groups(lhs: Quantised, rhs: Quantised, ks: list[int]) -> tuple[int, int]:
    """Groups of different k behind each other; returns m and n, which the scales' shapes tell."""
    blocks, total = sum(ceil_div(k, K_BLOCK) for k in ks), sum(ks)
    _expect(all(k >= 0 and k % 16 == 0 for k in ks), lambda: f"the k's are {ks}; each must be a multiple of 16")
    m, n = (_check_packed(name, side, ks, blocks, total) for name, side in (("lhs", lhs), ("rhs", rhs)))
    _expect(n % 4 == 0, lambda: f"n is {n}; it must be a multiple of 4, so that output rows are a multiple of 16 bytes")
    _check_devices(lhs[0], {"lhs scales": lhs[1], "rhs": rhs[0], "rhs scales": rhs[1]})
    return m, n


def _check_packed(name: str, side: Quantised, ks: list[int], blocks: int, total: int) -> int:
    """One side of k-grouped operands; returns its rows."""
    values, scale = side
    _expect(values.dtype == torch.float8_e4m3fn, lambda: f"{name} is {values.dtype}; it must be torch.float8_e4m3fn")
    _expect(scale.dim() == 2, lambda: f"{name} scales have shape {tuple(scale.shape)}; they must be [K blocks, rows]")
    rows = scale.shape[1]
    _check_scale(f"{name} scales", scale, (blocks, rows))
    _expect(values.is_contiguous(), lambda: f"{name} has strides {values.stride()}; call .contiguous() first")
    _expect(
        values.numel() == rows * total,
        lambda: f"{name} has {values.numel()} values; {rows} rows of k {ks} are {rows * total}",
    )
    _expect(values.data_ptr() % 16 == 0, lambda: f"{name} begins at an address that is no multiple of 16: copy it")
    return rows


def _check_devices(first: torch.Tensor, others: dict[str, torch.Tensor]) -> None:
    for name, tensor in others.items():
        if tensor.device != first.device:
            raise InvalidInput(f"{name} are on {tensor.device} and lhs on {first.device}; use one device")


def check_bf16_operands(
    a: torch.Tensor, b: torch.Tensor, *, lhs_dims: int = 2, rhs_dims: int = 2, a_mn: bool = False, b_mn: bool = False
) -> tuple[int, int, int]:
    """a [.., m, k] or [k, m], b [.., n, k] or [k, n]; returns m (of one group if a has groups), n, k."""
    for name, tensor, dims in (("a", a, lhs_dims), ("b", b, rhs_dims)):
        shape, dtype = tuple(tensor.shape), tensor.dtype
        if dtype != torch.bfloat16:
            raise InvalidInput(f"{name} is {dtype}; it must be torch.bfloat16")
        if tensor.dim() != dims:
            raise InvalidInput(f"{name} has shape {shape}; it must have {dims} dimensions")
        if not tensor.is_contiguous():
            raise InvalidInput(f"{name} {shape} has strides {tensor.stride()}; call .contiguous() first")
        if shape[-1] % 8 or tensor.data_ptr() % 16:
            raise InvalidInput(f"{name} {shape}: its rows must be a multiple of 8 values and begin at 16 bytes")
    m, k = (a.shape[-1], a.shape[-2]) if a_mn else (a.shape[-2], a.shape[-1])
    n, k_b = (b.shape[-1], b.shape[-2]) if b_mn else (b.shape[-2], b.shape[-1])
    _expect(k == k_b, lambda: f"a has k = {k} and b has k = {k_b}; both must have the same")
    _expect(k > 0, lambda: "k is 0; there is nothing to multiply")
    _expect(n % 8 == 0, lambda: f"n is {n}; it must be a multiple of 8, so that output rows are a multiple of 16 bytes")
    if lhs_dims == 3 and a.shape[0] != b.shape[0]:
        raise InvalidInput(f"a has {a.shape[0]} groups and b has {b.shape[0]}; both must have the same")
    _check_devices(a, {"b": b})
    return m, n, k


def check_bf16_k_groups(a: torch.Tensor, b: torch.Tensor, ks: list[int], step: int) -> tuple[int, int]:
    """a [sum of ks, m] and b [sum of ks, n]; returns m and n."""
    _expect(all(k >= 0 and k % step == 0 for k in ks), lambda: f"the k's are {ks}; each must be a multiple of {step}")
    for name, tensor in (("a", a), ("b", b)):
        if tensor.dim() != 2 or tensor.shape[0] != sum(ks):
            raise InvalidInput(f"{name} has shape {tuple(tensor.shape)}; the k's {ks} are {sum(ks)} rows")
    if sum(ks) == 0:
        return a.shape[1], b.shape[1]
    m, n, _ = check_bf16_operands(a, b, a_mn=True, b_mn=True)
    return m, n
