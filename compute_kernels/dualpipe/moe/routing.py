"""Which expert each token goes to, and the two row moves that follow from it.

Used by `layer.py`. The rule: rows are moved by gathers only, forwards and backwards, so that results do not depend
on the order in which atomic additions land: losses are the same, bit for bit, on every run.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class Route(NamedTuple):
    """Slots are expert-major: expert e owns slots e*capacity .. (e+1)*capacity-1."""

    slot: torch.Tensor  # [tokens, k] int64; any slot where dropped
    kept: torch.Tensor  # [tokens, k] bool; false where the expert was full
    assignment: torch.Tensor  # [slots] int64: token*k + choice; any where empty
    filled: torch.Tensor  # [slots] bool


def route(expert: torch.Tensor, num_experts: int, capacity: int) -> Route:
    """First come, first served: `expert` is [tokens, k]."""
    flat = expert.reshape(-1)
    order = torch.argsort(flat, stable=True)
    per_expert = torch.zeros(num_experts, dtype=torch.int64, device=flat.device)
    per_expert.scatter_add_(0, flat, torch.ones_like(flat))  # bincount would make the host wait for the GPU
    first = per_expert.cumsum(0) - per_expert
    position = torch.empty_like(flat)
    position[order] = torch.arange(flat.numel(), device=flat.device) - first[flat[order]]
    kept = position < capacity
    slots = num_experts * capacity
    slot = torch.where(kept, flat * capacity + position, slots)
    assignment = torch.full((slots + 1,), -1, dtype=torch.int64, device=flat.device)
    assignment[slot] = torch.arange(flat.numel(), device=flat.device)
    assignment = assignment[:slots]
    return Route(
        slot=torch.where(kept, slot, 0).reshape(expert.shape),
        kept=kept.reshape(expert.shape),
        assignment=assignment.clamp(min=0),
        filled=assignment >= 0,
    )


class _Pack(torch.autograd.Function):
    """Token rows into slots; empty slots are zero."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, path: Route) -> torch.Tensor:
        ctx.path = path
        return rows[path.assignment // path.slot.shape[1]] * path.filled[:, None]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        path: Route = ctx.path
        return (gradients[0][path.slot] * path.kept[..., None]).sum(1), None


class _Unpack(torch.autograd.Function):
    """Slot rows back to (token, choice); dropped choices are zero."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, path: Route) -> torch.Tensor:
        ctx.path = path
        return rows[path.slot] * path.kept[..., None]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        path: Route = ctx.path
        return gradients[0].flatten(0, 1)[path.assignment] * path.filled[:, None], None


def pack(rows: torch.Tensor, path: Route) -> torch.Tensor:
    result: torch.Tensor = _Pack.apply(rows, path)  # type: ignore[no-untyped-call]
    return result


def unpack(rows: torch.Tensor, path: Route) -> torch.Tensor:
    result: torch.Tensor = _Unpack.apply(rows, path)  # type: ignore[no-untyped-call]
    return result
