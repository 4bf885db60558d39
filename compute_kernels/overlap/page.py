"""The report as one HTML file that needs nothing else.

Called by the command's `--html`. The rule: all figures come from the same `Device` that the other outputs use; the
page only lays them out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from threefs.compute_kernels.overlap.analyse import Device, Work
from threefs.compute_kernels.overlap.bubble import Bubbles
from threefs.compute_kernels.overlap.rules import KINDS, short_name
from threefs.compute_kernels.overlap.timeline import lanes, summary_sets, thin
from threefs.compute_kernels.overlap.what_if import WhatIf

PLACEHOLDER = "/*DATA*/null"
KERNELS_MAX = 200


@dataclasses.dataclass(frozen=True)
class Section:
    """One device of one trace, as the page shows it."""

    work: Work
    device: Device
    what_ifs: tuple[WhatIf, ...]


def page(sections: Sequence[Section], bubbles: Bubbles | None = None) -> str:
    """The whole document."""
    template = files("threefs.compute_kernels.overlap").joinpath("page.html").read_text("utf-8")
    data = {
        "kinds": KINDS,
        "sections": [_section(section) for section in sections],
        "bubbles": dataclasses.asdict(bubbles) if bubbles is not None else None,
    }
    text = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    assert PLACEHOLDER in template, "the template lost its placeholder"
    return template.replace(PLACEHOLDER, text)


def _section(section: Section) -> dict[str, Any]:
    device = dataclasses.asdict(section.device)
    device["hidden_share"] = section.device.hidden_share
    device["kernels"] = [row | {"short": short_name(row["name"])} for row in device["kernels"][:KERNELS_MAX]]
    streams, names = lanes(section.work)
    begin = section.work.window[0]
    parts = {
        title: [
            [round((start - begin) / 1000, 3), round((end - start) / 1000, 3)]
            for start, end in zip(part.start.tolist(), part.end.tolist(), strict=True)
        ]
        for title, part in ((title, thin(part, section.work)) for title, part in summary_sets(section.work).items())
    }
    return {
        "device": device,
        "what_ifs": [dataclasses.asdict(row) for row in section.what_ifs],
        "summary": parts,
        "lanes": [
            {"title": lane.title, "blocks": [[round(b[0], 3), round(b[1], 3), *b[2:]] for b in lane.blocks]}
            for lane in streams
        ],
        "names": names,
    }
