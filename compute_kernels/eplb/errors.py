"""What can be wrong with a placement request. Every message names the argument, its value and what would do.

Raised by the whole of `threefs.compute_kernels.eplb`. All are the caller's to mend, hence
`InvalidInput`, which is a `ValueError` too.
"""

from __future__ import annotations

from threefs.compute_kernels.errors import InvalidInput


class PlacementError(InvalidInput):
    """An argument of a placement function cannot be honoured."""

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(f"{argument}: {problem}")
        self.argument = argument
