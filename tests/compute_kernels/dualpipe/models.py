"""Small stages for pipeline tests, and what the pipelines must agree with: the same stages one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn

from threefs.compute_kernels.dualpipe import (
    DeferredLinear,
    DualPipe,
    DualPipeV,
    run_backward,
    set_p2p_tensor_dtype,
    set_p2p_tensor_shapes,
)

WIDTH, ROWS = 6, 2  # ROWS is what one chunk holds


class Stage(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.up = DeferredLinear(WIDTH, 3 * WIDTH, dtype=torch.float64)
        self.down = DeferredLinear(3 * WIDTH, WIDTH, bias=False, dtype=torch.float64)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.down(torch.tanh(self.up(value))) + value
        return result


class HookedStage(Stage):
    """Counts the overlapped steps; written as users of the original write it."""

    overlapped = 0

    @classmethod
    def overlapped_forward_backward(
        cls, module0, inputs0, criterion0, labels0, module1, loss1, outputs1, output_grads1
    ):  # type: ignore[no-untyped-def]
        cls.overlapped += 1
        outputs0 = module0(*inputs0)
        outputs0 = [outputs0] if isinstance(outputs0, torch.Tensor) else outputs0
        loss0 = criterion0(*outputs0, *labels0) if criterion0 is not None else None
        if loss1 is not None:
            loss1.backward()
        else:
            run_backward(outputs1, output_grads1)
        return outputs0, loss0


def criterion(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return nn.functional.mse_loss(output, label)


def batch(chunks: int, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(99)
    shape = (chunks * ROWS, WIDTH)
    data, labels = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    return data.to(device), labels.to(device)


def reference(
    stages: Sequence[nn.Module], chunks: int, device: str
) -> tuple[torch.Tensor, torch.Tensor, list[list[torch.Tensor]]]:
    """(loss of each chunk, outputs, gradients of each stage's parameters), nothing partitioned."""
    data, labels = batch(chunks, device)
    losses, outputs = [], []
    for value, label in zip(data.chunk(chunks), labels.chunk(chunks), strict=True):
        for stage in stages:
            value = stage(value)
        loss = criterion(value, label)
        loss.backward()
        losses.append(loss.detach())
        outputs.append(value.detach())
    return torch.stack(losses), torch.cat(outputs), [[p.grad.clone() for p in s.parameters()] for s in stages]


def check_pipeline(
    rank: int, ranks: int, chunks: int, is_v: bool, hooked: bool, mapping: list[int] | None, device: str = "cpu"
) -> int:
    """Run one pipeline on the first `ranks` of the world and compare everything; gives the overlapped steps."""
    group = dist.new_group(list(range(ranks)))
    if rank >= ranks:
        return 0
    kind = HookedStage if hooked else Stage
    kind.overlapped = 0
    place = mapping[rank] if mapping else rank
    num_stages = 2 * ranks if is_v else ranks
    whole = [kind(seed).to(device) for seed in range(num_stages)]
    losses, outputs, gradients = reference(whole, chunks, device)
    mine = [place, num_stages - 1 - place]
    pipeline = (DualPipeV if is_v else DualPipe)(
        (kind(mine[0]).to(device), kind(mine[1]).to(device)), process_group=group, rank_mapping=mapping
    )
    set_p2p_tensor_shapes([(ROWS, WIDTH)])
    set_p2p_tensor_dtype(torch.float64)

    data, labels = batch(chunks, device)
    half = chunks * ROWS // 2
    if is_v:
        inputs, targets = (data, labels) if place == 0 else (None, None)
        span, ends = slice(None), place == 0
    else:
        ends = place in (0, ranks - 1)
        front, back = slice(0, half), slice(half, None)
        inputs = {0: data[front], ranks - 1: data[back]}.get(place)
        targets = {0: labels[back], ranks - 1: labels[front]}.get(place)
        span = back if place == 0 else front
    arguments = {"num_chunks": chunks, "criterion": criterion, "return_outputs": True}

    loss, output = pipeline.step(inputs, labels=None if targets is None else [targets], **arguments)
    assert (loss is not None) == ends
    if ends:
        chunk_span = (
            span
            if span == slice(None)
            else slice(*(i // ROWS if i is not None else None for i in (span.start, span.stop)))
        )
        assert torch.equal(loss, losses[chunk_span])
        assert torch.equal(output, outputs[span])
    check_gradients(pipeline, gradients, mine, is_v, group)

    with torch.no_grad():
        loss, output = pipeline.step(inputs, labels=None if targets is None else [targets], **arguments)
    if ends:
        assert torch.equal(loss, losses[chunk_span])
        assert torch.equal(output, outputs[span])
    return kind.overlapped


def check_gradients(
    pipeline: nn.Module, expected: list[list[torch.Tensor]], mine: list[int], is_v: bool, group: dist.ProcessGroup
) -> None:
    for local, stage in enumerate(mine):
        for index, parameter in enumerate(pipeline.stages[local].parameters()):
            mirrored = [torch.zeros_like(parameter) for _ in range(group.size())]
            total = parameter.grad.clone()
            if not is_v:  # the mirror rank holds the same stage in its other place
                for turn in (0, 1):
                    sent = pipeline.stages[turn].parameters()
                    dist.all_gather(mirrored, list(sent)[index].grad, group=group)
                    if turn != local:
                        total += mirrored[_mirror_of(pipeline, group)]
            difference = (total - expected[stage][index]).abs().max().item()
            assert difference <= 1e-13, (stage, index, difference)


def _mirror_of(pipeline: nn.Module, group: dist.ProcessGroup) -> int:
    place = pipeline.num_ranks - 1 - pipeline.rank
    return dist.get_group_rank(group, pipeline.global_rank_of[place])
