"""DualPipe and DualPipeV over gloo: losses equal to the bit, gradients to 1e-13, inference, and clear errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.compute_kernels.dualpipe.models import ROWS, WIDTH, Stage, batch, check_pipeline, criterion
from tests.compute_kernels.dualpipe.ranks import run_ranks

from threefs.compute_kernels.dualpipe import (
    DualPipe,
    DualPipeV,
    PipelineError,
    set_p2p_tensor_dtype,
    set_p2p_tensor_shapes,
)

pytestmark = pytest.mark.unit


def dualpipe_cases(rank: int) -> None:
    for ranks, chunks in ((2, 4), (2, 10), (4, 8), (4, 12), (8, 16)):
        check_pipeline(rank, ranks, chunks, is_v=False, hooked=False, mapping=None)
    overlapped = check_pipeline(rank, 4, 12, is_v=False, hooked=True, mapping=[2, 0, 3, 1])
    assert overlapped > 0 or rank >= 4


def dualpipev_cases(rank: int) -> None:
    for ranks in range(1, 7):
        check_pipeline(rank, ranks, 2 * ranks + 3, is_v=True, hooked=False, mapping=None)
    overlapped = check_pipeline(rank, 3, 11, is_v=True, hooked=True, mapping=[1, 2, 0])
    assert overlapped > 0 or rank >= 3


def test_dualpipe_equals_the_sequential_reference(tmp_path: Path) -> None:
    run_ranks(8, tmp_path / "store", dualpipe_cases)


def test_dualpipev_equals_the_sequential_reference(tmp_path: Path) -> None:
    run_ranks(6, tmp_path / "store", dualpipev_cases)


def expect(message: str, call: object, *arguments: object, **named: object) -> None:
    with pytest.raises(PipelineError, match=message):
        call(*arguments, **named)  # type: ignore[operator]


def error_cases(rank: int) -> None:
    stages = (Stage(0), Stage(1))
    with pytest.raises(PipelineError, match="even number of ranks, got 1"):
        DualPipe(stages, process_group=dist.new_group([0]))
    expect("two stages a rank, got 1", DualPipeV, stages[:1])
    expect(r"rank_mapping: expected each of 0\.\.0 once, got \[1\]", DualPipeV, stages, rank_mapping=[1])
    pipe = DualPipeV(stages)
    data, labels = batch(4)
    good = {"num_chunks": 4, "criterion": criterion, "labels": [labels]}
    expect("set_p2p_tensor_shapes", pipe.step, data, **good)
    expect("shapes: expected at least one", set_p2p_tensor_shapes, [])
    expect("dtype: gradients need a floating type", set_p2p_tensor_dtype, torch.int32)
    set_p2p_tensor_shapes([(ROWS, WIDTH)])
    set_p2p_tensor_dtype(torch.float64)
    pipe.step(data, **good)
    expect("num_chunks: at least 2", pipe.step, data, **{**good, "num_chunks": 1})
    expect("inputs: rank 0 feeds the pipeline", pipe.step, **good)
    expect("criterion: rank 0 ends the pipeline", pipe.step, data, **{**good, "criterion": None})
    expect(r"inputs: shape \[2, 6\] does not split into 4", pipe.step, data[:2], **good)
    expect(
        r"stage 0 of pipe 0 gives \[3, 6\] float64.*announced \[2, 6\]", pipe.step, torch.cat([data, data])[:12], **good
    )
    expect(r"gives \[2, 6\] float64.*announced", changed_shapes, pipe, data, good)


def changed_shapes(pipe: DualPipeV, data: torch.Tensor, good: dict[str, object]) -> None:
    set_p2p_tensor_shapes([(ROWS, WIDTH), (1,)])
    pipe.step(data, **good)  # type: ignore[arg-type]


def test_errors_say_what_is_wrong(tmp_path: Path) -> None:
    run_ranks(1, tmp_path / "store", error_cases)
