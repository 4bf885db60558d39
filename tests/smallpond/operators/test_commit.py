"""Commits that fail half-way or are repeated: no row twice, none lost, and the first error is not forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from threefs.common.errors import NotFound
from threefs.smallpond.errors import TaskFailed, UserCodeError
from threefs.smallpond.execution.operators import commit, sink
from threefs.smallpond.logical.node import Context, DataSinkNode
from threefs.smallpond.session import Session

RUN = "run1"


def staged(node: DataSinkNode, values: list[int]) -> tuple[str, list[str]]:
    folder = Path(sink.staging_folder(node, RUN))
    folder.mkdir(parents=True)
    paths = [folder / f"part-{value}.parquet" for value in values]
    for path, value in zip(paths, values, strict=True):
        pq.write_table(pa.table({"a": [value]}), path)
    return str(folder), [str(path) for path in paths]


def rows(target: Path) -> list[int]:
    return sorted(value for path in target.glob("*.parquet") for value in pq.read_table(path)["a"].to_pylist())


def node_for(target: Path, mode: Any) -> DataSinkNode:
    return DataSinkNode(Context(), (), str(target), type="link_or_copy", mode=mode)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A folder with a row of an earlier job, under a name that the new one wants too."""
    folder = tmp_path / "out"
    folder.mkdir()
    pq.write_table(pa.table({"a": [100]}), folder / "part-1.parquet")
    return folder


def test_a_commit_that_stopped_half_way_goes_on(target: Path) -> None:
    node = node_for(target, "append")
    staging, paths = staged(node, [1, 2, 3])
    hidden = Path(paths[1]).rename(target.parent / "hidden")
    with pytest.raises(NotFound, match=r"part-2\.parquet"):
        commit.move_in(node, staging, paths, [])
    assert rows(target) == [1, 100]
    hidden.rename(paths[1])
    for _ in range(2):  # and once more, as if the worker had died before it could say that it was done
        final = commit.move_in(node, staging, paths, [])
        assert rows(target) == [1, 2, 3, 100]
        assert (target / commit.MANIFEST).read_text().split() == final
    sink.end_run(node, RUN, failed=False)
    assert sorted(path.name for path in target.iterdir()) == [
        commit.MANIFEST,
        *(f"part-{name}.parquet" for name in ("1.1", "1", "2", "3")),
    ]


def test_a_commit_that_comes_to_no_end_is_taken_back(target: Path) -> None:
    node = node_for(target, "append")
    staging, paths = staged(node, [1, 2])
    Path(paths[1]).unlink()
    with pytest.raises(NotFound):
        commit.move_in(node, staging, paths, [str(target / "part-1.parquet")])
    sink.end_run(node, RUN, failed=True)
    assert rows(target) == [100]
    assert [path.name for path in target.iterdir()] == ["part-1.parquet"]


def test_another_writer_that_is_faster_keeps_its_file(target: Path) -> None:
    node = node_for(target, "append")
    staging, paths = staged(node, [2])
    journal = commit._plan(node, staging, paths, [])
    pq.write_table(pa.table({"a": [200]}), journal.moves[0][1])  # takes the name that the journal chose
    commit.move_in(node, staging, paths, [])
    assert rows(target) == [2, 100, 200]


@pytest.mark.parametrize("mode", ["overwrite", "error"])
def test_a_swap_that_is_repeated_swaps_once(tmp_path: Path, target: Path, mode: str) -> None:
    place = target if mode == "overwrite" else tmp_path / "new"
    node = node_for(place, mode)
    staging, paths = staged(node, [1, 2])
    for _ in range(2):
        if not commit.has_swapped(node, staging):
            sink.check_target(node)
        commit.swap_in(node, staging, paths)
        assert rows(place) == [1, 2]
    sink.end_run(node, RUN, failed=False)
    assert sorted(path.name for path in place.iterdir()) == [commit.MANIFEST, "part-1.parquet", "part-2.parquet"]
    assert {path.name for path in tmp_path.iterdir()} <= {"out", "new"}


def test_the_first_error_is_told_beside_the_last(sp: Session, tmp_path: Path) -> None:
    marker = tmp_path / "tried"

    def fails_differently(row: dict[str, Any]) -> dict[str, Any]:
        if marker.exists():
            raise ValueError("and now something else")
        marker.touch()
        raise ConnectionError("the first trouble")

    with pytest.raises((UserCodeError, TaskFailed), match="something else") as caught:
        sp.from_items([1]).map(fails_differently).compute()
    told = str(caught.value) + "".join(getattr(caught.value, "__notes__", []))
    assert "first failure was" in told
    assert "the first trouble" in told
