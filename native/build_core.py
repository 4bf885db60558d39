"""Builder of `_core`: buffers, checksums, I/O batches, the chunk engine, record sort."""

from threefs.native.builder import module

PARTS = ["buffers", "crc32c", "kv_store", "gensort", "record_sort"]

ffi = module("_core", PARTS, libraries=["uring", "lmdb"], macros=[])
