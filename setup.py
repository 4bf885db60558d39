"""Builds the native modules (`native/`) with the package; everything else is in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=["native/build_core.py:ffi", "native/build_fuse.py:ffi"])
