"""Typed configuration: one TOML file a daemon, checked at start, with the wrong key named by file and line.

A room declares its configuration as a class that derives from `Config`. Fields say their range with `Field(ge=…)`,
their unit in the name; `hot` declares one that a running daemon takes a new value of, `local` one that the cluster
cannot set for a daemon.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from threefs.common.errors import UserError

ConfigT = TypeVar("ConfigT", bound="Config")


def _is_address(value: str) -> str:
    host, _, port = value.rpartition(":")
    if value and not (host and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError('an address is "host:port"')
    return value


Address = Annotated[str, AfterValidator(_is_address)]  # "host:port", or empty where a field says what that means


class Config(BaseModel):
    """Base of every configuration class: unknown keys are errors, values are not coerced, instances never change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def hot(default: Any, **limits: Any) -> Any:
    """A field that a running daemon takes over when the cluster configuration changes."""
    return Field(default, json_schema_extra={"hot": True}, **limits)


def local(default: Any = ..., **limits: Any) -> Any:
    """A field of the daemon's own file alone: it is needed to reach the cluster, or differs between daemons."""
    return Field(default, json_schema_extra={"local": True}, **limits)


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
    return _validated(parse_toml(text, where), text, model, where)


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


@dataclass(frozen=True, slots=True)
class Overlay(Generic[ConfigT]):
    """A configuration with the cluster's settings laid over a file's."""

    config: ConfigT
    changed: tuple[str, ...]  # dotted names of the keys that are in force now
    waiting: tuple[str, ...]  # of those that a running daemon cannot take over: they wait for its restart


def overlay(
    current: ConfigT, text: str, *, where: str, file: ConfigT | None = None, starting: bool = False
) -> Overlay[ConfigT]:
    """`current` with the keys that `text` sets; only hot ones unless the daemon is `starting`. With `file`, what the
    daemon was started with, keys that `text` no longer sets return to what they are there.

    UserError, as in `parse`, if a key is unknown or the result is not valid; then nothing has changed.
    """
    wanted = _parse_over((file or current).model_dump(), text, type(current), where)
    differing = [key for key, value in _flat(wanted.model_dump()).items() if _flat(current.model_dump())[key] != value]
    hot_ones = hot_fields(type(current))
    taken = tuple(key for key in differing if starting or key in hot_ones)
    waiting = tuple(key for key in differing if key not in taken)
    if not waiting:
        return Overlay(wanted, taken, ())
    values, flat = current.model_dump(), _flat(wanted.model_dump())
    for key in taken:
        _set(values, key.split("."), flat[key])
    return Overlay(_validated(values, text, type(current), where), taken, waiting)


def check_partial(text: str, model: type[Config], *, where: str) -> None:
    """Raises UserError if `text` is no cluster configuration for `model`: it sets a key that `model` does not have,
    to a wrong value, or one that is `local`. Keys may be missing."""
    values = parse_toml(text, where)
    for key in values:
        extra = model.model_fields[key].json_schema_extra if key in model.model_fields else None
        if isinstance(extra, dict) and extra.get("local"):
            raise UserError(
                f"{where}:{_line_of(text, [key])}: {key!r} cannot be set for the whole cluster",
                "set it in the daemon's own file",
            )
    try:
        model.model_validate(values)
    except ValidationError as exc:
        if any(error["type"] != "missing" for error in exc.errors()):
            raise UserError(*_explain(exc, text, where, model)) from exc


def _parse_over(values: dict[str, Any], text: str, model: type[ConfigT], where: str) -> ConfigT:
    for key, value in _flat(parse_toml(text, where)).items():
        _set(values, key.split("."), value)
    return _validated(values, text, model, where)


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """A text's keys and values, no model applied; UserError if it is no TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise UserError(f"{where} is no valid TOML: {exc}", "fix the line named") from exc


def _validated(values: dict[str, Any], text: str, model: type[ConfigT], where: str) -> ConfigT:
    try:
        return model.model_validate(values)
    except ValidationError as exc:
        raise UserError(*_explain(exc, text, where, model)) from exc


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def _set(values: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        values = values.setdefault(key, {})
    values[path[-1]] = value


def _explain(error: ValidationError, text: str, where: str, model: type[Config]) -> tuple[str, str]:
    first = min(error.errors(), key=lambda found: found["type"] == "missing")
    keys = [str(part) for part in first["loc"]]
    if not keys:  # a rule between several keys
        return f"{where}: {_reason(first['msg'])}", "correct one of the values"
    dotted = ".".join(keys)
    place = f"{where}:{_line_of(text, keys)}"
    if first["type"] == "extra_forbidden":
        known = ", ".join(sorted(_fields_at(model, keys[:-1])))
        return f"{place}: unknown key {dotted!r}", f"known keys here: {known}"
    if first["type"] == "missing":
        return f"{place}: key {dotted!r} is missing", "add it"
    return f"{place}: {dotted} = {first['input']!r}: {_reason(first['msg'])}", "correct the value"


def _reason(message: str) -> str:
    """Pydantic's words, as a part of a sentence."""
    reason = message.removeprefix("Value error, ")
    return reason[:1].lower() + reason[1:]


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
