"""MPI's own starter as a platform: `mpirun` puts the workers on the hosts of its allocation."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from threefs.smallpond.errors import PlanError
from threefs.smallpond.platform.base import Platform


class MPI(Platform):
    """For scripts that run outside of mpirun; inside of one, its ranks are the workers (`executors.mpi`)."""

    @staticmethod
    def is_available() -> bool:
        return shutil.which("mpirun") is not None

    def start_job(
        self,
        num_nodes: int,
        entrypoint: str,
        args: Sequence[str],
        envs: Mapping[str, str] | None = None,
        extra_opts: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """One mpirun for all nodes: its end is theirs."""
        mpirun = shutil.which("mpirun")
        if mpirun is None:
            raise PlanError(
                "platform='mpi' starts its workers with mpirun, which is not on the path (Debian: openmpi-bin)"
            )
        given = dict(envs or {})
        exports = [part for name in given for part in ("-x", name)]
        as_root = ["--allow-run-as-root"] if os.geteuid() == 0 else []
        command = [mpirun, "-n", str(num_nodes), "--oversubscribe", *as_root, *exports, sys.executable, entrypoint]
        return [self._start([*command, *args], given)]
