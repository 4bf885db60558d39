"""Who asks: groups from /proc, remembered for a moment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from threefs.fuse.credentials import CACHE_ENTRIES_MAX, CredentialsCache, groups_of

pytestmark = pytest.mark.unit


def test_groups_of_a_process() -> None:
    assert sorted(groups_of(os.getpid())) == sorted(os.getgroups())
    assert groups_of(0) == ()
    assert groups_of(2**22 + 1) == ()  # above the kernel's highest pid


@pytest.mark.skipif(os.geteuid() != 0, reason="changing groups needs root")
def test_groups_are_asked_again_when_they_may_have_changed() -> None:
    code = "import os; input(); os.setgroups([7]); print(flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, extra_groups=[5, 6]
    )
    assert process.stdin is not None
    assert process.stdout is not None
    now = 100.0
    cache = CredentialsCache(lambda: now, token="t", groups_s_max=1.0)
    assert cache.of(1000, 1000, process.pid).groups == (5, 6)
    print(file=process.stdin, flush=True)
    process.stdout.readline()
    assert cache.of(1000, 1000, process.pid).groups == (5, 6)
    now += 1.5
    found = cache.of(1000, 1000, process.pid)
    assert (found.uid, found.gid, found.groups, found.token) == (1000, 1000, (7,), "t")
    process.communicate("\n")


def test_cache_is_bounded_and_root_needs_no_groups() -> None:
    cache = CredentialsCache(lambda: 0.0, token="", groups_s_max=1.0)
    for number in range(CACHE_ENTRIES_MAX + 10):
        cache.of(1000 + number, 1, 0)
    assert len(cache._known) <= CACHE_ENTRIES_MAX
    assert cache.of(0, 0, os.getpid()).groups == ()
