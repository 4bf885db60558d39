"""Expert-parallel load balancing: which expert's replicas lie on which GPU. See docs/eplb.md."""

from threefs.compute_kernels.eplb.api import make_plan, rebalance_experts
from threefs.compute_kernels.eplb.errors import PlacementError
from threefs.compute_kernels.eplb.forecast import LoadForecast
from threefs.compute_kernels.eplb.plan import Move, Plan
from threefs.compute_kernels.eplb.split import round_split, split_batch

__all__ = [
    "LoadForecast",
    "Move",
    "PlacementError",
    "Plan",
    "make_plan",
    "rebalance_experts",
    "round_split",
    "split_batch",
]
