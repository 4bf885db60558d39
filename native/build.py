"""Builds the native modules in place: `python -m threefs.native.build`. Does nothing if they are current."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from shutil import copyfile

HERE = Path(__file__).resolve().parent
SCRATCH = HERE.parent / "build" / "native"


def is_current(module: str) -> bool:
    """True if the built module is newer than every source, header and builder in the folder."""
    sources = [path for path in [*HERE.glob("*.[ch]"), *HERE.glob("build*.py")] if not path.name.startswith("_")]
    built = list(HERE.glob(f"{module}.*.so"))
    return bool(built) and built[0].stat().st_mtime >= max(source.stat().st_mtime for source in sources)


def main() -> int:
    for module in ("_core", "_fuse"):
        if (HERE / f"build{module}.py").exists() and not is_current(module):
            builder = importlib.import_module(f"threefs.native.build{module}")
            SCRATCH.mkdir(parents=True, exist_ok=True)
            built = Path(builder.ffi.compile(tmpdir=str(SCRATCH)))
            fresh = HERE / f"{built.name}.new"
            copyfile(built, fresh)
            fresh.rename(HERE / built.name)  # a running daemon keeps the file that it has mapped
    return 0


if __name__ == "__main__":
    sys.exit(main())
