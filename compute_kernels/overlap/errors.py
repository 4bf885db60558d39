"""What can be wrong with a trace or a rule file. The message names the file and what to do.

Raised by the whole of `threefs.compute_kernels.overlap`, printed by its command without a traceback.
"""

from __future__ import annotations

from threefs.compute_kernels.errors import InvalidInput


class TraceError(InvalidInput):
    """The file is no trace that can be analysed, or the request does not fit it."""
