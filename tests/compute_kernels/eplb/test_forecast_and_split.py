"""Load forecasts, and the split of one batch over replicas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.compute_kernels.eplb.loads import draw

from threefs.compute_kernels.eplb import LoadForecast, PlacementError, make_plan, round_split, split_batch
from threefs.compute_kernels.eplb.plot import plot_load

pytestmark = pytest.mark.unit


def test_forecast_weighs_by_half_life_and_forgets_past_its_window() -> None:
    forecast = LoadForecast(window=2, half_life=1.0)
    for value in (1000.0, 3.0, 9.0):
        forecast.update(torch.full((1, 2), value))
    assert forecast.predict().tolist() == [[7.0, 7.0]]  # (9 + 3/2) / 1.5
    assert len(forecast) == 2


def test_forecast_with_infinite_half_life_is_the_mean() -> None:
    forecast = LoadForecast(window=9, half_life=float("inf"))
    forecast.update(torch.tensor([[1.0, 2.0]]))
    forecast.update(torch.tensor([[3.0, 6.0]]))
    assert forecast.predict().tolist() == [[2.0, 4.0]]


def test_forecast_errors_name_the_argument() -> None:
    with pytest.raises(PlacementError, match=r"^window: "):
        LoadForecast(window=0, half_life=1.0)
    with pytest.raises(PlacementError, match=r"^half_life: "):
        LoadForecast(window=1, half_life=0.0)
    forecast = LoadForecast(window=1, half_life=1.0)
    with pytest.raises(PlacementError, match=r"^load: nothing to predict"):
        forecast.predict()
    forecast.update(torch.ones(1, 2))
    with pytest.raises(PlacementError, match=r"^load: shape"):
        forecast.update(torch.ones(2, 2))


def peaks(plan_gpus: np.ndarray, split: torch.Tensor, gpus: int) -> np.ndarray:
    return np.array([np.bincount(plan_gpus, weights=row, minlength=gpus).max() for row in split.numpy()])


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), gpus=st.sampled_from([2, 4, 8]), law=st.sampled_from(["zipf", "ties", "gamma"]))
def test_both_splits_keep_totals_and_reach_the_same_peak(seed: int, gpus: int, law: str) -> None:
    plan = make_plan(draw("lognormal", 2, 16, seed), 32, 1, 1, gpus, policy="balanced")
    batch = draw(law, 2, 16, seed + 1)
    exact, filled = split_batch(plan, batch, "lp"), split_batch(plan, batch, "waterfill")
    for split in (exact, filled):
        assert (split >= 0).all()
        totals = torch.zeros(2, 16, dtype=torch.float64).scatter_add_(1, torch.from_numpy(plan.slot_expert), split)
        assert torch.allclose(totals, batch.double(), rtol=1e-9, atol=1e-9)
    best, near = (peaks(plan.problem.gpu_of_slot, split, gpus) for split in (exact, filled))
    even = plan.gpu_load_under(batch).max(1)
    assert (best <= even * (1 + 1e-9) + 1e-12).all()
    assert near == pytest.approx(best, rel=2e-3, abs=1e-9)


def test_rounding_keeps_every_experts_tokens() -> None:
    plan = make_plan(draw("zipf", 2, 16, 1), 32, 1, 1, 8, policy="balanced")
    tokens = torch.randint(0, 500, (2, 16)).float()
    rounded = round_split(plan, split_batch(plan, tokens))
    totals = torch.zeros(2, 16, dtype=torch.int64).scatter_add_(1, torch.from_numpy(plan.slot_expert), rounded)
    assert torch.equal(totals, tokens.long())


def test_split_errors_name_the_argument() -> None:
    plan = make_plan(torch.ones(1, 4), 8, 1, 1, 4)
    with pytest.raises(PlacementError, match=r"^load: expected shape"):
        split_batch(plan, torch.ones(1, 5))
    with pytest.raises(PlacementError, match=r"^method: "):
        split_batch(plan, torch.ones(1, 4), "guess")  # type: ignore[arg-type]


def test_plot_writes_a_figure(tmp_path: Path) -> None:
    weight = draw("zipf", 1, 16, 1)
    before, after = make_plan(torch.ones(1, 16), 24, 1, 1, 8), make_plan(weight, 24, 1, 1, 8, policy="balanced")
    plot_load(before, after, 0, tmp_path / "load.svg")
    text = (tmp_path / "load.svg").read_text()
    assert text.lstrip().startswith("<?xml")
    assert len(text) > 5000
