"""Whole clusters under faults drawn from a seed: safe while they last, whole again afterwards.

A failing seed prints the command that replays it. The seeds run in two processes at a time.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import pytest
from tests.simulation.run import Report, run_seed

pytestmark = pytest.mark.sim

SEEDS = range(1, 21)


@pytest.fixture(scope="module")
def reports() -> Iterator[dict[int, Future[Report]]]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield {seed: pool.submit(run_seed, seed) for seed in SEEDS}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cluster_survives(seed: int, reports: dict[int, Future[Report]]) -> None:
    report = reports[seed].result()
    assert not report.problems, f"replay with: {report.replay}\n" + "\n".join(report.problems)
    assert report.virtual_s >= 300
    assert report.counts["acknowledged"] >= 1000
    assert report.counts["resyncs"] >= 1
    struck = {kind for kind, count in report.faults.items() if count}
    assert len(struck) == 14, f"only {sorted(struck)}"
    assert all(report.messages[kind] for kind in ("lost", "slow", "cut", "refused"))


def test_the_same_seed_gives_the_same_trace_in_every_process() -> None:
    digests = set()
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-m", "tests.simulation.run", "--seed", "7", "--seconds", "60"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        digests.add(next(line for line in done.stdout.splitlines() if "digest" in line))
    assert len(digests) == 1
