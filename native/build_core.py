"""Builder of `_core`: buffers, checksums, I/O batches, the chunk engine, record sort."""

from threefs.native.builder import module

PARTS = ["buffers", "crc32c", "kv_store", "gensort", "record_sort", "shuffle", "engine", "read_reply"]
INNER = [
    "io_table",
    "uring",
    "blocks",
    "chunks",
    "records",
    "engine_frame",
    "engine_list",
    "engine_query",
    "engine_reader",
    "engine_recover",
    "engine_finished",
    "engine_flush",
    "engine_stage",
    "engine_writer",
]

ffi = module("_core", PARTS, inner=INNER, libraries=["uring", "lmdb"], macros=[])
