"""Turns a kernel's source into a cubin for sm_90a: NVRTC in this process, or nvcc if asked by name.

Kernels are `.cu` files next to the Python that launches them; constants go in as `-D`. Called by `kernel`. The
one rule: what goes into a cubin is in its `KernelSource`, so that `fingerprint()` identifies the result.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from threefs.compute_kernels.errors import CompileFailed, DeviceUnavailable
from threefs.compute_kernels.jit.wgmma import Wgmma, header

__all__ = ["ARCHITECTURE", "Compiled", "KernelSource", "chosen_compiler", "compile_source", "compiler_signature"]

ARCHITECTURE = "sm_90a"
CompilerName = Literal["nvrtc", "nvcc"]
_HEADER_FOLDER = Path(__file__).parent
_FLAGS = ("--std=c++17", "--ptxas-options=-v", "--device-as-default-execution-space")
_NVCC_FLAGS = ("--std=c++17", "-O3", "-Xptxas=-v")


@dataclass(frozen=True)
class KernelSource:
    """A kernel to compile: file, entry point, constants and the matrix shapes it uses."""

    file: Path
    entry: str
    constants: tuple[tuple[str, int], ...] = ()
    wgmma: tuple[Wgmma, ...] = ()

    @property
    def name(self) -> str:
        return self.entry + "".join(f" {key}={value}" for key, value in self.constants)

    @cached_property
    def headers(self) -> dict[str, str]:
        own = {path.name: path.read_text() for path in sorted(_HEADER_FOLDER.glob("*.cuh"))}
        own |= {path.name: path.read_text() for path in sorted(self.file.parent.glob("*.cuh"))}
        return own | {"wgmma.cuh": header(self.wgmma)}

    @cached_property
    def text(self) -> str:
        return self.file.read_text()

    def fingerprint(self, compiler: str) -> str:
        """Hex digest of everything that decides the cubin. `compiler` is `compiler_signature()`."""
        digest = hashlib.sha256()
        parts = [compiler, ARCHITECTURE, self.entry, repr(self.constants), self.text]
        for name, text in sorted(self.headers.items()):
            parts += [name, text]
        for part in parts:
            encoded = part.encode()
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.hexdigest()


@dataclass(frozen=True)
class Compiled:
    """A cubin and what the assembler reported about the entry point."""

    cubin: bytes
    log: str = field(repr=False)

    def _number(self, pattern: str) -> int:
        found = re.search(pattern, self.log)
        assert found is not None, self.log
        return int(found.group(1))

    @property
    def registers(self) -> int:
        return self._number(r"Used (\d+) registers")

    @property
    def spill_bytes(self) -> int:
        return self._number(r"(\d+) bytes spill stores") + self._number(r"(\d+) bytes spill loads")

    @property
    def stack_bytes(self) -> int:
        return self._number(r"(\d+) bytes stack frame")


def chosen_compiler() -> CompilerName:
    """`nvrtc`, or what THREEFS_KERNEL_COMPILER says."""
    name = os.environ.get("THREEFS_KERNEL_COMPILER", "nvrtc")
    if name == "nvrtc":
        return "nvrtc"
    if name == "nvcc":
        return "nvcc"
    raise CompileFailed("kernels", name, f"THREEFS_KERNEL_COMPILER is {name!r}; it may be 'nvrtc' or 'nvcc'")


@cache
def compiler_signature(compiler: CompilerName) -> str:
    """Name, version and flags; part of every cache key."""
    if compiler == "nvrtc":
        nvrtc = _nvrtc()
        code, major, minor = nvrtc.nvrtcVersion()
        assert int(code) == 0, code
        return f"nvrtc {major}.{minor} {' '.join(_FLAGS)}"
    text = subprocess.run([_nvcc(), "--version"], capture_output=True, text=True, check=True).stdout
    return f"nvcc {text.strip().splitlines()[-1]} {' '.join(_NVCC_FLAGS)}"


def compile_source(source: KernelSource, compiler: CompilerName | None = None) -> Compiled:
    """Compile, or raise `CompileFailed` with the compiler's log."""
    compiler = compiler or chosen_compiler()
    return _compile_nvrtc(source) if compiler == "nvrtc" else _compile_nvcc(source)


def _nvrtc() -> Any:  # the binding has no stubs
    try:
        from cuda.bindings import nvrtc
    except ImportError as exc:
        raise DeviceUnavailable("cuda.bindings is not installed: pip install 'threefs[kernels]'") from exc
    return nvrtc


def _compile_nvrtc(source: KernelSource) -> Compiled:
    nvrtc = _nvrtc()
    names = [name.encode() for name in source.headers]
    texts = [text.encode() for text in source.headers.values()]
    code, program = nvrtc.nvrtcCreateProgram(source.text.encode(), source.file.name.encode(), len(names), texts, names)
    assert int(code) == 0, code
    try:
        options = [f"--gpu-architecture={ARCHITECTURE}".encode(), *(flag.encode() for flag in _FLAGS)]
        options += [f"-D{key}={value}".encode() for key, value in source.constants]
        (code,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        log = b" " * size
        nvrtc.nvrtcGetProgramLog(program, log)
        text = log.decode(errors="replace").rstrip("\0 \n")
        if int(code) != 0:
            raise CompileFailed(source.name, "nvrtc", text)
        _, size = nvrtc.nvrtcGetCUBINSize(program)
        cubin = b" " * size
        nvrtc.nvrtcGetCUBIN(program, cubin)
        return Compiled(cubin, text)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _nvcc() -> str:
    found = os.environ.get("THREEFS_NVCC") or shutil.which("nvcc")
    if found is None:
        raise CompileFailed(
            "kernels", "nvcc", "nvcc is not on PATH: set THREEFS_NVCC or use THREEFS_KERNEL_COMPILER=nvrtc"
        )
    return found


def _compile_nvcc(source: KernelSource) -> Compiled:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, text in source.headers.items():
            (folder / name).write_text(text)
        kernel = folder / source.file.name
        kernel.write_text(source.text)
        output = folder / "kernel.cubin"
        number = ARCHITECTURE.removeprefix("sm_")
        command = [_nvcc(), "-cubin", f"-gencode=arch=compute_{number},code={ARCHITECTURE}", *_NVCC_FLAGS]
        command += [f"-D{key}={value}" for key, value in source.constants]
        done = subprocess.run([*command, "-o", str(output), str(kernel)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CompileFailed(source.name, "nvcc", done.stderr)
        return Compiled(output.read_bytes(), done.stderr)
