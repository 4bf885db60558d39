"""The mount behaves as a local file system does, for two users, under random operations."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.mount.memory import MemoryMount
from tests.mount.posix_machine import USERS, PosixMachine, User

pytestmark = pytest.mark.mount


def run(mounted: Path, local: Path, *, examples: int, steps: int) -> None:
    people = {name: User(name) for name in USERS}
    try:
        machine = type("Machine", (PosixMachine,), {"mounted": mounted, "local": local, "users": people})
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                print_blob=False,
            ),
        )
        assert machine.performed >= examples * 5
        assert machine.succeeded >= machine.performed // 20, f"{machine.succeeded} of {machine.performed} succeeded"
    finally:
        for user in people.values():
            user.close()


def test_same_as_a_local_folder(mounted: MemoryMount) -> None:
    with tempfile.TemporaryDirectory(prefix="3fs-local-") as local:
        Path(local).chmod(0o755)
        run(mounted.path, Path(local), examples=25, steps=40)
