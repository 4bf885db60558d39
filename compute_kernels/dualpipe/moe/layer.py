"""One transformer layer with attention and routed experts, cut where communication cuts it.

Used by `stage.py`. A layer is three stretches of computation around two exchanges:

    attend --dispatch--> expert --combine--> merge

The rule: a stretch never communicates, and an exchange never computes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from threefs.compute_kernels.dualpipe.errors import PipelineError
from threefs.compute_kernels.dualpipe.moe.routing import Route, pack, route, unpack


@dataclass(frozen=True)
class MoEConfig:
    hidden: int
    heads: int
    expert_hidden: int
    num_experts: int
    top_k: int
    layers_per_stage: int = 1
    capacity_factor: float = 1.25
    dtype: torch.dtype = torch.float32

    def capacity(self, tokens: int) -> int:
        """Slots each expert has for the tokens of one rank; even, so that rows stay aligned."""
        return 2 * math.ceil(tokens * self.top_k * self.capacity_factor / self.num_experts / 2)


class Attended(NamedTuple):
    """What `attend` leaves behind: the residual, the choices' weights, the rows to be sent."""

    residual: torch.Tensor
    weights: torch.Tensor
    rows: torch.Tensor


class MoELayer(nn.Module):
    """Experts are split evenly over `expert_group`; without one, all are here."""

    def __init__(self, config: MoEConfig, expert_group: dist.ProcessGroup | None) -> None:
        super().__init__()
        self.config = config
        self.expert_ranks = expert_group.size() if expert_group is not None else 1
        if config.num_experts % self.expert_ranks:
            raise PipelineError(
                f"num_experts: {config.num_experts} do not divide over {self.expert_ranks} ranks of the expert group"
            )
        local = config.num_experts // self.expert_ranks
        hidden, inner, dtype = config.hidden, config.expert_hidden, config.dtype
        self.norm_attention = nn.RMSNorm(hidden, dtype=dtype)
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False, dtype=dtype)
        self.out = nn.Linear(hidden, hidden, bias=False, dtype=dtype)
        self.norm_experts = nn.RMSNorm(hidden, dtype=dtype)
        self.gate = nn.Linear(hidden, config.num_experts, bias=False, dtype=dtype)
        self.up = nn.Parameter(torch.randn(local, hidden, inner, dtype=dtype) / math.sqrt(hidden))
        self.down = nn.Parameter(torch.randn(local, inner, hidden, dtype=dtype) / math.sqrt(inner))

    def attend(self, value: torch.Tensor) -> tuple[Attended, Route]:
        """Attention, the gate, and the rows for each expert; `value` is [batch, sequence, hidden]."""
        batch, sequence, hidden = value.shape
        heads = self.qkv(self.norm_attention(value)).reshape(batch, sequence, 3, self.config.heads, -1)
        query, key, content = heads.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, content, is_causal=True)
        residual = value + self.out(mixed.transpose(1, 2).reshape(batch, sequence, hidden))
        tokens = self.norm_experts(residual).reshape(-1, hidden)
        scores, expert = self.gate(tokens).float().topk(self.config.top_k, dim=-1)
        weights = scores.softmax(-1).to(tokens.dtype)
        path = route(expert, self.config.num_experts, self.config.capacity(tokens.shape[0]))
        return Attended(residual, weights, pack(tokens, path)), path

    def expert(self, rows: torch.Tensor) -> torch.Tensor:
        """The local experts on the rows of every rank: [ranks * local * capacity, hidden] in and out."""
        local, hidden = self.up.shape[0], rows.shape[-1]
        by_expert = rows.reshape(self.expert_ranks, local, -1, hidden).transpose(0, 1).reshape(local, -1, hidden)
        done = torch.bmm(nn.functional.silu(torch.bmm(by_expert, self.up)), self.down)
        return done.reshape(local, self.expert_ranks, -1, hidden).transpose(0, 1).reshape(-1, hidden)

    def merge(self, residual: torch.Tensor, weights: torch.Tensor, rows: torch.Tensor, path: Route) -> torch.Tensor:
        """The experts' answers, weighted, on top of the residual."""
        answers = (unpack(rows, path) * weights[..., None]).sum(1)
        return residual + answers.reshape(residual.shape)
