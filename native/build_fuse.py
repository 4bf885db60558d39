"""Builder of `_fuse`: the bridge between /dev/fuse and Python, on libfuse 3."""

from threefs.native.builder import module

PARTS = ["fuse_requests", "fuse_answers", "fuse_bridge", "fuse_lookup"]

ffi = module("_fuse", PARTS, libraries=["fuse3"], macros=[], inner=["crc32c"])
