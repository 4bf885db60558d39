"""The simulation finds what each safeguard prevents: with it switched off, some seed of the budget violates a promise.

Each safeguard has a scenario (`scenarios`) that meets the moment for which it is there:

* chain version: an isolated head has an update under way, is declared dead, returns and is filled, while its clients
  still wait; it must not answer for an update that the chain has never seen;
* dirty reads: a replica has a newer version pending, and somebody has read that at the tail already;
* self-fencing: an isolated daemon answers a client that hears as little as it does, while the chain goes on.

With every safeguard in place no seed of any scenario may show anything.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pytest
from tests.simulation.run import run_scenario
from tests.simulation.scenarios import SCENARIOS

CASES = [("chain-version", "returning head"), ("dirty-read", "slow way back"), ("self-fencing", "forgotten daemon")]
FIRST = {"chain-version": 5, "dirty-read": 1, "self-fencing": 1}  # where the search is short today
WORDS = ("not linearisable", "acknowledged write lost")
BUDGET = 30  # seeds: about every third shows it


def find_violation(safeguard: str, scenario: str, seeds: Sequence[int]) -> int:
    """The first seed that shows what is missing, and nothing with the safeguard in place."""
    for seed in seeds:
        report = run_scenario(scenario, seed, ablate=safeguard)
        if any(word in problem for problem in report.problems for word in WORDS):
            whole = run_scenario(scenario, seed)
            assert not whole.problems, f"replay with: {whole.replay}\n" + "\n".join(whole.problems)
            return seed
    pytest.fail(f"without {safeguard}, {len(seeds)} seeds showed nothing")


@pytest.mark.sim
@pytest.mark.parametrize(("safeguard", "scenario"), CASES)
def test_a_missing_safeguard_is_found(safeguard: str, scenario: str) -> None:
    find_violation(safeguard, scenario, range(FIRST[safeguard], FIRST[safeguard] + BUDGET))


@pytest.mark.proof
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("safeguard", "scenario"), CASES)
def test_a_missing_safeguard_is_found_from_any_seed(safeguard: str, scenario: str) -> None:
    for start in range(100, 600, 50):
        find_violation(safeguard, scenario, range(start, start + BUDGET))


@pytest.mark.proof
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_seed_of_a_scenario_shows_anything(scenario: str) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for report in pool.map(partial(run_scenario, scenario), range(1000, 1120)):
            assert not report.problems, f"replay with: {report.replay}\n" + "\n".join(report.problems)
            assert report.counts["acknowledged"] >= 300
