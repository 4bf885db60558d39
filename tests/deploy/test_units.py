"""What is shipped for operators: the units pass systemd's own check, the configuration templates are complete."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from threefs.cli.daemons import ROLES
from threefs.common.config import Config, load, parse

DEPLOY = Path(__file__).parents[2] / "deploy"
NOT_MENTIONED = {"storage": ["process.grpc_listen"], "mount": ["process.grpc_listen"]}  # these two serve no gRPC
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def test_every_role_has_a_unit_and_a_template() -> None:
    assert {unit.stem for unit in UNITS} == {f"3fs-{role}" for role in ROLES}
    assert {path.stem for path in (DEPLOY / "config").glob("*.toml")} == set(ROLES)


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed (package systemd)"
)
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for unit in UNITS:  # the program is not installed here: any that exists stands for it
        text = unit.read_text().replace("/opt/3fs/bin/3fs", sys.executable)
        (tmp_path / unit.name).write_text(text)
    paths = [str(tmp_path / unit.name) for unit in UNITS]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "3fs-" in line]
    assert not said, done.stderr


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_runs_its_role_and_waits_for_it(role: str) -> None:
    text = (DEPLOY / "systemd" / f"3fs-{role}.service").read_text()
    assert f"ExecStart=/opt/3fs/bin/3fs run {role} --config /etc/3fs/{role}.toml\n" in text
    for line in ("Type=notify", "Restart=on-failure", "TimeoutStopSec=5min", "LimitNOFILE=1000000"):
        assert f"{line}\n" in text


@pytest.mark.parametrize("role", ROLES)
def test_a_template_loads_and_names_every_key_with_its_default(role: str) -> None:
    path = DEPLOY / "config" / f"{role}.toml"
    model = ROLES[role].config
    as_shipped = load(path, model)
    # `# key = value` with all comments taken away is valid too, and says what holds without it
    open_text = re.sub(r"^# (?=\w+ = )", "", path.read_text(), flags=re.MULTILINE)
    opened = parse(open_text, model, where=str(path))
    missing = [key for key in _keys(model) if not re.search(rf"^{key.rpartition('.')[2]} = ", open_text, re.MULTILINE)]
    assert missing == NOT_MENTIONED.get(role, []), f"{path.name} does not mention {missing}"
    differing = {k: v for k, v in _flat(opened).items() if v != _flat(as_shipped).get(k)}
    assert set(differing) <= {"kv.endpoints", "kv.prefix"}, differing


def _flat(config: Config, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Config) else {prefix + name: value}
    return found


def _keys(model: type[Config], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Config):
            found += _keys(inner, f"{prefix}{name}.")
        elif name != "disks":
            found.append(prefix + name)
    return found
