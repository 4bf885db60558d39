"""Which chains a new file is spread over: our own shuffle, the same on every platform and in every release.

The rule (test vectors in tests/meta/test_layout.py; changing it breaks nothing stored, because files keep their chains,
but equal files would no longer be placed equally):

1. Take `stripe` consecutive positions of the chain table from `base`, wrapping around.
2. Shuffle them: for i from stripe - 1 down to 1, swap element i with element mix(seed + i) mod (i + 1), where `mix` is
   the splitmix64 finaliser of `common.rendezvous` and the sum is taken modulo 2^64.

Chunk k of the file lies on element k mod stripe. `base` advances by `stripe` with each file, so that files of one
daemon use all chains evenly; the shuffle keeps the first chunks of many small files from sharing a pattern.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from threefs.common.errors import BadRequest, NotServing
from threefs.common.files import Layout
from threefs.common.ids import ChainId, ChainTableId
from threefs.common.rendezvous import mix
from threefs.common.routing import ChainTable, Routing
from threefs.common.runtime.interface import Runtime

CHUNK_BYTES_MIN: Final = 64 << 10
CHUNK_BYTES_MAX: Final = 64 << 20
STRIPE_MAX: Final = 1024
_MASK: Final = (1 << 64) - 1


def pick_chains(chains: tuple[ChainId, ...], *, stripe: int, base: int, seed: int) -> tuple[ChainId, ...]:
    """`stripe` different chains of a table, in the order of the rule above; all of them if there are fewer."""
    assert chains, "a chain table without chains"
    count = min(stripe, len(chains))
    picked = [chains[(base + i) % len(chains)] for i in range(count)]
    for i in range(count - 1, 0, -1):
        j = mix((seed + i) & _MASK) % (i + 1)
        picked[i], picked[j] = picked[j], picked[i]
    return tuple(picked)


def check_layout(layout: Layout) -> None:
    """BadRequest unless sizes are within limits and the chunk size is a power of two."""
    size = layout.chunk_bytes
    if not CHUNK_BYTES_MIN <= size <= CHUNK_BYTES_MAX or size & (size - 1):
        raise BadRequest(f"chunk size {size} is no power of two from {CHUNK_BYTES_MIN} to {CHUNK_BYTES_MAX}")
    if not 1 <= layout.stripe <= STRIPE_MAX:
        raise BadRequest(f"stripe {layout.stripe} is not in 1 to {STRIPE_MAX}")


def merge_layout(wanted: Layout | None, inherited: Layout) -> Layout:
    """`wanted` with its zeros filled from `inherited`, checked; never with chains."""
    if wanted is None:
        return inherited
    merged = Layout(
        ChainTableId(wanted.table or inherited.table),
        wanted.table_version or (0 if wanted.table else inherited.table_version),
        wanted.chunk_bytes or inherited.chunk_bytes,
        wanted.stripe or inherited.stripe,
    )
    check_layout(merged)
    return merged


class LayoutPicker:
    """Gives new files their chains, round robin over each table, from the newest routing."""

    def __init__(self, runtime: Runtime, routing: Callable[[], Routing]) -> None:
        self._runtime = runtime
        self._routing = routing
        self._bases: dict[ChainTableId, int] = {}

    def file_layout(self, default: Layout, seed: int) -> Layout:
        """The layout of a new file below a directory default; NotServing while mgmtd has no such chain table."""
        table = self._table(default)
        stripe = min(default.stripe, len(table.chains))
        base = self._bases.get(table.id)
        if base is None:
            base = self._runtime.random.randrange(len(table.chains))
        self._bases[table.id] = (base + stripe) % len(table.chains)
        chains = pick_chains(table.chains, stripe=stripe, base=base, seed=seed)
        return Layout(table.id, table.version, default.chunk_bytes, stripe, chains)

    def _table(self, default: Layout) -> ChainTable:
        tables = self._routing().tables
        version = default.table_version
        if not version:
            version = max((v for id, v in tables if id == default.table), default=0)
        table = tables.get((default.table, version))
        if table is None or not table.chains:
            raise NotServing(f"chain table {default.table} version {version} is not known yet or has no chains")
        return table
