"""`3fs bench kernels` where it cannot run."""

from __future__ import annotations

import pytest
import torch

from threefs.cli.bench_commands import bench_kernels
from threefs.common.errors import UserError
from threefs.compute_kernels import bench

pytestmark = pytest.mark.kernels


class _Context:
    args: tuple[str, ...] = ("bf16",)


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without a GPU")
def test_without_a_gpu_it_says_what_is_missing() -> None:
    with pytest.raises(UserError, match="no CUDA device is visible"):
        bench_kernels(_Context())  # type: ignore[arg-type]


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["everything"])
    assert "invalid choice: 'everything'" in capsys.readouterr().err
