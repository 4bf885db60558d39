"""Builds the native modules (`native/`) into wheels; a checkout builds them in place (`make native`)."""

import sys
from pathlib import Path

from setuptools import setup

sys.path.insert(0, str(Path(__file__).parent / "src"))

IN_PLACE = any("editable" in argument for argument in sys.argv)
setup(cffi_modules=[] if IN_PLACE else ["native/build_core.py:ffi", "native/build_fuse.py:ffi"])
