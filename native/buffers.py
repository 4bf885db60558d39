"""Aligned, pooled buffers as memoryviews. Dropping the last view gives the memory back to the pool."""

from __future__ import annotations

from threefs.native._core import ffi, lib

_allocate = ffi.new_allocator(lib.buffer_alloc, lib.buffer_free, should_clear_after_alloc=False)


def buffer(size: int) -> memoryview:
    """A writable view of `size` bytes at a 4096-byte boundary; content is undefined. MemoryError if there is none."""
    assert size >= 0, f"buffer of {size} bytes"
    return memoryview(ffi.buffer(_allocate("char[]", max(size, 1)), size))
