"""Loads that the placement tests and benchmarks draw."""

from __future__ import annotations

import torch
from torch import Tensor

LAWS = ("normal", "gamma", "lognormal", "zipf", "ties", "zeros")


def draw(law: str, layers: int, experts: int, seed: int) -> Tensor:
    """[layers, experts] float32, not negative."""
    torch.manual_seed(seed)
    shape = (layers, experts)
    if law == "normal":
        return torch.randn(shape).abs()
    if law == "gamma":
        return torch.distributions.Gamma(2.0, 1.0).sample(shape)
    if law == "lognormal":
        return torch.randn(shape).exp()
    if law == "zipf":
        return torch.stack([1.0 / (torch.randperm(experts) + 1.0) ** 0.8 for _ in range(layers)])
    if law == "ties":
        return torch.randint(0, 4, shape).float()
    return torch.zeros(shape)
