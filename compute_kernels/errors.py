"""The exceptions of `compute_kernels`, by what the caller can do about them.

`compute_kernels` works without the rest of 3fs, so it has its own small tree. Every message carries the values
that were seen and the next step.

* `KernelError` – the root.
  * `InvalidInput` – a tensor or number is not what the kernel takes: fix the call. Also a `ValueError`.
  * `DeviceUnavailable` – no driver, no GPU, or one that is no Hopper: use another machine.
  * `CompileFailed` – the compiler refused a kernel; carries its log. A bug of ours or a broken tool chain.
  * `DriverError` – a CUDA driver call failed; carries the call and the driver's name for the error.
"""

from __future__ import annotations

__all__ = ["CompileFailed", "DeviceUnavailable", "DriverError", "InvalidInput", "KernelError"]


class KernelError(Exception):
    """Anything that this package raises on purpose."""


class InvalidInput(KernelError, ValueError):
    """An argument has the wrong dtype, shape, stride, alignment or value."""


class DeviceUnavailable(KernelError, RuntimeError):
    """The kernel cannot run on this machine."""


class CompileFailed(KernelError, RuntimeError):
    """The CUDA compiler refused a kernel. `log` is what it said."""

    def __init__(self, kernel: str, compiler: str, log: str) -> None:
        super().__init__(f"{compiler} could not compile {kernel}:\n{log.strip()}")
        self.kernel = kernel
        self.log = log


class DriverError(KernelError, RuntimeError):
    """A driver call failed. A failed launch leaves the context unusable: start a new process."""

    def __init__(self, call: str, code: int, name: str, hint: str = "") -> None:
        super().__init__(f"{call} failed with {name} ({code})" + (f": {hint}" if hint else ""))
        self.code = code
