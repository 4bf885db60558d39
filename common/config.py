"""Typed configuration: one TOML file a daemon, checked at start, with the wrong key named by file and line.

A room declares its configuration as a class that derives from `Config`. Fields say their range with `Field(ge=…)`,
their unit in the name, and whether a running daemon takes a new value with `hot=True` (see `hot`).
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from threefs.common.errors import UserError

ConfigT = TypeVar("ConfigT", bound="Config")


class Config(BaseModel):
    """Base of every configuration class: unknown keys are errors, values are not coerced, instances never change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def hot(default: Any, **limits: Any) -> Any:
    """A field that a running daemon takes over when the cluster configuration changes."""
    return Field(default, json_schema_extra={"hot": True}, **limits)


def load(path: Path, model: type[ConfigT]) -> ConfigT:
    """Reads and checks a file; UserError names file, line, key, what was found and what is allowed."""
    try:
        text = path.read_text()
    except OSError as exc:
        raise UserError(
            f"cannot read configuration {path}: {exc.strerror}", f"create it or fix its mode: {path}"
        ) from exc
    return parse(text, model, where=str(path))


def parse(text: str, model: type[ConfigT], *, where: str) -> ConfigT:
    """`load` for text that is at hand; `where` stands for the file in messages."""
    try:
        return model.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as exc:
        raise UserError(f"{where} is no valid TOML: {exc}", "fix the line named") from exc
    except ValidationError as exc:
        raise UserError(*_explain(exc, text, where, model)) from exc


def hot_fields(model: type[Config], prefix: str = "") -> set[str]:
    """Dotted names of the fields that may change while a daemon runs."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Config):
            found |= hot_fields(inner, f"{prefix}{name}.")
        elif isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("hot"):
            found.add(prefix + name)
    return found


def _explain(error: ValidationError, text: str, where: str, model: type[Config]) -> tuple[str, str]:
    first = error.errors()[0]
    keys = [str(part) for part in first["loc"]]
    dotted = ".".join(keys)
    place = f"{where}:{_line_of(text, keys)}"
    if first["type"] == "extra_forbidden":
        known = ", ".join(sorted(_fields_at(model, keys[:-1])))
        return f"{place}: unknown key {dotted!r}", f"known keys here: {known}"
    if first["type"] == "missing":
        return f"{place}: key {dotted!r} is missing", "add it"
    return f"{place}: {dotted} = {first['input']!r}: {first['msg'].lower()}", "correct the value"


def _fields_at(model: type[BaseModel], keys: list[str]) -> set[str]:
    for key in keys:
        inner = model.model_fields[key].annotation if key in model.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return set()
        model = inner
    return set(model.model_fields)


def _line_of(text: str, keys: list[str]) -> int:
    """The line on which the deepest key that the file has is set; 1 if it has none."""
    best = (0, 1)
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line)
        assigned = re.match(r"\s*([\w.\-\"]+)\s*=", line)
        if header:
            table = header[1].replace('"', "").split(".")
            path = table
        elif assigned:
            path = table + assigned[1].replace('"', "").split(".")
        else:
            continue
        wanted = [key for key in keys if not key.isdigit()]
        depth = len(path) if path == wanted[: len(path)] else 0
        best = max(best, (depth, number)) if depth > best[0] else best
    return best[1]
