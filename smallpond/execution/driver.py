"""The driver of programs that build a logical plan themselves: their arguments, a job, one run.

driver = Driver()
driver.add_argument("-i", "--input", required=True)
user_args, driver_args = driver.parse_arguments()
driver.run(my_plan(**user_args))
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from threefs.smallpond.config import SessionConfig
from threefs.smallpond.errors import PlanError
from threefs.smallpond.execution.execution_plan import ExecutionPlan, run_plan
from threefs.smallpond.execution.job import Job
from threefs.smallpond.execution.policy import SpeculationPolicy
from threefs.smallpond.executors.surroundings import ALLOCATORS
from threefs.smallpond.io import filesystem
from threefs.smallpond.logical.node import LogicalPlan

# `scheduler` is the name that programs written for smallpond pass for "here, and on executors that were started".
MODES = {"local": "local", "scheduler": "local", "ray": "ray", "mpi": "mpi", "filequeue": "filequeue"}
SPECULATION = {
    "disable": SpeculationPolicy(enabled=False),
    "enable": SpeculationPolicy(),
    "aggressive": SpeculationPolicy(factor=1.5),
}


class Driver:
    """Arguments of the user and of the driver in one command line; the first word is the mode."""

    def __init__(self) -> None:
        self.user_arguments = argparse.ArgumentParser(add_help=False)
        self._driver_arguments = self._make_parser()
        self._user: argparse.Namespace | None = None
        self._driver: argparse.Namespace | None = None

    def _make_parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(add_help=False)
        parser.add_argument("mode", nargs="?", default="local", choices=sorted(MODES), help="where tasks run")
        parser.add_argument("--job_id", help="name of the job; the same name goes on where it stopped")
        parser.add_argument("--job_time", help="ISO time, or seconds since 1970, that belongs to the name")
        parser.add_argument("--job_name", help="what the platform calls it")
        parser.add_argument("--data_root", help="folder for results and working files, shared by all hosts")
        parser.add_argument("--output_path", help="folder for outputs that have a name and no path of their own")
        parser.add_argument("--num_executors", type=int, default=0, help="workers that the platform starts")
        parser.add_argument("--platform", help="mpi, or a module with a Platform subclass")
        parser.add_argument("--env_variables", nargs="*", default=[], metavar="NAME=VALUE", help="for the workers")
        parser.add_argument("--random_seed", type=int, help="of random() and of the tasks' own generators")
        _add_failures(parser)
        parser.add_argument("--enforce_memory_limit", action="store_true")
        parser.add_argument("--malloc", "--memory_allocator", dest="memory_allocator", help=" or ".join(ALLOCATORS))
        parser.add_argument("--bind_numa_node", action="store_true", help="workers stay on one NUMA node each")
        parser.add_argument("--remove_output_root", action="store_true", help="keep no output at a successful end")
        return parser

    def add_argument(self, *args: Any, **kwargs: Any) -> None:
        self.user_arguments.add_argument(*args, **kwargs)

    def parse_arguments(self, args: list[str] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """(the user's, the driver's) arguments; unknown ones end the program with the usage of both."""
        whole = argparse.ArgumentParser(parents=[self._driver_arguments, self.user_arguments])
        whole.parse_args(args)
        self._driver, _ = self._driver_arguments.parse_known_args(args)
        found = vars(whole.parse_args(args))
        driver_names = vars(self._driver)
        self._user = argparse.Namespace(**{name: value for name, value in found.items() if name not in driver_names})
        self._driver = argparse.Namespace(**{name: found[name] for name in driver_names})
        return self.get_user_arguments(), self.get_driver_arguments()

    def _parsed(self) -> tuple[argparse.Namespace, argparse.Namespace]:
        if self._user is None or self._driver is None:
            self.parse_arguments()
        assert self._user is not None
        assert self._driver is not None
        return self._user, self._driver

    def get_user_arguments(self, to_dict: bool = True) -> Any:
        return vars(self._parsed()[0]) if to_dict else self._parsed()[0]

    get_arguments = get_user_arguments

    def get_driver_arguments(self, to_dict: bool = True) -> Any:
        return vars(self._parsed()[1]) if to_dict else self._parsed()[1]

    @property
    def mode(self) -> str:
        return str(self._parsed()[1].mode)

    @property
    def job_id(self) -> str | None:
        found: str | None = self._parsed()[1].job_id
        return found

    @property
    def data_root(self) -> str | None:
        found: str | None = self._parsed()[1].data_root
        return found

    @property
    def num_executors(self) -> int:
        return int(self._parsed()[1].num_executors)

    def run(self, plan: LogicalPlan, stop_process_on_done: bool = True, tags: list[str] | None = None) -> ExecutionPlan:
        """Run the plan. A failure raises; with `stop_process_on_done` a success ends the program with status 0."""
        config = _config_of(self._parsed()[1])
        job = Job(config)
        try:
            found = run_plan(job, plan)
        finally:
            job.close(failed=job.failed)
        if stop_process_on_done:
            sys.exit(0)
        return found


def _add_failures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max_fail", "--max_fail_count", dest="max_fail_count", type=int, default=3, help="failures")
    parser.add_argument("--max_retry", "--max_retry_count", dest="max_retry_count", type=int, default=5, help="losses")
    parser.add_argument(
        "--fault_inject", "--fault_inject_prob", dest="fault_inject_prob", type=float, default=0.0, help="for tests"
    )
    parser.add_argument("--speculative_exec", choices=tuple(SPECULATION), default="enable", help="race slow tasks")
    for level in ("enable", "disable"):
        parser.add_argument(
            f"--{level}_speculative_exec", dest="speculative_exec", action="store_const", const=level, help=level
        )


def _config_of(given: argparse.Namespace) -> SessionConfig:
    wrong = [pair for pair in given.env_variables if "=" not in pair]
    if wrong:
        raise PlanError(f"--env_variables {wrong[0]!r} is not of the form NAME=VALUE")
    context: dict[str, Any] = {
        "fault_inject_prob": given.fault_inject_prob,
        "enforce_memory_limit": given.enforce_memory_limit,
        "env_overrides": dict(pair.split("=", 1) for pair in given.env_variables),
    }
    if given.random_seed is not None:
        context["random_seed"] = given.random_seed
    options = {
        "context": context,
        "speculation": SPECULATION[given.speculative_exec],
        "losses_max": given.max_retry_count,
        "output_path": given.output_path and filesystem.absolute(given.output_path),
    }
    named = ("job_id", "job_time", "job_name", "data_root", "num_executors", "platform")
    arguments = {name: getattr(given, name) for name in (*named, "memory_allocator", "bind_numa_node")}
    return SessionConfig.resolve(
        {
            **arguments,
            "executor": MODES[given.mode] if not (given.num_executors and given.mode == "scheduler") else None,
            "retries": given.max_fail_count,
            "optimize": False,
            "executor_options": options,
            "_remove_output_root": given.remove_output_root,
        }
    )
