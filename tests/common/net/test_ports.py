"""Ports that a daemon which is started later still finds free."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from threefs.common.net import ports

pytestmark = pytest.mark.unit


def test_ports_differ_and_are_none_that_the_kernel_deals_out() -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    found = ports.free_ports(50)
    assert len(set(found)) == 50
    assert first <= ports.PORT_MIN or not any(first <= port <= last for port in found)


def test_a_port_in_use_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        used = server.getsockname()[1]
        monkeypatch.setattr(ports, "PORT_MIN", used - 10)
        monkeypatch.setattr(ports, "PORT_MAX", used + 10)
        monkeypatch.setattr(ports, "DEALT_OUT", tmp_path / "range")
        (tmp_path / "range").write_text(f"{used + 11}\t{used + 12}\n")
        assert used not in ports.free_ports(5)
