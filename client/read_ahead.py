"""Sequential read-ahead of one descriptor, for readers without a kernel in between (a mount's kernel has its own).

`OpenFile` owns one. Pieces that lie ahead are fetched in the background once reads follow each other; the window
doubles with each until it is full. The rule kept here: what was fetched before the file changed is never given out.
"""

from __future__ import annotations

import asyncio

from threefs.client.open_inode import OpenInode
from threefs.common.errors import ThreefsError
from threefs.common.runtime.interface import Runtime
from threefs.native.buffers import buffer

PIECE_BYTES = 1 << 20


class ReadAhead:
    def __init__(self, state: OpenInode, runtime: Runtime, *, bytes_max: int) -> None:
        self._state = state
        self._runtime = runtime
        self._bytes_max = bytes_max
        self._window = 0  # bytes that may be fetched beyond what was read; 0 after a jump
        self._next = 0  # where the next read begins if it is sequential
        self._change = state.change
        self._pieces: dict[int, asyncio.Task[memoryview | None]] = {}  # by number, ascending

    async def read_into(self, offset: int, view: memoryview) -> int:
        """As `OpenInode.read_into`, from what was fetched ahead as far as that goes."""
        self._follow(offset)
        done = 0
        while done < len(view):
            at = offset + done
            piece = await self._piece(at // PIECE_BYTES)
            if piece is None:
                done += await self._state.read_into(at, view[done:])
                break
            start = at % PIECE_BYTES
            part = piece[start : start + len(view) - done]
            view[done : done + len(part)] = part
            done += len(part)
            if len(piece) < PIECE_BYTES:
                break  # it ended there
        self._next = offset + done
        self._fetch_ahead()
        return done

    def _follow(self, offset: int) -> None:
        if self._change != self._state.change:
            self.drop()
            self._change = self._state.change
        if offset != self._next:
            self.drop()
        else:
            self._window = min(max(2 * self._window, PIECE_BYTES), self._bytes_max)
        for number in [number for number in self._pieces if (number + 1) * PIECE_BYTES <= offset]:
            del self._pieces[number]

    async def _piece(self, number: int) -> memoryview | None:
        """The piece if it was fetched and is still good."""
        task = self._pieces.get(number)
        piece = await asyncio.shield(task) if task is not None else None
        return piece if self._change == self._state.change else None

    def _fetch_ahead(self) -> None:
        if not self._window:
            return
        first = -(-self._next // PIECE_BYTES)
        last = min(self._next + self._window, self._state.length) // PIECE_BYTES
        for number in range(first, last):
            if number not in self._pieces:
                self._pieces[number] = self._runtime.spawn(self._fetch(number), name="read-ahead")

    async def _fetch(self, number: int) -> memoryview | None:
        """None if it failed: the reader that comes to it tries by itself, and gets the error."""
        memory = buffer(PIECE_BYTES)
        try:
            return memory[: await self._state.read_into(number * PIECE_BYTES, memory)]
        except ThreefsError:
            return None

    def drop(self) -> None:
        """Forgets everything that was fetched, and that reads followed each other. What is on its way ends by itself:
        another read of this descriptor may be waiting for it."""
        self._pieces.clear()
        self._window = 0
