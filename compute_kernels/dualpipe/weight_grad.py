"""Weight gradients that wait: the zero-bubble trick, for layers that opt in.

Layers call `WeightGradStore.put` in their backward when `enabled`; the runtime flushes once a chunk and pops once a
weight step. The rule: first in, first out, one entry a chunk, and empty when a pipeline step ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn


class WeightGradStore:
    """State of the process, as in the original: one pipeline runs at a time."""

    enabled: ClassVar[bool] = False
    cache: ClassVar[list[Callable[[], None]]] = []
    funcs_queue: ClassVar[deque[list[Callable[[], None]]]] = deque()

    @classmethod
    def put(cls, func: Callable[[], None]) -> None:
        """Add one closure of the chunk whose backward runs now."""
        cls.cache.append(func)

    @classmethod
    def flush(cls) -> None:
        """Close the chunk: what was put since the last flush becomes one entry."""
        cls.funcs_queue.append(cls.cache)
        cls.cache = []

    @classmethod
    def pop(cls) -> None:
        """Compute the oldest chunk's weight gradients."""
        assert not cls.cache, "pop() before flush(): the chunk in the cache would be overtaken"
        assert cls.funcs_queue, "pop() on an empty store"
        for func in cls.funcs_queue.popleft():
            func()

    @classmethod
    def clear(cls) -> None:
        cls.cache = []
        cls.funcs_queue.clear()


class _DeferredLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(value, weight)
        ctx.bias = bias
        return nn.functional.linear(value, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        (gradient,) = gradients
        value, weight = ctx.saved_tensors
        bias = ctx.bias

        def add_weight_gradient() -> None:
            rows = gradient.reshape(-1, gradient.shape[-1])
            _accumulate(weight, rows.T @ value.reshape(-1, value.shape[-1]))
            if bias is not None:
                _accumulate(bias, rows.sum(0))

        if WeightGradStore.enabled:
            WeightGradStore.put(add_weight_gradient)
        else:
            add_weight_gradient()
        return (gradient @ weight if ctx.needs_input_grad[0] else None), None, None


def _accumulate(parameter: torch.Tensor, gradient: torch.Tensor) -> None:
    if not parameter.requires_grad:
        return
    if parameter.grad is None:
        parameter.grad = gradient
    else:
        parameter.grad += gradient


class DeferredLinear(nn.Linear):
    """`nn.Linear` whose weight gradient can wait for a bubble. Writes `.grad` itself, so no autograd hooks fire."""

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = _DeferredLinear.apply(value, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return result
