"""Content addresses of steps: equal fingerprints mean that a step computes the same from the same input.

Functions count by their code, constants, defaults and what they capture, not by where they stand in a file: an edited
script reuses the results of the steps that it did not change. What cannot be looked into (open connections, compiled
objects without a value) gets an address of its own, so that it is never reused wrongly.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import hashlib
import inspect
import pathlib
import types
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle
import numpy as np
import pyarrow as pa

from threefs.smallpond.logical.dataset import DataSet
from threefs.smallpond.logical.node import Node

_PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    pathlib.PurePath,
)
_PICKLED = (np.generic, np.ndarray, pa.Schema, pa.DataType, pa.Array, pa.Scalar, pa.Table, pa.RecordBatch)


def fingerprint(*values: Any) -> str:
    """The content address of some values."""
    hasher = hashlib.blake2b(digest_size=16)
    _Walker(hasher.update).add(values)
    return hasher.hexdigest()


def node_state(node: Node) -> dict[str, Any]:
    """What of a node decides its rows."""
    return {name: value for name, value in node.__getstate__().items() if name not in node.VOLATILE}


class _Walker:
    """Feeds values to a hash, each kind under its own tag; remembers what it has seen, so that rings end."""

    def __init__(self, feed: Callable[[bytes], object]) -> None:
        self._feed = feed
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []  # ids stay unique while their objects live

    def _tag(self, *parts: object) -> None:
        self._feed((repr(parts) + ";").encode())

    def add(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self._tag(type(value).__name__, value)
            return
        if id(value) in self._seen:
            self._tag("again", self._seen[id(value)])
            return
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)
        self._add_compound(value)

    def _add_compound(self, value: Any) -> None:
        if isinstance(value, (list, tuple)):
            self._tag(type(value).__name__, len(value))
            for item in value:
                self.add(item)
        elif isinstance(value, (set, frozenset)):
            self._tag("set", sorted(fingerprint(item) for item in value))
        elif isinstance(value, Mapping):
            self._tag("mapping", len(value))
            for key, item in value.items():
                self.add(key)
                self.add(item)
        elif isinstance(value, enum.Enum):
            self._tag("enum", type(value).__qualname__, value.name)
        elif isinstance(value, DataSet):
            self._tag("dataset", value.fingerprint())
        elif isinstance(value, Node):
            self._tag("node", type(value).__module__, type(value).__qualname__)
            self._add_methods(type(value))
            self.add(node_state(value))
        else:
            self._add_object(value)

    def _add_object(self, value: Any) -> None:
        if isinstance(value, functools.partial):
            self._tag("partial")
            self.add((value.func, value.args, dict(value.keywords)))
        elif isinstance(value, types.FunctionType):
            self._add_function(value)
        elif isinstance(value, types.MethodType):
            self._tag("method", value.__func__.__qualname__)
            self.add((value.__func__, value.__self__))
        elif isinstance(value, (types.BuiltinFunctionType, types.ModuleType)):
            self._tag("builtin", getattr(value, "__module__", ""), value.__name__)
        elif isinstance(value, types.CodeType):
            self._add_code(value)
        elif isinstance(value, type):
            self._tag("class", value.__module__, value.__qualname__)
            self._add_methods(value)
        elif isinstance(value, _PICKLED):
            self._tag("data", type(value).__name__, hashlib.blake2b(cloudpickle.dumps(value)).hexdigest())
        elif dataclasses.is_dataclass(value) or _is_transparent(value):
            self._tag("object", type(value).__module__, type(value).__qualname__)
            self._add_methods(type(value))
            self.add(_state_of(value))
        else:
            self._add_pickled(value)

    def _add_pickled(self, value: Any) -> None:
        try:
            self._tag("pickle", hashlib.blake2b(cloudpickle.dumps(value)).hexdigest())
        except Exception:  # it cannot be looked into: never the same as anything else
            self._tag("opaque", uuid.uuid4().hex)

    def _add_function(self, function: types.FunctionType) -> None:
        self._tag("function", function.__qualname__.rpartition(".")[2])
        if _is_installed(function.__module__):
            self._tag("of", function.__module__, function.__qualname__)
            return
        self._add_code(function.__code__)
        self.add((function.__defaults__, function.__kwdefaults__))
        self.add([_cell(cell) for cell in function.__closure__ or ()])
        for name in sorted(_global_names(function.__code__)):
            if name in function.__globals__:
                self._tag("global", name)
                self.add(function.__globals__[name])

    def _add_code(self, code: types.CodeType) -> None:
        self._tag("code", code.co_code, code.co_names, code.co_varnames, code.co_argcount, code.co_flags)
        for constant in code.co_consts:
            if isinstance(constant, frozenset):
                self._tag("set", sorted(map(repr, constant)))
            else:
                self.add(constant)

    def _add_methods(self, cls: type) -> None:
        """The code of a class of the user's; installed packages count by name."""
        for base in cls.__mro__:
            if _is_installed(base.__module__):
                continue
            for name, item in sorted(vars(base).items()):
                plain = inspect.unwrap(item.__func__ if isinstance(item, (staticmethod, classmethod)) else item)
                if isinstance(plain, types.FunctionType):
                    self._tag("def", name)
                    self.add(plain)
                elif isinstance(plain, _PLAIN) and not name.startswith("__"):
                    self._tag("attribute", name, plain)


def _global_names(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _global_names(constant)
    return names


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None


@functools.cache
def _is_installed(module: str | None) -> bool:
    """Code that comes with an installed package, or with Python: its name stands for it."""
    import sys

    if module is None or module == "__main__":
        return False
    if module == "builtins" or module.partition(".")[0] in (*sys.stdlib_module_names, "threefs"):
        return True
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def _is_transparent(value: Any) -> bool:
    """An object of a Python class without a pickling of its own: its attributes say all about it."""
    cls = type(value)
    return (
        hasattr(value, "__dict__")
        and not any(vars(base).keys() & {"__reduce__", "__reduce_ex__"} for base in cls.__mro__[:-1])
        and "__getstate__" not in vars(cls)
    )


def _state_of(value: Any) -> Any:
    state = dict(getattr(value, "__dict__", {}))
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                state[name] = getattr(value, name)
    return state
