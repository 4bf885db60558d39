"""The two-GPU program as a test: pipelines equal their reference over NCCL, and overlap pays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from threefs.compute_kernels.overlap import analyse, load_trace

pytestmark = [pytest.mark.bench, pytest.mark.gpu]

PROGRAM = Path(__file__).parent / "gpu" / "parallel.py"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs of one host")
def test_two_gpus(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(PROGRAM), str(tmp_path)]
    subprocess.run(command, check=True, timeout=600)
    results = json.loads((tmp_path / "results.json").read_text())
    runs = {name: run for name, run in results.items() if isinstance(run, dict)}
    print(json.dumps(runs, indent=1))
    assert results["pipelines_equal_reference"]
    assert all(run["losses_equal"] for run in runs.values())
    assert all(run["ratio"] > 1 for name, run in runs.items() if "recorded" in name)
    for rank in (0, 1):
        device = analyse(load_trace(tmp_path / f"moe_overlapped_rank{rank}.json.gz"), window="^recorded step$")
        assert device.hidden_share is not None
        assert device.hidden_share >= 0.5
