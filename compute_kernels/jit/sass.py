"""Looks into a cubin: which machine instructions it holds, and whether registers went to local memory.

For tests and for the bench; needs `nvdisasm` (the package nvidia-cuda-nvdisasm, or a CUDA toolkit on PATH).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections import Counter
from pathlib import Path

from threefs.compute_kernels.errors import KernelError

__all__ = ["disassemble", "find_nvdisasm", "opcodes", "sequence"]

_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)((?:\.\w+)*)", re.MULTILINE)


def find_nvdisasm() -> str:
    packages = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
    for found in sorted(packages.glob("*/bin/nvdisasm")):
        return str(found)
    on_path = shutil.which("nvdisasm")
    if on_path is None:
        raise KernelError("nvdisasm is not installed: pip install nvidia-cuda-nvdisasm")
    return on_path


def disassemble(cubin: bytes) -> str:
    """The SASS listing of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([find_nvdisasm(), "-c", file.name], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise KernelError(f"nvdisasm failed: {done.stderr.strip()}")
    return done.stdout


def sequence(listing: str) -> list[str]:
    """The instructions' names in order, without their shapes."""
    return [name for name, _ in _INSTRUCTION.findall(listing)]


def opcodes(listing: str) -> Counter[str]:
    """How often each instruction occurs, as `QGMMA` and also with its shape, as `QGMMA.64x128x32`."""
    counts: Counter[str] = Counter()
    for name, modifiers in _INSTRUCTION.findall(listing):
        counts[name] += 1
        if shape := re.match(r"\.\d+x\d+x\d+", modifiers):
            counts[name + shape.group()] += 1
    return counts
