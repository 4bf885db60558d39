"""Small helpers that user code may import."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar, cast

T = TypeVar("T")
_END = object()


class ConcurrentIter(Generic[T]):
    """Iterates in a background thread, at most `max_buffer_size` items ahead; errors arise where they are consumed."""

    def __init__(self, iterable: Iterable[T], max_buffer_size: int = 1) -> None:
        self._iterable = iterable
        self._buffer: queue.Queue[object] = queue.Queue(max_buffer_size)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="smallpond-prefetch", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for item in self._iterable:
                if not self._put(item):
                    return
        except BaseException as exc:
            self._error = exc
        self._put(_END)

    def _put(self, item: object) -> bool:
        while not self._stop.is_set():
            try:
                self._buffer.put(item, timeout=0.05)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._stop.is_set():
            raise StopIteration
        item = self._buffer.get()
        if item is not _END:
            return cast(T, item)
        self._stop.set()
        if self._error is not None:
            raise self._error
        raise StopIteration

    def close(self) -> None:
        """Stop reading ahead; the iterable is left where it is."""
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> ConcurrentIter[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
