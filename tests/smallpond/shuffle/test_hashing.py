"""The native hash equals its definition, and equal keys meet whatever type carries them."""

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pytest
from tests.smallpond.shuffle import reference

from threefs.common.errors import UserError
from threefs.smallpond.shuffle.hashing import hash_rows, owners_by_hash

pytestmark = pytest.mark.unit
ROWS = 1000


def _random_strings() -> list[bytes | None]:
    random = np.random.default_rng(1)
    return [None if size == 33 else random.bytes(int(size)) for size in random.integers(0, 34, ROWS)]


COLUMNS = {
    "int64": pa.array(np.random.default_rng(2).integers(-(2**62), 2**62, ROWS)),
    "nulls": pa.array([None if number % 7 == 0 else number for number in range(ROWS)]),
    "int8": pa.array(np.arange(ROWS) % 200 - 100, pa.int8()),
    "uint64": pa.array(np.full(ROWS, 2**64 - 1, np.uint64)),
    "float64": pa.array([0.0, -0.0, 1.5, float("nan"), float("-inf")] * (ROWS // 5)),
    "float32": pa.array(np.random.default_rng(3).random(ROWS), pa.float32()),
    "bool": pa.array([True, False, None, True] * (ROWS // 4)),
    "binary": pa.array(_random_strings(), pa.binary()),
    "large_binary": pa.array(_random_strings(), pa.large_binary()),
    "date": pa.array([datetime.date(1960, 1, 1) + datetime.timedelta(number) for number in range(ROWS)]),
    "timestamp": pa.array(np.arange(-500, ROWS - 500), pa.timestamp("ns")),
    "decimal": pa.array([decimal.Decimal(number).scaleb(-2) for number in range(ROWS)], pa.decimal128(12, 2)),
    "dictionary": pa.array([f"word {number % 5}" for number in range(ROWS)]).dictionary_encode(),
    "all null": pa.nulls(ROWS),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("part", [slice(0, ROWS), slice(3, 500)])
def test_native_equals_the_definition(name: str, part: slice) -> None:
    column = COLUMNS[name][part]
    assert np.array_equal(hash_rows([column]), reference.hash_rows([column]))


def test_several_columns_and_every_partition_number() -> None:
    columns = [COLUMNS["int64"], COLUMNS["binary"], COLUMNS["nulls"]]
    hashes = reference.hash_rows(columns)
    assert np.array_equal(hash_rows(columns), hashes)
    for partitions in (1, 2, 8, 1000, 2**24):
        owners = owners_by_hash(columns, partitions)
        assert np.array_equal(owners, reference.partitions_of(hashes, partitions))
        assert owners.max() < partitions


KNOWN_NUMBERS = ["0x9ca066f1a4ab2eea", "0xe5fdc025e13eeed5", "0x25b775faeca8f520", "0xf5569d02f7567301"]
KNOWN_STRINGS = ["0x9ca066f1a4ab2eea", "0x43324fe102221c46", "0xf5957c8f1e80bf14", "0x84b3de705da45855"]


def test_the_hash_never_changes() -> None:
    """Files of one release are read by the next: these numbers are for ever."""
    assert [hex(value) for value in hash_rows([pa.array([0, 1, -1, None])])] == KNOWN_NUMBERS
    assert [hex(value) for value in hash_rows([pa.array(["", "a", "12345678", "123456789"])])] == KNOWN_STRINGS


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array([1, -5], pa.int8()), pa.array([1, -5], pa.int64())),
        (pa.array([1, 5], pa.uint64()), pa.array([1, 5], pa.int16())),
        (pa.array([1.5, -0.0], pa.float32()), pa.array([1.5, 0.0], pa.float64())),
        (pa.array(["a", None]), pa.array(["a", None], pa.large_string())),
        (pa.array(["a", "b"]), pa.array(["a", "b"], pa.string_view())),
        (pa.array(["a", "b"]), pa.array([b"a", b"b"], pa.binary(1))),
        (pa.array(["a", "b"]), pa.array(["a", "b"]).dictionary_encode()),
        (pa.array([1, -1], pa.timestamp("s")), pa.array([10**9, -(10**9)], pa.timestamp("ns"))),
        (pa.array([1000], pa.timestamp("ms")), pa.array([10**6], pa.timestamp("us", "UTC"))),
        (pa.array([7], pa.time32("s")), pa.array([7 * 10**9], pa.time64("ns"))),
        (
            pa.array([decimal.Decimal("1.50")], pa.decimal128(5, 2)),
            pa.array([decimal.Decimal("1.5")], pa.decimal256(40, 1)),
        ),
        (pa.array([datetime.date(2020, 1, 1)]), pa.array([datetime.date(2020, 1, 1)], pa.date64())),
    ],
    ids=lambda value: str(value.type),
)
def test_equal_keys_of_different_types_meet(one: pa.Array, other: pa.Array) -> None:
    assert np.array_equal(hash_rows([one]), hash_rows([other]))


def test_nanoseconds_are_rounded_down() -> None:
    down = hash_rows([pa.array([-2, -1, 0, 1], pa.timestamp("us"))])
    assert list(hash_rows([pa.array([-1001, -1, 999, 1000], pa.timestamp("ns"))])) == list(down)


def test_what_has_no_hash_says_so() -> None:
    with pytest.raises(UserError, match=r"list<item: int64> cannot be a hash key"):
        hash_rows([pa.array([[1]])])
