"""Which platform this process was started by, told from its environment alone."""

from __future__ import annotations

from collections.abc import Mapping

SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")  # Open MPI; MPICH and Intel MPI; MVAPICH
LOCAL_VARIABLES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE")


def mpi_ranks(environment: Mapping[str, str]) -> int:
    """How many ranks the mpirun around this process has; 0 without one."""
    return max((int(environment[name]) for name in SIZE_VARIABLES if environment.get(name, "").isdigit()), default=0)


def local_ranks(environment: Mapping[str, str]) -> int:
    """How many of them share this host; 1 without an mpirun."""
    return max((int(environment[name]) for name in LOCAL_VARIABLES if environment.get(name, "").isdigit()), default=1)


def default_executor(
    platform: str | None, ray_address: str | None, environment: Mapping[str, str], num_executors: int = 0
) -> str:
    """The executor of a session that names none: workers that a platform is to start meet in a file queue."""
    if ray_address:
        return "ray"
    if mpi_ranks(environment) > 1 and platform in (None, "mpi"):
        return "mpi"
    if num_executors > 0:
        return "filequeue"
    return "mpi" if platform == "mpi" else "local"
