"""compute-sanitizer over the ways in which warpgroups exchange values, alone and in the attention kernels."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a Hopper GPU"),
    pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="needs compute-sanitizer"),
]

_CHILD = Path(__file__).with_name("under_sanitizer.py")


def _errors(tool: str, case: str) -> tuple[int, str]:
    """How many errors (races count as errors) the tool found, and what it said."""
    command = ["compute-sanitizer", "--tool", tool, sys.executable, str(_CHILD), case]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    if "Device not supported" in said:
        pytest.skip("the tool does not work on this machine")
    found = re.findall(r"ERROR SUMMARY: (\d+) error|(\d+) hazards? displayed", said)
    assert found, said
    return sum(int(a or b) for a, b in found), said


def _check_clean(tool: str, case: str) -> None:
    found, said = _errors(tool, case)
    assert found == 0, said
    assert "Traceback" not in said, said


@pytest.mark.parametrize("form", [1, 2, 3])
def test_exchanges_that_promise_nothing_false_are_clean(form: int) -> None:
    _check_clean("synccheck", f"barriers-{form}")


def test_one_aligned_barrier_in_two_branches_is_reported() -> None:
    found, said = _errors("synccheck", "barriers-0")
    assert found > 0, said
    assert "ivergent" in said


@pytest.mark.parametrize("case", ["dense", "fp8", "sparse", "pages", "prefill"])
def test_attention_has_no_divergent_barriers(case: str) -> None:
    _check_clean("synccheck", case)


_REPORTED = pytest.mark.xfail(reason="the tool does not follow arrivals; test_emulated_order.py does", strict=True)


@pytest.mark.parametrize(
    "case",
    ["barriers-3", "pages", *(pytest.param(case, marks=_REPORTED) for case in ("dense", "fp8", "sparse", "prefill"))],
)
def test_no_races_but_those_that_arrivals_exclude(case: str) -> None:
    """With arrivals at barriers as waits: racecheck does not see what an arrival orders, and reports form 3 too."""
    _check_clean("racecheck", f"{case}-waiting")
