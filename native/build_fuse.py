"""Builder of `_fuse`: the bridge between /dev/fuse and Python, on libfuse 3."""

from threefs.native.builder import module

ffi = module("_fuse", ["fuse_bridge"], libraries=["fuse3"], macros=[])
