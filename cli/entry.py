"""Where commands and daemons begin: the event loop, and what becomes of errors. Imports what both need, no more."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from threefs.common.errors import ThreefsError, UserError

T = TypeVar("T")


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine on uvloop."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def guarded(main: Callable[[], object]) -> None:
    """Runs `main`; errors that a user caused are one sentence and a hint, exit code as they say."""
    try:
        main()
    except (UserError, ThreefsError) as exc:
        from threefs.cli.output import fail

        sys.exit(fail(exc))
    except OSError as exc:
        if exc.filename is None:  # of no file that a user named
            raise
        from threefs.cli.output import fail

        sys.exit(fail(UserError(f"{exc.filename}: {exc.strerror}", "check the path and its permissions")))
