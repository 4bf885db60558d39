"""The tasks of the distributed sort, on a crew in this process: balanced, right, checked, repeatable."""

from pathlib import Path

import pytest

from threefs.common.errors import UserError
from threefs.workloads.graysort import records, tasks
from threefs.workloads.graysort.distributed import InOrder, run_on_smallpond, run_tasks
from threefs.workloads.graysort.splitters import sample, splitters_of
from threefs.workloads.graysort.tasks import Layout

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_job_is_sorted_and_its_checksum_the_generators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skewed: bool, workers: int
) -> None:
    for module in ("files", "sort"):
        monkeypatch.setattr(f"threefs.workloads.graysort.{module}.PIECE_BYTES", 200_000)
    layout = Layout(str(tmp_path), skewed=skewed, sync=False)
    report = run_tasks(InOrder(), layout, 30_000, workers=workers, memory_bytes=2 << 20)
    assert report.records == 30_000
    assert [phase.name for phase in report.phases] == ["generate", "partition", "sort", "validate"]
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("out-*"))]
    assert sum(sizes) == 3_000_000
    assert max(sizes) < 1.6 * 3_000_000 / len(sizes)
    keys = b"".join(path.read_bytes() for path in sorted(tmp_path.glob("out-*")))
    assert [keys[at : at + 10] for at in range(0, len(keys), 100)] == sorted(
        keys[at : at + 10] for at in range(0, len(keys), 100)
    )


def test_a_task_that_runs_again_changes_nothing(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path), sync=False)
    made = [tasks.generate(layout, 0, 0, 5000) for _ in range(2)]
    assert made[0] == made[1]
    splitters = splitters_of(sample(layout.source(0), 100), 4)
    runs = [tasks.partition(layout, 0, splitters) for _ in range(2)]
    assert runs[0] == runs[1]
    first = [tasks.sort(layout, number, runs[:1]) for number in range(4)]
    content = [layout.sorted(number).read_bytes() for number in range(4)]
    assert [tasks.sort(layout, number, runs[1:]) for number in range(4)] == first
    assert [layout.sorted(number).read_bytes() for number in range(4)] == content


def test_a_damaged_run_file_ends_the_job_with_an_error(tmp_path: Path) -> None:
    class Damaging(InOrder):
        def run(self, work, calls):  # type: ignore[no-untyped-def]
            found = super().run(work, calls)
            if work is tasks.partition:
                data = bytearray(layout.run(0).read_bytes())
                data[5050] ^= 1
                layout.run(0).write_bytes(data)
            return found

    layout = Layout(str(tmp_path), sync=False)
    with pytest.raises(UserError, match="the output is wrong: 1000 of 1000 records, 0 unordered, checksum"):
        run_tasks(Damaging(), layout, 1000, workers=1, memory_bytes=1 << 30)


def test_too_few_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 records are fewer than 2 workers"):
        run_tasks(InOrder(), Layout(str(tmp_path)), 1, workers=2, memory_bytes=1 << 30)


def test_on_the_local_executor(tmp_path: Path) -> None:
    report = run_on_smallpond(tmp_path, 20_000, engine="local", workers=2, sync=False)
    assert report.checksum == f"{records.summarise(records.generate(0, 20_000)).checksum:x}"
    assert list(tmp_path.iterdir()) == []
