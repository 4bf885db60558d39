"""The simulation finds what each safeguard prevents: with it switched off, some seed of the budget violates a promise.

The clusters are shorter and busier than those of test_cluster.py, and struck by what the safeguard is there for:

* chain version: an isolated head has an update under way, is declared dead, returns and is filled, while its clients
  still wait; it must not answer for an update that the chain has never seen;
* dirty reads: a replica has a newer version pending, and somebody has read that at the tail already;
* self-fencing: an isolated daemon answers a client that hears as little as it does, while the chain goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.simulation.run import run_seed

CASES = [("chain-version", "isolation"), ("dirty-read", "delay and reordering"), ("self-fencing", "isolation")]
WORDS = ("not linearisable", "acknowledged write lost", "should have", "was written, but")


def find_violation(safeguard: str, fault: str, seeds: Sequence[int], seconds: float) -> int:
    """The first seed that shows what is missing, and nothing with the safeguard in place."""
    for seed in seeds:
        report = run_seed(seed, seconds=seconds, think_s=0.2, kinds=[fault], ablate=safeguard)
        if report.problems:
            assert any(word in report.problems[0] for word in WORDS), report.problems[0]
            whole = run_seed(seed, seconds=seconds, think_s=0.2, kinds=[fault])
            assert not whole.problems, f"seed {seed} fails with every safeguard in place: {whole.problems}"
            return seed
    pytest.fail(f"without {safeguard}, {len(seeds)} seeds showed nothing")


@pytest.mark.proof
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("safeguard", "fault"), CASES)
def test_a_missing_safeguard_is_found_from_any_seed(safeguard: str, fault: str) -> None:
    """From each of these starting points, a budget of twelve seeds is enough."""
    for start in (100, 200, 300):
        find_violation(safeguard, fault, range(start, start + 12), 60)
