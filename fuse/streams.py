"""Open directories: what a reader has been given so far, and where it goes on.

Meta lists a directory in name order, page by page. A stream keeps the pages that a reader may come back to. The rule
kept here: a page continues after a name, not a count, so what is created or removed meanwhile shifts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from threefs.client.meta.client import MetaClient
from threefs.client.meta.types import ListedEntry
from threefs.common.files import Credentials
from threefs.common.ids import InodeId

PAGE_ENTRIES = 512
KEPT_ENTRIES = 4 * PAGE_ENTRIES  # what a reader may seek back to without listing from the start again


@dataclass(slots=True)
class DirectoryStream:
    """One open directory. `entries[i]` is entry number `first + i` (dots not counted)."""

    meta: MetaClient
    inode: InodeId
    user: Credentials
    first: int = 0
    entries: list[ListedEntry] = field(default_factory=list)
    more: bool = True

    def rewind(self) -> None:
        self.first, self.entries, self.more = 0, [], True

    async def entry(self, number: int, *, attributes: bool) -> ListedEntry | None:
        """Entry `number`, None beyond the last."""
        if number < self.first:
            self.rewind()
        while number >= self.first + len(self.entries):
            if not self.more:
                return None
            await self._next_page(attributes)
        return self.entries[number - self.first]

    async def _next_page(self, attributes: bool) -> None:
        after = self.entries[-1].entry.name if self.entries else b""
        page = await self.meta.list(self.inode, after=after, limit=PAGE_ENTRIES, attributes=attributes, user=self.user)
        self.entries += page.entries
        self.more = page.more and bool(page.entries)
        excess = len(self.entries) - KEPT_ENTRIES
        if excess > 0:
            del self.entries[:excess]
            self.first += excess
