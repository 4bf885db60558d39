"""The command: `python -m threefs.compute_kernels.overlap TRACE…`.

Mounted by the main command line too, hence `main(arguments)`. The rule: results on stdout, messages on stderr; exit
code 0, or 2 for a request or a file that is at fault.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from threefs.compute_kernels.overlap.analyse import Device, describe, select
from threefs.compute_kernels.overlap.bubble import Bubbles, find_bubbles
from threefs.compute_kernels.overlap.compare import compare
from threefs.compute_kernels.overlap.errors import TraceError
from threefs.compute_kernels.overlap.page import Section, page
from threefs.compute_kernels.overlap.rules import load_rules
from threefs.compute_kernels.overlap.text import bubbles_text, comparison_text, device_text
from threefs.compute_kernels.overlap.timeline import perfetto_trace
from threefs.compute_kernels.overlap.trace import load_trace
from threefs.compute_kernels.overlap.what_if import what_if

LAYER_PATTERN = r"(layer|block|stage)[._ ]?\d+"


def parser() -> argparse.ArgumentParser:
    build = argparse.ArgumentParser(
        prog="overlap", description="What hid behind what in traces of the PyTorch profiler, and what it cost."
    )
    build.add_argument("traces", nargs="+", type=Path, metavar="TRACE", help="Chrome trace, plain or gzipped")
    build.add_argument("--device", type=int, help="GPU in the trace (default: the first)")
    build.add_argument("--window", metavar="PATTERN", help="only kernels launched inside annotations like this")
    build.add_argument("--layer", metavar="PATTERN", default=LAYER_PATTERN, help="annotations that name layers")
    build.add_argument("--rules", type=Path, metavar="FILE", help="TOML file of [[rule]] tables, tried before ours")
    build.add_argument(
        "--what-if", type=float, nargs="*", default=[0.5, 2.0], metavar="K", help="communication times K"
    )
    build.add_argument("--diff", action="store_true", help="compare the second trace with the first")
    build.add_argument("--json", action="store_true", help="everything as JSON on stdout")
    build.add_argument("--html", type=Path, metavar="FILE", help="write a report with a timeline")
    build.add_argument("--perfetto", type=Path, metavar="FILE", help="write a trace with the summary as tracks")
    return build


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    options = parser().parse_args(arguments)
    try:
        return _run(options)
    except TraceError as exc:
        print(f"overlap: {exc}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - so that the interpreter's last flush finds no pipe
        return 0


def _run(options: argparse.Namespace) -> int:
    rules = load_rules(options.rules) if options.rules else ()
    if options.diff and len(options.traces) != 2:
        raise TraceError(f"--diff compares two traces, got {len(options.traces)}")
    if options.perfetto and len(options.traces) != 1:
        raise TraceError(f"--perfetto writes one trace, got {len(options.traces)}")
    sections = []
    for path in options.traces:
        work = select(load_trace(path), device=options.device, window=options.window, rules=rules)
        what_ifs = tuple(what_if(work, factor) for factor in options.what_if)
        sections.append(Section(work, describe(work, options.layer), what_ifs))
    works = [section.work for section in sections]
    bubbles = find_bubbles(works) if len(works) > 1 and not options.diff else None
    if options.html:
        options.html.write_text(page(sections, bubbles), "utf-8")
    if options.perfetto:
        options.perfetto.write_text(json.dumps(perfetto_trace(works[0])))
    print(_as_json(sections, bubbles, options.diff) if options.json else _as_text(sections, bubbles, options.diff))
    for written in filter(None, (options.html, options.perfetto)):
        print(f"wrote {written}", file=sys.stderr)
    return 0


def _as_text(sections: Sequence[Section], bubbles: Bubbles | None, diff: bool) -> str:
    if diff:
        return comparison_text(compare(sections[0].device, sections[1].device))
    parts = [device_text(section.device, section.what_ifs) for section in sections]
    return "\n".join([*parts, *([bubbles_text(bubbles)] if bubbles else [])])


def _as_json(sections: Sequence[Section], bubbles: Bubbles | None, diff: bool) -> str:
    answer: dict[str, object] = {"traces": [_device_json(section) for section in sections]}
    if bubbles:
        answer["bubbles"] = dataclasses.asdict(bubbles)
    if diff:
        answer["diff"] = dataclasses.asdict(compare(sections[0].device, sections[1].device))
    return json.dumps(answer, indent=1)


def _device_json(section: Section) -> dict[str, object]:
    device: Device = section.device
    return dataclasses.asdict(device) | {
        "hidden_share": device.hidden_share,
        "what_if": [dataclasses.asdict(row) for row in section.what_ifs],
    }
