"""The MoE example: its two passes through each other compute what each computes alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.compute_kernels.dualpipe.ranks import run_ranks
from torch import nn

from threefs.compute_kernels.dualpipe import DualPipe, DualPipeV, set_p2p_tensor_dtype, set_p2p_tensor_shapes
from threefs.compute_kernels.dualpipe.moe import MoEConfig, MoEStage
from threefs.compute_kernels.dualpipe.moe.layer import MoELayer
from threefs.compute_kernels.dualpipe.moe.routing import pack, route, unpack

pytestmark = pytest.mark.unit

CONFIG = MoEConfig(
    hidden=16, heads=2, expert_hidden=24, num_experts=4, top_k=2, layers_per_stage=2, dtype=torch.float64
)
SHAPE = (1, 8, 16)


def criterion(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return nn.functional.mse_loss(output, label)


def stage(seed: int, group: dist.ProcessGroup | None, overlap: bool) -> MoEStage:
    torch.manual_seed(seed)
    return MoEStage(CONFIG, group, overlap=overlap)


def train(is_v: bool, group: dist.ProcessGroup | None, overlap: bool) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
    set_p2p_tensor_shapes([SHAPE])
    set_p2p_tensor_dtype(torch.float64)
    stages = (stage(1, group, overlap), stage(2, group, overlap))
    rank = dist.get_rank()
    own = dist.new_group([rank], use_local_synchronization=True)
    pipeline = DualPipeV(stages, process_group=own) if is_v else DualPipe(stages)
    chunks = 8
    torch.manual_seed(5 + rank)
    parts = chunks if is_v else chunks // 2
    data, labels = (torch.randn(parts, *SHAPE[1:], dtype=torch.float64) for _ in range(2))
    loss, _ = pipeline.step(data, num_chunks=chunks, criterion=criterion, labels=[labels])
    assert all(not part.tapes for part in stages)
    return loss, [parameter.grad for parameter in pipeline.parameters()]


def alone(chunks: int = 8) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The same layers under plain autograd, one chunk after the other."""
    stages = [stage(1, None, False), stage(2, None, False)]
    torch.manual_seed(5)
    data, labels = (torch.randn(chunks, *SHAPE[1:], dtype=torch.float64) for _ in range(2))
    losses = []
    for value, label in zip(data.chunk(chunks), labels.chunk(chunks), strict=True):
        for layer in (layer for part in stages for layer in part.layers):
            assert isinstance(layer, MoELayer)
            attended, path = layer.attend(value)
            value = layer.merge(attended.residual, attended.weights, layer.expert(attended.rows), path)
        loss = criterion(value, label)
        loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses), [p.grad for part in stages for p in part.parameters()]


def one_rank(rank: int) -> None:
    expected_loss, expected = alone()
    for overlap in (False, True):
        loss, gradients = train(is_v=True, group=None, overlap=overlap)
        assert loss is not None
        assert torch.equal(loss, expected_loss)
        for ours, theirs in zip(gradients, expected, strict=True):
            assert (ours - theirs).abs().max() <= 1e-13


def two_ranks(rank: int) -> None:
    for is_v in (True, False):
        plain_loss, plain = train(is_v, dist.group.WORLD, overlap=False)
        loss, gradients = train(is_v, dist.group.WORLD, overlap=True)
        assert loss is not None
        assert plain_loss is not None
        assert torch.equal(loss, plain_loss)
        assert all(torch.equal(a, b) for a, b in zip(gradients, plain, strict=True))


def test_overlapped_passes_equal_plain_autograd(tmp_path: Path) -> None:
    run_ranks(1, tmp_path / "store", one_rank)


def test_overlap_over_two_expert_ranks_changes_nothing(tmp_path: Path) -> None:
    run_ranks(2, tmp_path / "store", two_ranks)


def test_inference_equals_training_forward() -> None:
    part = stage(3, None, True)
    value = torch.randn(SHAPE, dtype=torch.float64)
    with torch.no_grad():
        quiet = part(value)
    assert torch.equal(quiet, part(value).detach())


def test_rows_take_their_gradient_through_pack_and_unpack() -> None:
    expert = torch.tensor([[0, 1], [0, 2], [0, 1], [2, 1]])
    path = route(expert, num_experts=3, capacity=2)
    assert path.kept.tolist() == [[True, True], [True, True], [False, True], [True, False]]
    rows = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda value: pack(value, path), (rows,))
    slots = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda value: unpack(value, path), (slots,))
    again = unpack(pack(rows, path), path)
    assert torch.equal(again, rows[:, None].expand(4, 2, 3) * path.kept[..., None])
