"""What the experts' loads will be, from what they were.

`LoadForecast` is fed one [layers, experts] sample a step and read before each rebalancing. The rule it keeps:
a forecast is a weighted mean of samples seen, so it is finite, not negative, and sums to what samples sum to.
"""

from __future__ import annotations

from collections import deque

import torch

from threefs.compute_kernels.eplb.errors import PlacementError
from threefs.compute_kernels.eplb.problem import check_weight


class LoadForecast:
    """Exponential moving average over the last `window` samples.

    `half_life` is the number of samples after which one counts half; infinite gives the plain mean of the
    window. Samples older than the window count nothing, so a change of traffic is forgotten for certain.
    """

    def __init__(self, window: int, half_life: float) -> None:
        if window < 1:
            raise PlacementError("window", f"expected a whole number from 1 up, got {window!r}")
        if not half_life > 0:
            raise PlacementError("half_life", f"expected a number of samples above 0, got {half_life!r}")
        self.decay = 0.5 ** (1.0 / half_life)
        self._samples: deque[torch.Tensor] = deque(maxlen=window)

    def __len__(self) -> int:
        return len(self._samples)

    def update(self, load: torch.Tensor) -> None:
        """Add the loads counted since the last call."""
        sample = check_weight(load, "load").double()
        if self._samples and sample.shape != self._samples[0].shape:
            raise PlacementError(
                "load", f"shape {list(sample.shape)} after samples of shape {list(self._samples[0].shape)}"
            )
        self._samples.append(sample)

    def predict(self) -> torch.Tensor:
        """The expected next sample, float32 [layers, experts]."""
        if not self._samples:
            raise PlacementError("load", "nothing to predict from; call update() at least once first")
        ages = torch.arange(len(self._samples) - 1, -1, -1, dtype=torch.float64)
        share = self.decay**ages
        share /= share.sum()
        return torch.einsum("s,sle->le", share, torch.stack(list(self._samples))).float()
