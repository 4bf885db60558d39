"""The simulation finds what each safeguard prevents: with it switched off, some seed of the budget violates a promise.

The clusters are shorter and busier than those of test_cluster.py, and struck by what the safeguard is there for.
"""

from __future__ import annotations

import pytest
from tests.simulation.run import run_seed

pytestmark = pytest.mark.proof

BUDGET = range(1, 25)


@pytest.mark.parametrize(
    ("safeguard", "kinds"),
    [
        ("dirty-read", ()),
        ("self-fencing", ("isolation",)),
    ],
)
def test_a_missing_safeguard_is_found(safeguard: str, kinds: tuple[str, ...]) -> None:
    for seed in BUDGET:
        report = run_seed(seed, seconds=60, think_s=0.2, kinds=kinds, ablate=safeguard)
        if report.problems:
            assert "not linearisable" in report.problems[0] or "acknowledged write lost" in report.problems[0]
            return
    pytest.fail(f"without {safeguard}, {len(BUDGET)} seeds showed nothing")
