"""Published checksums, every kind of damage found, sorting in memory and with run files."""

import os
import zlib
from pathlib import Path

import numpy as np
import pytest

from threefs.common.errors import UserError
from threefs.workloads.graysort import files, records
from threefs.workloads.graysort.generate import generate_file
from threefs.workloads.graysort.sort import sort_file
from threefs.workloads.graysort.validate import validate_files, verdict

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("count", "checksum"), [(1, "9ea593a0"), (10, "55fea8a1a"), (1000, "1ea6370b955")])
def test_binary_checksums_are_the_published_ones(tmp_path: Path, count: int, checksum: str) -> None:
    summary = generate_file(tmp_path / "in", count)
    assert f"{summary.checksum:x}" == checksum
    assert summary.checksum == sum(
        zlib.crc32(record) for record in np.fromfile(tmp_path / "in", np.dtype("V100")).tolist()
    )


def test_the_ten_million_record_checksum() -> None:
    total = records.Summary()
    for first in range(0, 10_000_000, 500_000):
        total += records.summarise(records.generate(first, 500_000))
    assert f"{total.checksum:x}" == "4c4e32cca7d315"


def test_ascii_records_are_the_published_ones() -> None:
    made = bytes(records.generate(0, 2, ascii_text=True))
    assert made[:10] == b"AsfAGHM5om"
    assert made[100:110] == b"~sHd0jDv6X"
    assert made[110:146] == b"  00000000000000000000000000000001  "
    assert made[98:100] == b"\r\n"


@pytest.mark.parametrize("ascii_text", [False, True])
@pytest.mark.parametrize("skewed", [False, True])
def test_any_stretch_equals_its_part_of_the_whole(ascii_text: bool, skewed: bool) -> None:
    whole = bytes(records.generate(0, 3000, ascii_text=ascii_text, skewed=skewed))
    for first, count in ((0, 1), (511, 3), (1000, 1537)):
        part = bytes(records.generate(first, count, ascii_text=ascii_text, skewed=skewed))
        assert part == whole[first * 100 : (first + count) * 100]


def test_skewed_keys_start_with_the_table_row_of_their_magnitude() -> None:
    plain, skewed = (bytes(records.generate(0, 40_000, skewed=flag)) for flag in (False, True))
    rows = [bytes(records.generate(number, 1))[:6] for number in range(129)]
    whole_rows = 0
    for number in range(40_000):
        key = skewed[number * 100 : number * 100 + 10]
        assert skewed[number * 100 + 10 : number * 100 + 100] == plain[number * 100 + 10 : number * 100 + 100]
        whole_rows += key[:6] == rows[number.bit_length()]
    assert 40_000 / 32 * 0.8 < whole_rows < 40_000 / 32 * 1.2  # 48 bits for one in 64, fewer that agree by chance


def test_sorting_equals_a_stable_numpy_sort() -> None:
    made = records.generate(0, 50_000, skewed=True)
    ordered = records.sort_records([made[:1_000_000], made[1_000_000:]])
    keys = np.frombuffer(made, np.uint8).reshape(-1, 100)
    order = np.lexsort([keys[:, column] for column in range(9, -1, -1)])
    assert bytes(ordered) == keys[order].tobytes()


@pytest.mark.parametrize(("memory_bytes", "spilled"), [(1 << 30, False), (4 << 20, True)])
@pytest.mark.parametrize("skewed", [False, True])
def test_sorted_files_are_valid_and_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_bytes: int, spilled: bool, skewed: bool
) -> None:
    for module in ("files", "sort"):
        monkeypatch.setattr(f"threefs.workloads.graysort.{module}.PIECE_BYTES", 200_000)
    made = generate_file(tmp_path / "in", 30_000, skewed=skewed)
    times = sort_file(tmp_path / "in", tmp_path / "out", memory_bytes=memory_bytes)
    assert times.spilled is spilled
    assert times.partitions > 1
    checked = validate_files([tmp_path / "out"])
    assert (checked.checksum, checked.records, checked.unordered) == (made.checksum, 30_000, 0)
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


def _sorted_file(folder: Path) -> bytearray:
    generate_file(folder / "in", 2000)
    sort_file(folder / "in", folder / "out")
    return bytearray((folder / "out").read_bytes())


def test_the_validator_finds_each_kind_of_damage(tmp_path: Path) -> None:
    good = _sorted_file(tmp_path)
    expected = validate_files([tmp_path / "out"])
    assert verdict(expected)[-1] == "SUCCESS - all records are in order"

    swapped = good[:50_000] + good[50_100:50_200] + good[50_000:50_100] + good[50_200:]
    lost = good[:50_000] + good[50_100:]
    doubled = good[:50_000] + good[49_900:]
    flipped = bytearray(good)
    flipped[50_050] ^= 1
    results = []
    for number, damaged in enumerate((swapped, lost, doubled, flipped)):
        path = tmp_path / str(number)
        path.write_bytes(damaged)
        results.append(validate_files([path]))
    assert (results[0].unordered, results[0].first_unordered) == (1, 501)
    assert results[0].checksum == expected.checksum
    assert verdict(results[0])[0] == "First unordered record is record 501"
    assert (results[1].records, results[1].unordered) == (1999, 0)
    assert (results[2].records, results[2].duplicates) == (2001, expected.duplicates + 1)
    assert all(result.checksum != expected.checksum for result in results[1:])


def test_borders_between_pieces_and_files_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = _sorted_file(tmp_path)
    whole = validate_files([tmp_path / "out"])
    (tmp_path / "a").write_bytes(good[:77_700])
    (tmp_path / "b").write_bytes(good[77_700:])
    assert validate_files([tmp_path / "a", tmp_path / "b"]) == whole
    assert validate_files([tmp_path / "b", tmp_path / "a"]).first_unordered == 2000 - 777
    monkeypatch.setattr(files, "PIECE_BYTES", 100)
    assert validate_files([tmp_path / "out"]) == whole


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "odd").write_bytes(b"x" * 150)
    with pytest.raises(UserError, match="odd has a partial record at its end"):
        validate_files([tmp_path / "odd"])
    with pytest.raises(UserError, match="No such file"):
        sort_file(tmp_path / "absent", tmp_path / "out")
    (tmp_path / "empty").touch()
    assert verdict(validate_files([tmp_path / "empty"]))[-1] == "ERROR - there are no records"
