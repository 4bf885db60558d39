"""Which platform this process was started by, told from its environment alone."""

from __future__ import annotations

from collections.abc import Mapping

SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")  # Open MPI; MPICH and Intel MPI; MVAPICH


def mpi_ranks(environment: Mapping[str, str]) -> int:
    """How many ranks the mpirun around this process has; 0 without one."""
    return max((int(environment[name]) for name in SIZE_VARIABLES if environment.get(name, "").isdigit()), default=0)


def default_executor(platform: str | None, ray_address: str | None, environment: Mapping[str, str]) -> str:
    """The executor of a session that names none."""
    if ray_address:
        return "ray"
    if platform == "mpi" or (platform is None and mpi_ranks(environment) > 1):
        return "mpi"
    return "local"
