"""The shapes and type of what stages hand over, and the exchange of one batch of messages.

Set once by the user, as in the original, before the first `step`; used by `runtime.py`. The rule: a tensor that
was handed to a send stays alive until the send is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
import torch.distributed as dist

from threefs.compute_kernels.dualpipe.errors import PipelineError

_shapes: list[tuple[int, ...]] | None = None
_dtype: torch.dtype | None = None

UNFINISHED_BATCHES_MAX = 2  # a batch of sends alone is not waited for at once; its tensors must not pile up


def set_p2p_tensor_shapes(shapes: Sequence[Sequence[int]]) -> None:
    """Shapes of the tensors that every stage but the last gives, for one chunk."""
    global _shapes
    checked = [tuple(int(size) for size in shape) for shape in shapes]
    if not checked or any(size < 1 for shape in checked for size in shape):
        raise PipelineError(f"shapes: expected at least one shape, all sizes 1 or more, got {list(shapes)}")
    _shapes = checked


def set_p2p_tensor_dtype(dtype: torch.dtype) -> None:
    """Type of those tensors; floating, because gradients of the same type travel back."""
    global _dtype
    if not dtype.is_floating_point:
        raise PipelineError(f"dtype: gradients need a floating type, got {dtype}")
    _dtype = dtype


def p2p_layout() -> tuple[list[tuple[int, ...]], torch.dtype]:
    if _shapes is None or _dtype is None:
        raise PipelineError("call set_p2p_tensor_shapes() and set_p2p_tensor_dtype() before step()")
    return _shapes, _dtype


def empty_payload(device: torch.device) -> list[torch.Tensor]:
    shapes, dtype = p2p_layout()
    return [torch.empty(shape, dtype=dtype, device=device) for shape in shapes]


def check_payload(tensors: Sequence[torch.Tensor], what: str) -> None:
    """Refuse what a peer could not receive, with both layouts in the message."""
    shapes, dtype = p2p_layout()
    found = [(tuple(tensor.shape), tensor.dtype) for tensor in tensors]
    if found != [(shape, dtype) for shape in shapes]:
        raise PipelineError(
            f"{what} gives {_describe(found)}, but set_p2p_tensor_shapes/dtype announced "
            f"{_describe([(shape, dtype) for shape in shapes])}"
        )


def _describe(layout: Sequence[tuple[tuple[int, ...], torch.dtype]]) -> str:
    return ", ".join(f"{list(shape)} {str(dtype).removeprefix('torch.')}" for shape, dtype in layout)


class Exchange:
    """Posts batches over one process group."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self._unfinished: deque[tuple[list[dist.Work], list[torch.Tensor]]] = deque()
        self._is_joined = False

    def post(self, sends: list[tuple[torch.Tensor, int]], receives: list[tuple[torch.Tensor, int]]) -> None:
        """Send and receive; returns when all of `receives` are filled (on CUDA: for the current stream).

        Peers are global ranks.
        """
        if not sends and not receives:
            return
        ops = [dist.P2POp(dist.isend, tensor, peer, self.group) for tensor, peer in sends]
        ops += [dist.P2POp(dist.irecv, tensor, peer, self.group) for tensor, peer in receives]
        works = dist.batch_isend_irecv(ops)
        self._unfinished.append((works, [tensor for tensor, _ in sends]))
        self.finish(0 if receives else UNFINISHED_BATCHES_MAX)

    def finish(self, unfinished_max: int = 0) -> None:
        """Wait for all but the last few batches."""
        while len(self._unfinished) > unfinished_max:
            works, _ = self._unfinished[0]
            for work in works:
                work.wait()
            self._unfinished.popleft()

    def join(self, device: torch.device) -> None:
        """Bring every rank of the group together once: NCCL's first batch needs them all."""
        if device.type == "cuda" and not self._is_joined:
            dist.all_reduce(torch.zeros(1, device=device), group=self.group)
            self._is_joined = True
