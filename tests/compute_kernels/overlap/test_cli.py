"""The command: its outputs, its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.compute_kernels.overlap.synthetic import DISPATCH, GEMM, kernel, write

from threefs.compute_kernels.overlap.cli import main

pytestmark = pytest.mark.unit

DATA = Path(__file__).parent / "data"


def test_text_and_json_agree(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(DATA / "two_streams.json.gz")
    assert main([path]) == 0
    text = capsys.readouterr().out
    assert "47.1% " in text
    assert "45.000" in text
    assert main([path, "--json", "--what-if", "3"]) == 0
    answer = json.loads(capsys.readouterr().out)["traces"][0]
    assert answer["hidden_share"] == pytest.approx(40 / 85, rel=1e-3)
    assert [row["factor"] for row in answer["what_if"]] == [3]


def test_page_is_whole_and_safe(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", [kernel("</script><b>", 0, 5), kernel(DISPATCH, 2, 9, 20)])
    assert main([str(path), "--html", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert page.count("</script>") == 1
    assert "http" not in page.replace("http-equiv", "")
    data = json.loads(page.split("const DATA = ")[1].split(";\nconst COLOURS")[0])
    assert data["sections"][0]["summary"]["exposed communication"] == [[5, 6]]
    assert [len(lane["blocks"]) for lane in data["sections"][0]["lanes"]] == [1, 1]


def test_perfetto_trace_holds_every_kernel_and_the_summary(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", [kernel(GEMM, 0, 5), kernel(DISPATCH, 2, 9, 20)])
    assert main([str(path), "--perfetto", str(tmp_path / "p.json")]) == 0
    events = json.loads((tmp_path / "p.json").read_text())["traceEvents"]
    slices = [(e["name"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"]
    assert sorted(slices) == sorted(
        [
            ("computation", 0, 5),
            ("hidden communication", 2, 3),
            ("exposed communication", 5, 6),
            ("cutlass::device_kernel", 0, 5),
            ("deep_ep::intranode::dispatch", 2, 9),
        ]
    )


def test_several_ranks_and_a_diff(capsys: pytest.CaptureFixture[str]) -> None:
    ranks = [str(DATA / f"moe_rank{rank}.json.gz") for rank in (0, 1)]
    assert main(ranks) == 0
    assert "Pipeline bubbles" in capsys.readouterr().out
    assert main([*ranks, "--diff", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["diff"]["totals"]) == 8


def test_faults_are_told_on_stderr_with_code_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "absent")]) == 2
    assert "absent: cannot be read" in capsys.readouterr().err
    assert main([str(DATA / "two_streams.json.gz"), "--diff"]) == 2
    assert "--diff compares two traces, got 1" in capsys.readouterr().err
    assert main([str(DATA / "two_streams.json.gz"), "--device", "3"]) == 2
    assert "nothing ran on device 3; it has [0]" in capsys.readouterr().err


def test_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "threefs.compute_kernels.overlap", str(DATA / "two_streams.json.gz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    assert "hidden by computation" in done.stdout
