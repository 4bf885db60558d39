"""`3fs graysort …`: records of the sort benchmark on any path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from threefs.cli.output import print_json, print_table, progress_bar, say
from threefs.workloads.graysort.report import JobReport

app = typer.Typer(no_args_is_help=True, help="Records of the sort benchmark (100 bytes, 10-byte keys) on any path.")
WorkersOption = Annotated[int, typer.Option("--workers", "-w", min=1, max=256, help="Threads.")]


@app.command()
def generate(
    count: Annotated[int, typer.Argument(metavar="N", min=0, help="Records.")],
    file: Annotated[Path, typer.Argument(help="File to write.")],
    start: Annotated[int, typer.Option(min=0, help="Number of the first record.")] = 0,
    ascii_text: Annotated[bool, typer.Option("--ascii", help="Printable records.")] = False,
    skewed: Annotated[bool, typer.Option("--skewed", help="Skewed keys.")] = False,
    workers: WorkersOption = 2,
) -> None:
    """Write N records and print their checksum, as the official generator does."""
    from threefs.workloads.graysort.generate import generate_file

    with progress_bar("generate", count * 100) as progress:
        made = generate_file(
            file, count, start=start, ascii_text=ascii_text, skewed=skewed, workers=workers, progress=progress
        )
    typer.echo(f"{made.checksum:x}")


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="Sorted files, in order.")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
    workers: WorkersOption = 2,
) -> None:
    """Check order, count duplicates, print the checksum. Exit code 1 if the records are not in order."""
    from threefs.workloads.graysort.files import record_count
    from threefs.workloads.graysort.validate import validate_files, verdict

    total = sum(record_count(file) for file in files) * 100
    with progress_bar("validate", total) as progress:
        found = validate_files(files, workers=workers, progress=progress)
    sorted_ok = bool(found.records) and not found.unordered
    if as_json:
        print_json(
            {
                "records": found.records,
                "checksum": f"{found.checksum:x}",
                "unordered": found.unordered,
                "first_unordered": found.first_unordered,
                "duplicates": found.duplicates,
                "sorted": sorted_ok,
            }
        )
    else:
        typer.echo("\n".join(verdict(found)))
    raise typer.Exit(0 if sorted_ok else 1)


@app.command()
def sort(
    source: Annotated[Path, typer.Argument(metavar="IN", help="File of records.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="File to write.")],
    memory_mib: Annotated[int, typer.Option(min=64, help="Memory to use; more input is sorted with run files.")] = 1024,
    workers: WorkersOption = 2,
) -> None:
    """Sort a file of records by key."""
    from threefs.workloads.graysort.files import record_count
    from threefs.workloads.graysort.sort import sort_file

    with progress_bar("sort", 200 * record_count(source)) as progress:
        times = sort_file(source, target, memory_bytes=memory_mib << 20, workers=workers, progress=progress)
    how = "run files" if times.spilled else "memory"
    say(f"partition {times.partition_s:.2f} s, sort {times.sort_s:.2f} s, {times.partitions} ranges in {how}")


def print_report(report: JobReport, *, as_json: bool = False) -> None:
    """Phases, throughput, validation."""
    if as_json:
        print_json(
            {
                "records": report.records,
                "checksum": report.checksum,
                "duplicates": report.duplicates,
                "skewed": report.skewed,
                "spilled": report.spilled,
                "sort_s": report.sort_s,
                "total_s": report.total_s,
                "phases": [{"name": p.name, "seconds": p.seconds, "gb_per_s": p.gb_per_s} for p in report.phases],
            }
        )
        return
    rows = [(p.name, f"{p.seconds:.2f} s", f"{p.gb_per_s:.3f} GB/s") for p in report.phases]
    print_table(("phase", "time", "throughput"), [*rows, ("total", f"{report.total_s:.2f} s", "")])
    say(
        f"{report.records:,} records sorted and validated: checksum {report.checksum} equals the generator's, "
        f"{report.duplicates} duplicate keys"
    )
