"""Builds the native modules (`native/`) into wheels; a checkout builds them in place (`make native`)."""

import os
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT / "src"))


class BuildExtensions(build_ext):
    """Builders name sources by absolute paths, because cffi compiles elsewhere; a manifest wants relative ones."""

    def get_source_files(self) -> list[str]:
        return [os.path.relpath(path, ROOT) for path in super().get_source_files()]


IN_PLACE = any("editable" in argument for argument in sys.argv)
setup(
    cffi_modules=[] if IN_PLACE else ["native/build_core.py:ffi", "native/build_fuse.py:ffi"],
    cmdclass={"build_ext": BuildExtensions},
)
