"""The on-disk cache of cubins.

One file a kernel, named by the fingerprint of all that decides its contents, so an entry is never stale and never
rewritten. A writer fills a file of its own in the same folder and renames it into place; rename is atomic on local
and on shared file systems, so readers see a whole file or none and no lock is needed. Two processes that miss at
the same moment both compile (well under a second) and one of two equal files wins. A checksum in front catches
what a crash of the machine may have torn: such a file counts as a miss and is replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

from threefs.compute_kernels.jit.compiler import Compiled

__all__ = ["cache_folder", "load", "store"]

_MAGIC = b"3fscubin1\n"
_DIGEST_BYTES = 32


def cache_folder() -> Path:
    """THREEFS_KERNEL_CACHE, or DG_JIT_CACHE_DIR, or `~/.cache/3fs/kernels` (XDG_CACHE_HOME is respected)."""
    for variable in ("THREEFS_KERNEL_CACHE", "DG_JIT_CACHE_DIR"):
        if value := os.environ.get(variable):
            return Path(value)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "3fs" / "kernels"


def load(fingerprint: str, folder: Path | None = None) -> Compiled | None:
    """The stored kernel, or None if it is not there or damaged."""
    path = (folder or cache_folder()) / f"{fingerprint}.cubin"
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    digest, body = raw[len(_MAGIC) : len(_MAGIC) + _DIGEST_BYTES], raw[len(_MAGIC) + _DIGEST_BYTES :]
    if not raw.startswith(_MAGIC) or hashlib.sha256(body).digest() != digest:
        return None
    head, _, cubin = body.partition(b"\n")
    return Compiled(cubin, json.loads(head)["log"])


def store(fingerprint: str, compiled: Compiled, folder: Path | None = None) -> bool:
    """Write the kernel; False if the folder cannot be written, which costs only the next start's time."""
    folder = folder or cache_folder()
    body = json.dumps({"log": compiled.log}).encode() + b"\n" + compiled.cubin
    temporary: str | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{fingerprint[:16]}.", dir=folder)
        with os.fdopen(handle, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(body).digest() + body)
        os.replace(temporary, folder / f"{fingerprint}.cubin")
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        return False
    return True
