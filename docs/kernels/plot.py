"""Draws achieved against roofline: `python docs/kernels/plot.py docs/kernels/h200.json docs/kernels/roofline.svg`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

_MARKS = {
    "fp8 dense": "o",
    "contiguous": "s",
    "masked": "D",
    "mla decode": "^",
    "bf16 nt": "v",
    "fp8 wgrad": "P",
    "mqa logits": "X",
    "mla fp8": "<",
    "sparse fp8": ">",
    "prefill": "*",
}


def main(source: Path, target: Path) -> None:
    rows = json.loads(source.read_text())["rows"]
    copy = max(row["gigabytes_s"] for row in rows if row["kernel"] == "copy")
    fp8 = max(row["tflops"] for row in rows if row["kernel"] == "cuBLAS fp8")
    figure, axes = plt.subplots(figsize=(8, 5))
    intensities = [10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0]
    axes.loglog(intensities, [min(fp8, x * copy / 1e3) for x in intensities], "k-", label="FP8: cuBLAS, copy bandwidth")
    for kernel, mark in _MARKS.items():
        chosen = [row for row in rows if row["kernel"] == kernel]
        axes.loglog(
            [row["tflops"] * 1e3 / row["gigabytes_s"] for row in chosen],
            [row["tflops"] for row in chosen],
            mark,
            label=kernel,
        )
    axes.set_xlabel("operations a byte")
    axes.set_ylabel("TFLOPS")
    axes.set_title("H200, L2 flushed before each call")
    axes.grid(True, which="both", alpha=0.2)
    axes.legend()
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
