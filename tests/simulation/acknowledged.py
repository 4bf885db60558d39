"""Is every acknowledged write there at the end, unless another one replaced it?

Narrower than linearisability and independent of its theorem: after healing, what a register holds must not have been
overwritten by a write that began after it had ended and was acknowledged.
"""

from __future__ import annotations

from tests.simulation.history import History, Operation, Register


def violations(history: History, final: dict[Register, int]) -> list[str]:
    """One sentence for each acknowledged write that is gone. `final`: what every register held after healing."""
    found = []
    for register, operations in history.by_register().items():
        writes = {operation.value: operation for operation in operations if operation.kind == "write"}
        kept = writes.get(final[register])
        lost = [write for write in writes.values() if write.done and _must_show_over(write, kept, final[register])]
        found += [f"acknowledged write lost: {write}; the register holds {final[register]}" for write in lost[:1]]
    return found


def _must_show_over(write: Operation, kept: Operation | None, value: int) -> bool:
    if write.value == value:
        return False
    return kept is None or kept.end < write.start
