"""What does not depend on rows: the start, the first query, many partitions of one row.

python small.py DATA_ROOT -> one line of JSON: seconds of each
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import threefs.smallpond as smallpond


def increments(session: smallpond.Session, count: int) -> None:
    """A function on each of `count` partitions of one row."""
    parts = session.from_items(list(range(count))).repartition(count, by_rows=True)
    found = parts.map(lambda row: {"x": row["item"] + 1}).take_all()
    assert [row["x"] for row in found] == list(range(1, count + 1))


def first_query(session: smallpond.Session) -> None:
    rows = session.from_items([{"k": i % 3, "v": i} for i in range(300)])
    found = session.partial_sql("SELECT k, sum(v) AS v FROM {0} GROUP BY k", rows).take_all()
    assert sum(row["v"] for row in found) == 299 * 150


def main() -> None:
    times: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        times[name] = time.perf_counter() - began

    with timed("init_s"):
        session = smallpond.init(data_root=sys.argv[1])
    with timed("first_query_s"):
        first_query(session)
    with timed("thousand_s"):
        increments(session, 1000)
    with timed("ten_thousand_s"):
        increments(session, 10_000)
    print("RESULT " + json.dumps(times | {"job_s": sum(times.values())}))


if __name__ == "__main__":
    main()
