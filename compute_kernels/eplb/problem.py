"""The placement problem: its sizes, its loads, and where each GPU's slots lie.

Built by `api.py` from user arguments, read by every policy. The rule it keeps: a `Problem` that exists is
consistent, so that no policy checks sizes again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from threefs.compute_kernels.eplb.errors import PlacementError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

LOAD_SUM_MAX = 1e38  # float32 ends at 3.4e38; a pack's load must stay finite to be told from a full pack


@dataclass(frozen=True)
class Problem:
    """Loads of `layers x experts`, to be spread as `num_replicas` replicas over `num_gpus` GPUs."""

    weight: torch.Tensor  # float32, on the CPU, [layers, experts], finite and >= 0
    num_replicas: int
    num_groups: int
    num_nodes: int
    num_gpus: int

    @property
    def num_layers(self) -> int:
        return int(self.weight.shape[0])

    @property
    def num_experts(self) -> int:
        return int(self.weight.shape[1])

    @cached_property
    def loads(self) -> Floats:
        return self.weight.numpy().astype(np.float64)

    @cached_property
    def is_hierarchical(self) -> bool:
        """Groups stay whole on a node. As published, this needs whole groups per node; else all is global."""
        return (
            self.num_groups % self.num_nodes == 0
            and self.num_experts % self.num_groups == 0
            and self.num_gpus % self.num_nodes == 0
        )

    @property
    def num_domains(self) -> int:
        """Independent sub-problems a layer: its nodes when hierarchical, otherwise one."""
        return self.num_nodes if self.is_hierarchical else 1

    @property
    def gpus_per_domain(self) -> int:
        return self.num_gpus // self.num_domains

    @cached_property
    def slots_per_gpu(self) -> Ints:
        """Slots of each GPU. The remainder goes out one a GPU, round the domains, so they differ by one at most."""
        base, extra = divmod(self.num_replicas, self.num_gpus)
        gpu = np.arange(self.num_gpus)
        turn = (gpu % self.gpus_per_domain) * self.num_domains + gpu // self.gpus_per_domain
        return base + (turn < extra).astype(np.int64)

    @cached_property
    def gpu_of_slot(self) -> Ints:
        return np.repeat(np.arange(self.num_gpus, dtype=np.int64), self.slots_per_gpu)

    def node_of_gpu(self, gpu: int) -> int:
        return gpu * self.num_nodes // self.num_gpus

    def check_published(self) -> None:
        """Refuse the sizes that the published policy cannot place."""
        if self.num_replicas % self.num_gpus:
            raise PlacementError(
                "num_replicas",
                f"{self.num_replicas} replicas do not divide over {self.num_gpus} GPUs; "
                'use a multiple, or policy="balanced", which takes any number',
            )
        if self.num_groups % self.num_nodes:
            return
        if self.num_experts % self.num_groups:
            raise PlacementError(
                "num_groups",
                f"{self.num_experts} experts do not divide into {self.num_groups} groups; "
                'use a divisor, or policy="balanced"',
            )
        if self.num_gpus % self.num_nodes:
            raise PlacementError(
                "num_gpus",
                f'{self.num_gpus} GPUs do not divide over {self.num_nodes} nodes; use a multiple, or policy="balanced"',
            )


def make_problem(weight: torch.Tensor, num_replicas: int, num_groups: int, num_nodes: int, num_gpus: int) -> Problem:
    """Check every argument that all policies share. Raises `PlacementError`, which names the argument."""
    _check_count("num_replicas", num_replicas)
    _check_count("num_groups", num_groups)
    _check_count("num_nodes", num_nodes)
    _check_count("num_gpus", num_gpus)
    problem = Problem(check_weight(weight), num_replicas, num_groups, num_nodes, num_gpus)
    if num_replicas < problem.num_experts:
        raise PlacementError(
            "num_replicas",
            f"{num_replicas} replicas cannot hold {problem.num_experts} experts; give at least one for each",
        )
    return problem


def check_weight(weight: torch.Tensor, argument: str = "weight") -> torch.Tensor:
    """The loads as float32 on the CPU, or a `PlacementError` that says what is wrong with them."""
    if not isinstance(weight, torch.Tensor):
        raise PlacementError(argument, f"expected a torch.Tensor, got {type(weight).__name__}")
    if weight.ndim != 2 or 0 in weight.shape:
        raise PlacementError(
            argument, f"expected [layers, experts], neither of them empty, got shape {list(weight.shape)}"
        )
    loads = weight.detach().float().cpu().contiguous()
    if not bool(torch.isfinite(loads).all()) or bool((loads < 0).any()):
        raise PlacementError(argument, "loads must be finite and not negative; clamp or drop the bad samples")
    if float(loads.double().sum(-1).max()) > LOAD_SUM_MAX:
        raise PlacementError(
            argument, f"a layer's loads sum to more than {LOAD_SUM_MAX:g}; scale them down, only ratios count"
        )
    return loads


def _check_count(argument: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PlacementError(argument, f"expected a whole number from 1 up, got {value!r}")
