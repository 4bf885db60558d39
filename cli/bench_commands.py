"""`3fs bench …`: measurements beside a ceiling of the same machine in the same run; only the ratio is meant to last."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from threefs.cli.entry import run_async
from threefs.cli.graysort_commands import print_report
from threefs.cli.options import DirOption, JsonOption, required_dir
from threefs.cli.output import print_json, print_table, progress_bar, say
from threefs.common.errors import UserError
from threefs.workloads.bench.measure import Measurement
from threefs.workloads.graysort.report import JobReport

app = typer.Typer(no_args_is_help=True, help="Measurements, as ratios to a ceiling in the same run.")


@contextmanager
def _folders(folder: Path) -> Iterator[tuple[Path, Path]]:
    """A folder on the mount and one on the disk below the cluster, both removed at the end."""
    from threefs.cli.dev.cluster import DevCluster

    mount = DevCluster.open(folder).spec.mount
    if not mount:
        raise UserError("the cluster is not mounted", f"3fs dev up --dir {folder} --mount PATH")
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=mount) as ours,
        tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as local,
    ):
        yield Path(ours), Path(local)


def _print(results: list[Measurement], as_json: bool) -> None:
    if as_json:
        print_json([asdict(result) | {"ratio": result.ratio} for result in results])
        return
    rows = [(r.name, f"{r.value:,.0f}", r.unit, f"{r.ceiling:,.0f}", r.ceiling_name, f"{r.ratio:.2f}") for r in results]
    print_table(("what", "3fs", "unit", "ceiling", "of", "ratio"), rows)


@app.command("io")
def bench_io(
    folder: DirOption = None,
    size_mib: Annotated[int, typer.Option(min=16, help="File size.")] = 512,
    repeat: Annotated[int, typer.Option(min=1, help="Runs; the median counts.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Sequential writes and cold reads through the mount, batched reads through the library."""
    from threefs.cli.dev.cluster import DevCluster
    from threefs.client.connect import open_connection
    from threefs.workloads.bench.library import batched_reads
    from threefs.workloads.bench.mount import sequential

    cluster = DevCluster.open(required_dir(folder))

    async def library(local: Path) -> list[Measurement]:
        async with open_connection(cluster.spec.mgmtd_addresses(), description="3fs bench") as connection:
            return await batched_reads(connection, local)

    with _folders(cluster.folder) as (ours, local):
        results = sequential(ours, local, size_mib << 20, remount=lambda: cluster.restart("mount-1"), repeat=repeat)
        results += run_async(library(local))
    _print(results, as_json)


@app.command("meta")
def bench_meta(
    folder: DirOption = None,
    count: Annotated[int, typer.Option(min=100, help="Files.")] = 5000,
    procs: Annotated[int, typer.Option(min=1, max=64, help="Measure with so many processes as well.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Creates by one process, and stats of inodes that no cache knows, through the mount."""
    from threefs.cli.dev.cluster import DevCluster
    from threefs.workloads.bench.mount import names

    cluster = DevCluster.open(required_dir(folder))
    with _folders(cluster.folder) as (ours, local):
        results = []
        for processes in dict.fromkeys((1, procs)):
            results += names(ours, local, count, remount=lambda: cluster.restart("mount-1"), processes=processes)
    _print(results, as_json)


class SortEngine(StrEnum):
    """Who runs the tasks of a sort."""

    THREADS = "threads"
    LOCAL = "local"
    RAY = "ray"


@app.command("graysort")
def bench_graysort(
    folder: DirOption = None,
    path: Annotated[Path | None, typer.Option(help="Where to sort; default: the cluster's mount.")] = None,
    records: Annotated[int, typer.Option(min=1000, help="Records of 100 bytes.")] = 5_000_000,
    skewed: Annotated[bool, typer.Option("--skewed", help="Skewed keys.")] = False,
    memory_mib: Annotated[int, typer.Option(min=64, help="Memory to use, all workers together.")] = 1024,
    workers: Annotated[int, typer.Option("--workers", "-w", min=1)] = 2,
    engine: Annotated[
        SortEngine, typer.Option(help="Threads of this process, or a smallpond job on local processes or on Ray.")
    ] = SortEngine.THREADS,
    ray_address: Annotated[str | None, typer.Option(help="A running Ray cluster; default: start one here.")] = None,
    sync: Annotated[bool, typer.Option(help="Count a phase as done when its files are on stable storage.")] = True,
    compare: Annotated[bool, typer.Option(help="Run it on the local disk as well, and give the ratio.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Generate, sort and validate records on the cluster, and report each phase."""

    def job(where: Path) -> None:
        report = _sort(
            where, records, engine, skewed=skewed, memory_mib=memory_mib, workers=workers, sync=sync, ray=ray_address
        )
        print_report(report, as_json=as_json)
        totals.append(report.total_s)

    totals: list[float] = []
    if path is not None:
        with tempfile.TemporaryDirectory(prefix="graysort-", dir=path) as place:
            job(Path(place))
        return
    with _folders(required_dir(folder)) as (ours, local):
        job(ours)
        if compare:
            job(local)
            say(f"generated, sorted and validated: {totals[0] / totals[1]:.2f} times as long as on the local disk")


@app.command("kernels", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench_kernels(context: typer.Context) -> None:
    """Time the GPU kernels on this machine; parts to time may follow (see its --help after --)."""
    from threefs.compute_kernels.bench import main
    from threefs.compute_kernels.errors import KernelError

    try:
        code = main(context.args)
    except KernelError as exc:
        raise UserError(str(exc), "run it on a machine with an H100 or H200") from exc
    raise typer.Exit(code)


def _sort(
    where: Path,
    records: int,
    engine: SortEngine,
    *,
    skewed: bool,
    memory_mib: int,
    workers: int,
    sync: bool,
    ray: str | None,
) -> JobReport:
    if engine is SortEngine.THREADS:
        from threefs.workloads.graysort.job import run_job

        return run_job(
            where,
            records,
            skewed=skewed,
            workers=workers,
            memory_bytes=memory_mib << 20,
            sync=sync,
            bars=progress_bar,
        )
    from threefs.workloads.graysort.distributed import run_on_smallpond

    return run_on_smallpond(
        where,
        records,
        engine="ray" if engine is SortEngine.RAY else "local",
        workers=workers,
        skewed=skewed,
        memory_bytes=memory_mib << 20,
        sync=sync,
        ray_address=ray,
    )
