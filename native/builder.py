"""How a native module is put together: headers declare, C files define, cffi joins them.

Each `native/<name>.h` holds, between `/* cffi:begin */` and `/* cffi:end */`, the declarations that Python sees.
The header is the contract; nothing is declared a second time in Python strings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import cffi

HERE = Path(__file__).resolve().parent
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Wno-unused-parameter", "-Wno-sign-conversion"]
CPU = ["-msse4.2", "-mpclmul"]

_SECTION = re.compile(r"/\* cffi:begin \*/(.*?)/\* cffi:end \*/", re.DOTALL)


def declarations(header: Path) -> str:
    """The cffi section of a header; AssertionError if it has none."""
    sections = _SECTION.findall(header.read_text())
    assert sections, f"{header} has no cffi section"
    return "\n".join(sections)


def module(
    name: str, parts: list[str], *, libraries: list[str], macros: list[tuple[str, str]], inner: Sequence[str] = ()
) -> cffi.FFI:
    """An FFI for module `name` (`_core`, `_fuse`) made of `<part>.h` and `<part>.c` for each part, in order.

    `inner` names further C files, whose headers Python does not see.
    """
    ffi = cffi.FFI()
    for part in parts:
        ffi.cdef(declarations(HERE / f"{part}.h"))
    ffi.set_source(
        f"threefs.native.{name}",
        "\n".join(f'#include "{part}.h"' for part in parts),
        sources=[str(HERE / f"{part}.c") for part in [*parts, *inner]],
        include_dirs=[str(HERE)],
        libraries=libraries,
        define_macros=[("_GNU_SOURCE", "1"), *macros],
        extra_compile_args=["-O2", "-g", "-std=c11", *CPU, *WARNINGS],
        extra_link_args=["-pthread"],
    )
    return ffi
