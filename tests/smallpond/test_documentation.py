"""The examples of the documentation, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import threefs.smallpond as smallpond

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("smallpond.md", "smallpond-shuffle.md")


def examples(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


def marked(page: str, code: str) -> Any:
    """Functions run in worker processes, which take seconds to start: make proof."""
    return pytest.param(page, code, marks=[pytest.mark.proof] if "def " in code else [])


@pytest.mark.parametrize(("page", "code"), [marked(page, code) for page in PAGES for code in examples(page)])
def test_an_example_runs(
    page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SP_DATA_ROOT", str(tmp_path / "root"))
    for folder in ("prices", "input"):
        Path(folder).mkdir()
        rows = {"ticker": ["A", "B", "A"], "price": [1.0, 2.0, 3.0], "k": [1, 2, 3]}
        pq.write_table(pa.table(rows), Path(folder, "x.parquet"))
    names: dict[str, object] = {}
    exec(compile(code, page, "exec"), names)
    session = names.get("sp")
    if isinstance(session, smallpond.Session):
        session.shutdown()
    if page == "smallpond.md":
        assert capsys.readouterr().out, "the example shows something"


def test_pages_have_examples() -> None:
    assert all(examples(page) for page in PAGES)


def named_tests() -> list[tuple[str, str]]:
    """(file, pattern of the name) of each test that the page names; `::test_x` belongs to the file before it."""
    found, file = [], ""
    for given, name in re.findall(
        r"`((?:\.\./|\w+/)*\w+\.py)?(?:::(test_\w+\*?))?`", (DOCS / "smallpond.md").read_text()
    ):
        file = given or file
        if given.rpartition("/")[2].startswith("test_") or name:
            found.append((file, name))
    return found


def test_the_tests_that_the_page_names_are_there() -> None:
    named = named_tests()
    assert len(named) > 80
    for file, name in named:
        source = (Path(__file__).parent / file).read_text()
        assert re.search(rf"^def {name.replace('*', '')}", source, re.MULTILINE), f"{file}::{name}"
