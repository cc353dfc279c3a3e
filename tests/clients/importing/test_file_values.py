"""What the values of a file become, in each format: taken right, or their row rejected by name."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import random
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from engine.criteria.model import EventType
from engine.values import Kind
from milepost.importing import CannotImport, Format, Settings, csv_file, kinds
from milepost.importing.formats import open_source
from milepost.importing.json_values import UnfitValue, json_value
from milepost.importing.profiles import profiled
from milepost.importing.survey import KindFinder
from milepost.v1.catalog_service_pb2 import (
    VALUE_KIND_BOOL,
    VALUE_KIND_NUMBER,
    VALUE_KIND_STRING,
    VALUE_KIND_TIME,
    ValueKind,
)
from milepost.v1.ingest_service_pb2 import (
    TIME_UNIT_MICROSECONDS,
    TIME_UNIT_MILLISECONDS,
    TIME_UNIT_NANOSECONDS,
    TIME_UNIT_SECONDS,
    TimeUnit,
)
from milepost.v1.value_pb2 import Value
from tests.clients.importing.stored import Stored, stored

MICROS = 1_000_000
EARLIEST, LATEST = -62_135_596_800 * MICROS, 253_402_300_800 * MICROS - 1
TEN = int(datetime(2026, 11, 1, 10, tzinfo=UTC).timestamp()) * MICROS
TIME = "2026-11-01T10:00:00Z"
S, N, B, T, L = Kind.STRING, Kind.NUMBER, Kind.BOOL, Kind.TIME, Kind.LIST
INEXACT = "is an integer beyond 2^53, which no number holds exactly"
TEXTS = (
    "",
    "1",
    "-2.5",
    ".5",
    "5.",
    "007",
    "+5",
    "0x1A2B",
    "1e5",
    "1e999",
    "1e-400",
    "inf",
    "nan",
    "NA",
    "9007199254740992",
    "9007199254740993",
    "9007199254740993.0",
    "12345678901234567890123",
    "1,5",
    "1_0",
    " 1",
    "1 ",
    "true",
    "TRUE",
    "False",
    "yes",
    "2026-11-01",
    "2026-11-01 10:00",
    "2026-11-01T10:00Z",
    "2026-11-01T12:00:00+0200",
    "2026-11-01 10:00:00.5",
    "2026-02-30",
    "2026-11-01 24:00",
    "0000-01-01",
    "9999-12-31T23:59:59-01:00",
    "01.11.2026",
    "plain",
    'a "quoted" one',
    "two\nlines",
    "two\r\nlines",
    "lone\rreturn",
    "a;b\tc",
    "naïve \N{GRINNING FACE}",
    "'",
    "\\N",
)


# --- files of one attribute ---


def quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if set(text) & set('",\r\n;\t') else text


def write_csv(path: Path, texts: Sequence[str], line_end: str = "\n") -> Path:
    lines = [f"u{row},buy,{TIME},{quoted(text)}" for row, text in enumerate(texts)]
    data = line_end.join(["user_id,name,time,a", *lines, ""]).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_ndjson(path: Path, values: Sequence[Any]) -> Path:
    """Of texts that are JSON already, or of values."""
    shown = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in values]
    lines = [
        b'{"user_id": "u%d", "name": "buy", "time": "%s", "a": %s}' % (row, TIME.encode(), text)
        for row, text in enumerate(shown)
    ]
    path.write_bytes(b"\n".join(lines))
    return path


def write_parquet(path: Path, array: Any, **options: Any) -> Path:
    count = len(array)
    columns = {
        "user_id": [f"u{row}" for row in range(count)],
        "name": ["buy"] * count,
        "time": [TIME] * count,
        "a": array,
    }
    pyarrow.parquet.write_table(pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0x1A2B", (S, "0x1A2B")),
        ("2026-11-01 10:00", (T, TEN)),
        ("2026-11-01T10:00Z", (T, TEN)),
        ("9007199254740993", "rejected"),
        ("01234", (S, "01234")),
        ("+491711234567", (S, "+491711234567")),
        ("inf", (S, "inf")),
        ("1.50", (N, 1.5)),
        ("TRUE", (B, True)),
        ("2026-11-01", (T, TEN - 36_000 * MICROS)),
        ("2026-02-30", (S, "2026-02-30")),
        ("", None),
    ],
)
def test_the_kind_of_a_single_csv_value(tmp_path: Path, text: str, expected: Any) -> None:
    found = stored(write_csv(tmp_path / "e.csv", [text]))
    assert found.column("a") == [expected]
    if expected == "rejected":
        assert found.rejected == {0: ("attributes['a']", INEXACT)}


@pytest.mark.parametrize(
    ("texts", "kind", "misfit"),
    [
        (["1", "NA", "2", "3"], S, (1, "NA")),
        (["1", "", "2.5"], N, None),
        (["true", "1"], S, (1, "1")),
        (["2026-11-01", "2026-11-02 10:00"], T, None),
        (["a", "b", "1"], S, None),
        (["12", "007"], S, (1, "007")),
    ],
)
def test_a_column_has_a_kind_if_all_its_values_have_it(
    tmp_path: Path, texts: list[str], kind: Kind, misfit: tuple[int, str] | None
) -> None:
    path = write_csv(tmp_path / "e.csv", texts)
    assert {each[0] for each in stored(path).column("a") if each} == {kind}
    finder = KindFinder(Settings())
    finder.add(path, Format.AUTO)
    (column,) = finder.found().columns
    assert column.kind == int(kind)
    assert (column.misfit and (column.misfit.row, column.misfit.value)) == misfit


def test_kinds_are_found_over_all_files(tmp_path: Path) -> None:
    first = write_csv(tmp_path / "first.csv", ["1"] * 9)
    second = write_csv(tmp_path / "second.csv", ["2", "NA"])
    broken = tmp_path / "broken.csv"
    broken.write_text(f'user_id,name,time,a\nu,buy,{TIME},x\nu,buy,{TIME},"y\n', encoding="utf-8")
    finder = KindFinder(Settings())
    finder.add(first, Format.AUTO)
    with pytest.raises(CannotImport, match=r"broken.csv: row 1 has a quote that is not closed"):
        finder.add(broken, Format.AUTO)
    finder.add(second, Format.AUTO)
    kinds_found = finder.found()
    assert [str(each) for each in kinds_found.doubtful] == [
        "a: string, because 'NA' (second.csv, row 1) is not a number; 10 of 11 are"
    ]
    # Whatever the first file has by itself, it is read as all of them are.
    assert stored(first, Settings(found_kinds=kinds_found.by_column)).column("a") == [(S, "1")] * 9
    assert stored(first, Settings()).column("a") == [(N, 1.0)] * 9


def test_kinds_do_not_depend_on_block_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    monkeypatch.setattr(kinds, "VALUES_MIN", 100)
    path = tmp_path / "e.csv"
    columns = {
        "text": ["x", "1", "true", ""],
        "number": ["1", "2.5", "", "-3"],
        "nearly": ["1"] * 50 + ["NA"],
        "bool": ["true", "False", ""],
        "other": ["2026-11-01", "x", "y"],
        "time": ["2026-11-01", "2026-11-01 10:00"],
        "empty": [""],
    }
    lines = [",".join(rng.choice(texts) for texts in columns.values()) for _ in range(300)]
    lines.append(",".join(texts[-1] for texts in columns.values()))
    text = "".join(f"u,buy,{line}\n" for line in lines)
    path.write_text(f"user_id,name,{','.join(columns)}\n{text}", encoding="utf-8")
    found = []
    for block_bytes in (1 << 20, rng.randrange(20, 2_000), rng.randrange(20, 2_000)):
        monkeypatch.setattr(csv_file, "BLOCK_BYTES", block_bytes)
        finder = KindFinder(Settings(time_column="-"))
        finder.add(path, Format.AUTO)
        found.append({each.column: (each.kind, each.misfit) for each in finder.found().columns})
    assert found[0] == found[1] == found[2]
    assert {name: kind for name, (kind, _) in found[0].items()} == {
        "text": VALUE_KIND_STRING,
        "number": VALUE_KIND_NUMBER,
        "nearly": VALUE_KIND_STRING,
        "bool": VALUE_KIND_BOOL,
        "other": VALUE_KIND_STRING,
        "time": VALUE_KIND_TIME,
        "empty": VALUE_KIND_STRING,
    }
    misfit = found[0]["nearly"][1]
    assert misfit is not None
    assert lines[misfit.row].split(",")[2] == misfit.value == "NA"


def test_null_values(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "e.csv", ["1", "NA", "-", ""])
    assert stored(path, Settings(null_values=("NA", "-"))).column("a") == [(N, 1.0), None, None, None]


# --- random texts through three formats ---


@pytest.mark.parametrize("kind", [VALUE_KIND_STRING, VALUE_KIND_NUMBER, VALUE_KIND_BOOL, VALUE_KIND_TIME])
def test_texts_give_the_same_values_in_every_format(
    tmp_path: Path, kind: ValueKind.ValueType, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    texts = [*TEXTS, *(random_text(rng) for _ in range(300))]
    rng.shuffle(texts)
    # An empty text is a value everywhere but in CSV.
    texts = [text for text in texts if text]
    settings = Settings(kinds={"a": kind}, time_format=rng.choice(["", "%d.%m.%Y"]))
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", rng.randrange(1, 5_000))
    of_csv = stored(write_csv(tmp_path / "e.csv", texts, rng.choice(["\n", "\r\n"])), settings)
    of_tsv = stored(write_tsv(tmp_path / "e.TSV.gz", texts), settings)
    of_ndjson = stored(write_ndjson(tmp_path / "e.ndjson", texts), settings)
    of_parquet = stored(write_parquet(tmp_path / "e.parquet", pa.array(texts)), settings)
    of_codes = stored(write_parquet(tmp_path / "c.parquet", pa.array(texts).dictionary_encode()), settings)
    assert len(of_csv.events) + len(of_csv.rejected) == len(texts)
    for other in (of_tsv, of_ndjson, of_parquet, of_codes):
        assert other == of_csv
    for text, found in zip(texts, of_csv.column("a"), strict=True):
        assert found == expected_as(kind, text, settings), text


def expected_as(kind: int, text: str, settings: Settings) -> Any:
    """What a text is as a kind, by a parser of its own."""
    if kind == VALUE_KIND_STRING:
        return S, text
    if kind == VALUE_KIND_BOOL:
        return (B, text.lower() == "true") if text.lower() in ("true", "false") else "rejected"
    if kind == VALUE_KIND_NUMBER:
        return expected_number(text)
    return expected_time(text, settings)


def expected_number(text: str) -> Any:
    if not text.isascii() or set(text) - set("0123456789+-.eE"):
        return "rejected"
    try:
        number = float(text)
    except ValueError:
        return "rejected"
    if abs(number) == float("inf"):
        return "rejected"
    exact = Decimal(text)
    if abs(exact) > 2**53 and (not set(text) & set(".eE") or exact != Decimal(repr(number))):
        return "rejected"
    return N, number


def expected_time(text: str, settings: Settings) -> Any:
    if settings.time_format:
        try:
            if len(text) == 10:
                return T, micros(datetime.strptime(text, settings.time_format))
        except ValueError:
            pass
    if text.lstrip("+-").replace(".", "", 1).isdigit() and text.isascii():
        whole = text.lstrip("+-").partition(".")[0]
        fraction = text.partition(".")[2]
        is_count = (
            whole
            and len(whole.lstrip("0")) <= 18
            and len(fraction) <= 9
            and not text.endswith(".")
            and text[1:2] not in ("+", "-")
        )
        value = int(Decimal(text) // 1 if Decimal(text) >= 0 else -(-Decimal(text) // 1)) if is_count else 0
        if is_count and Decimal(text) < value:
            value -= 1
        return (T, value) if is_count and EARLIEST <= value <= LATEST else "rejected"
    plain = text[:-3].rstrip() + "Z" if text.endswith("UTC") else text
    if len(text) < 10 or text[4:5] != "-" or not text.isascii() or "\n" in text or "\r" in text:
        return "rejected"
    try:
        value = micros(datetime.fromisoformat(plain.upper()))
        return (T, value) if EARLIEST <= value <= LATEST else "rejected"
    except (ValueError, OverflowError):
        return "rejected"


def micros(time: datetime) -> int:
    zoned = time if time.tzinfo else time.replace(tzinfo=UTC)
    since = zoned - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * MICROS + since.microseconds


def random_text(rng: random.Random) -> str:
    return rng.choice([random_number, random_time, random_noise])(rng)


def random_number(rng: random.Random) -> str:
    digits = "".join(rng.choices("0123456789", k=rng.randrange(1, 20)))
    text = rng.choice(["", "", "-", "+"]) + digits
    if rng.random() < 0.5:
        text += "." + "".join(rng.choices("0123456789", k=rng.randrange(0, 12)))
    return text + (f"e{rng.randrange(-30, 30)}" if rng.random() < 0.2 else "")


def random_time(rng: random.Random) -> str:
    time = datetime.fromtimestamp(rng.randrange(-(10**10), 10**11), UTC)
    text = time.strftime("%Y-%m-%d").zfill(10)
    if rng.random() < 0.2:
        return rng.choice([text, time.strftime("%d.%m.%Y")])
    text += rng.choice("T ") + time.strftime(rng.choice(["%H:%M", "%H:%M:%S", "%H:%M:%S.250"]))
    return text + rng.choice(["", "Z", "+0100", "-02:30", "+05", " UTC"])


def random_noise(rng: random.Random) -> str:
    return "".join(rng.choices('ab01.,-+eE:"; \t\r\n\u00e9T', k=rng.randrange(1, 12)))


def write_tsv(path: Path, texts: Sequence[str]) -> Path:
    lines = [f"u{row}\tbuy\t{TIME}\t{quoted(text)}" for row, text in enumerate(texts)]
    path.write_bytes(gzip.compress("\n".join(["user_id\tname\ttime\ta", *lines]).encode()))
    return path


def test_numbers_give_the_same_values_in_every_format(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    limit = 2**53
    whole = [
        limit,
        limit + 1,
        -limit,
        -limit - 1,
        10**18,
        0,
        *(rng.randrange(-(2**63), 2**63) for _ in range(50)),
    ]
    whole += [rng.randrange(-(10 ** rng.randrange(1, 17)), 10**16) for _ in range(50)]
    texts = [str(each) for each in whole]
    of_csv = stored(write_csv(tmp_path / "e.csv", texts))
    as_json = stored(write_ndjson(tmp_path / "e.ndjson", [text.encode() for text in texts]))
    of_parquet = stored(write_parquet(tmp_path / "e.parquet", pa.array(whole, pa.int64())))
    decimals = pa.array([Decimal(each) for each in whole], pa.decimal128(30, 0))
    of_decimals = stored(write_parquet(tmp_path / "d.parquet", decimals))
    held = [(N, float(each)) if abs(each) <= limit else "rejected" for each in whole]
    assert of_csv.column("a") == held
    assert of_csv.rejected
    assert of_csv == as_json == of_parquet == of_decimals
    fractions = [repr(rng.uniform(-1, 1) * 10.0 ** rng.randrange(-20, 30)) for _ in range(100)]
    fractions += ["9007199254740993.0", "9007199254740993e0", "9007199254740993.5", "1e23", "1e22"]
    of_csv = stored(write_csv(tmp_path / "f.csv", fractions))
    as_json = stored(write_ndjson(tmp_path / "f.ndjson", [text.encode() for text in fractions]))
    assert of_csv.column("a")[:100] == [(N, float(text)) for text in fractions[:100]]
    assert of_csv.column("a")[100:] == ["rejected", "rejected", "rejected", (N, 1e23), (N, 1e22)]
    assert of_csv == as_json


# --- times that are numbers ---

NOT_EXACT = "is a number that states no time exactly: write it as a text or an integer"
UNITS = {TIME_UNIT_SECONDS: 10**9, TIME_UNIT_MILLISECONDS: 10**6, TIME_UNIT_MICROSECONDS: 10**3}


def test_numeric_times_give_the_same_values_in_every_format(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for unit, nanos in UNITS.items():
        a_second = 10**9 / nanos
        numbers = [0.5, -0.5, 1793527200.5, 1793527200.123456, -1.0, 3.0]
        numbers += [rng.uniform(-(2**31), 2**32) * a_second for _ in range(200)]
        numbers += [round(rng.uniform(0, 2**32) * a_second, rng.randrange(9)) for _ in range(200)]
        # As digits that no grammar takes for anything else.
        texts = [f"{Decimal(repr(each)):.9f}" for each in numbers]
        settings = Settings(kinds={"a": VALUE_KIND_TIME}, time_unit=unit)
        of_texts = stored(write_csv(tmp_path / "e.csv", texts), settings)
        of_floats = stored(write_parquet(tmp_path / "e.parquet", pa.array(numbers)), settings)
        as_decimals = pa.array([Decimal(text) for text in texts], pa.decimal128(38, 18))
        of_decimals = stored(write_parquet(tmp_path / "d.parquet", as_decimals), settings)
        of_json = stored(write_ndjson(tmp_path / "e.ndjson", numbers), settings)
        expected = [(T, math.floor(Decimal(text) * nanos / 1000)) for text in texts]
        assert of_texts.column("a") == expected
        assert of_texts.rejected == {}
        assert of_texts == of_floats == of_decimals == of_json


@pytest.mark.parametrize(
    ("number", "unit", "expected"),
    [
        (1793527200.5, TIME_UNIT_SECONDS, 1793527200_500_000),
        (1793527200.1, TIME_UNIT_SECONDS, 1793527200_100_000),
        (-0.0000005, TIME_UNIT_SECONDS, -1),
        (253_402_300_799.0, TIME_UNIT_SECONDS, 253_402_300_799 * MICROS),
        (253_402_300_799.5, TIME_UNIT_SECONDS, NOT_EXACT),
        (1.7935272e18, TIME_UNIT_NANOSECONDS, NOT_EXACT),
        (1.5, TIME_UNIT_NANOSECONDS, 0),
        (float("nan"), TIME_UNIT_SECONDS, "is not a time"),
        (float("-inf"), TIME_UNIT_SECONDS, "is not a time"),
        (1e15, TIME_UNIT_SECONDS, "is outside of the years 1 to 9999"),
        (np.float32(1793527200), TIME_UNIT_SECONDS, NOT_EXACT),
        (np.float32(1024.5), TIME_UNIT_SECONDS, NOT_EXACT),
        (np.float32(0.5), TIME_UNIT_SECONDS, 500_000),
        (np.float16(2048), TIME_UNIT_SECONDS, 2048 * MICROS),
        (Decimal("1793527200.500000000000"), TIME_UNIT_SECONDS, 1793527200_500_000),
        (Decimal("0.0000000000"), TIME_UNIT_SECONDS, 0),
        (Decimal("1E+3"), TIME_UNIT_SECONDS, 1000 * MICROS),
    ],
)
def test_a_numeric_time_is_exact_or_rejects_its_row(
    tmp_path: Path, number: Any, unit: TimeUnit.ValueType, expected: int | str
) -> None:
    paths = [write_parquet(tmp_path / "e.parquet", pa.array([number]))]
    if type(number) is float and np.isfinite(number):
        paths.append(write_ndjson(tmp_path / "e.ndjson", [number]))
    for path in paths:
        found = stored(path, Settings(time_column="a", time_unit=unit, exclude=("time",)))
        if isinstance(expected, str):
            # What the reader itself refuses goes by the name of the file's column.
            field = "a" if path.suffix == ".ndjson" and expected == NOT_EXACT else "time"
            assert found.rejected == {0: (field, expected)}
        else:
            assert [event["time"] for event in found.events.values()] == [expected]


# --- blocks ---

BLOCKS = (
    b'user_id,name,time,a\r\nu0,buy,1,"x\r\ny"\ru1,buy,2,"q""\r\n"\nu2,buy,3,5" pipe\r\n\r\nshort\n'
    b'u3,"b,\n",4,"\r"\n'
)
"""Each kind of line end, within quotes and outside of them, and a row that is set aside."""


@pytest.mark.parametrize("name", ["e.csv", "e.csv.GZ"])
def test_rows_do_not_depend_on_block_size(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(BLOCKS) if name.endswith("GZ") else BLOCKS)
    settings = Settings(kinds={"a": VALUE_KIND_STRING})
    for block_bytes in range(1, len(BLOCKS) + 2):
        monkeypatch.setattr(csv_file, "BLOCK_BYTES", block_bytes)
        found = stored(path, settings)
        assert found.column("a") == [
            (S, "x\r\ny"),
            (S, 'q"\r\n'),
            (S, '5" pipe'),
            "rejected",
            (S, "\r"),
        ], block_bytes
        assert found.rejected == {3: ("", "has 1 columns; 4 are expected")}
        assert found.events[4]["name"] == "b,\n"


def test_random_files_in_random_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    path = tmp_path / "e.csv"
    for _ in range(40):
        texts = ["".join(rng.choices('a",\r\n;é', k=rng.randrange(1, 6))) for _ in range(30)]
        data = f"user_id,name,time,a{rng.choice(LINE_ENDS)}".encode()
        for row, text in enumerate(texts):
            data += f"u{row},buy,{row},{quoted(text)}{rng.choice(LINE_ENDS)}".encode()
        path.write_bytes(data if rng.random() < 0.5 else gzip.compress(data))
        monkeypatch.setattr(csv_file, "BLOCK_BYTES", rng.randrange(1, 200))
        found = stored(path, Settings(kinds={"a": VALUE_KIND_STRING}))
        assert found.column("a") == [(S, text) for text in texts]
        assert not found.rejected


LINE_ENDS = ("\n", "\r\n", "\r", "\n\n")


# --- Parquet ---


def test_int96_timestamps_of_any_year(tmp_path: Path) -> None:
    """INT96, as Spark, Hive and Impala write it."""
    texts = ["9999-12-31T23:59:59", "2262-04-12T00:00:00", "0001-01-01T00:00:00", "2026-11-01T10:00:00"]
    times = pa.array([datetime.fromisoformat(text) for text in texts], pa.timestamp("us"))
    path = write_parquet(tmp_path / "e.parquet", times, use_deprecated_int96_timestamps=True)
    found = stored(path)
    assert found.column("a") == [(T, micros(datetime.fromisoformat(text))) for text in texts]


def texts_of(values: list[bytes | None], type_: Any) -> Any:
    """Texts as other programs may write them, without the check that pyarrow makes."""
    plain = pa.array(values, pa.large_binary() if pa.types.is_large_string(type_) else pa.binary())
    return pa.Array.from_buffers(type_, len(values), plain.buffers())


NOT_UTF8 = [b"caf\xe9", b"caf\xc3\xa9", None, b"\xff", b"x"]


@pytest.mark.parametrize("form", ["string", "large", "list", "object"])
def test_texts_of_parquet_that_are_not_utf8_reject_their_rows(tmp_path: Path, form: str) -> None:
    array = texts_of(NOT_UTF8, pa.large_string() if form == "large" else pa.string())
    settings, field = Settings(), "attributes['a']"
    expected: Any = S, "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    if form == "list":
        array = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3, 4, 5]), array).take(pa.array([0, 1, 3, 3, 4]))
        expected = L, (expected[1],)
    if form == "object":
        array = pa.StructArray.from_arrays([array], ["b"])
        settings, field = Settings(flatten=("a",)), "attributes['b']"
    path = write_parquet(tmp_path / "e.parquet", array, store_schema=False)
    found = stored(path, settings)
    bad = [0, 2, 3] if form == "list" else [0, 3]
    assert found.rejected == dict.fromkeys(bad, (field, "is not UTF-8"))
    assert found.events[1]["b" if form == "object" else "a"] == expected
    assert sorted(found.events) == [row for row in range(5) if row not in bad]


def test_ids_of_parquet_that_are_not_utf8_reject_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    users = texts_of([b"u0", b"\xff", b"u2"], pa.string())
    table = pa.table({"user_id": users, "name": ["buy"] * 3, "time": [TIME] * 3})
    pyarrow.parquet.write_table(table, path)
    (segment,) = open_source(path, Format.AUTO, Settings(), 3).segments(0, 0)
    (malformed,) = segment.malformed
    assert (malformed.row, malformed.field, malformed.description) == (1, "user_id", "is not UTF-8")
    assert malformed.data == {"user_id": "\N{REPLACEMENT CHARACTER}", "name": "buy", "time": TIME}
    assert [segment.row_of(place) for place in range(2)] == [0, 2]


def test_a_parquet_column_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "e.parquet", pa.array([1]), store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"user_id", b"user\xffid"))
    with pytest.raises(CannotImport, match=r"e\.parquet has a column whose name is not UTF-8: rename it"):
        stored(path)


def test_int96_timestamps_in_objects_reject_their_rows_out_of_range(tmp_path: Path) -> None:
    """In microseconds, the first wraps around into the year 2026."""
    wrapped = (TEN + 2**64) // MICROS
    times = pa.array([wrapped, TEN // MICROS, None], pa.timestamp("s"))
    array = pa.StructArray.from_arrays([times, pa.array([1, 2, 3])], ["t", "n"])
    path = write_parquet(tmp_path / "e.parquet", array, use_deprecated_int96_timestamps=True)
    found = stored(path, Settings(flatten=("a",)))
    assert found.rejected == {0: ("attributes['t']", "is outside of the years 1 to 9999")}
    assert [found.events[row].get("t") for row in (1, 2)] == [(T, TEN), None]
    assert [found.events[row]["n"] for row in (1, 2)] == [(N, 2.0), (N, 3.0)]


def test_a_parquet_page_that_differs_from_its_checksum_is_damaged(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "e.parquet",
        pa.array(["abcdefgh"]),
        write_page_checksum=True,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
    )
    whole = path.read_bytes()
    assert stored(path).column("a") == [(S, "abcdefgh")]
    path.write_bytes(whole.replace(b"abcdefgh", b"abcdefgX", 1))
    with pytest.raises(CannotImport, match=r"e\.parquet is damaged: .*CRC"):
        stored(path)


@pytest.mark.parametrize("number", ["1e400", "-1e400"])
def test_a_json_number_out_of_range_names_its_attribute(tmp_path: Path, number: str) -> None:
    path = tmp_path / "e.ndjson"
    lines = [f'{{"user_id":"u","name":"e","time":"{TIME}","a":{value}}}' for value in (number, "1")]
    path.write_text("\n".join(lines))
    assert stored(path).rejected == {0: ("attributes['a']", "is beyond the range of a number")}
    assert stored(path, Settings(exclude=("a",))).rejected == {}
    path.write_text(f'{{"user_id":"u","name":"e","time":{number}}}')
    assert stored(path).rejected == {0: ("time", "is not a time")}


EXTREMES: Sequence[tuple[Any, list[int]]] = [
    (pa.timestamp("ms", "UTC"), [2**63 - 1, -(2**63), 253_402_300_800_000, 1_000]),
    (pa.timestamp("us"), [2**63 - 1, -(2**63), 253_402_300_800_000_000, MICROS]),
    (pa.timestamp("us", "Europe/Berlin"), [2**63 - 1, -(2**63), 253_402_300_800_000_000, MICROS]),
    (pa.date32(), [2**31 - 1, -(2**31), 2_932_897, 1]),
]


@pytest.mark.parametrize(("type_", "counts"), EXTREMES, ids=lambda each: str(each)[:20])
@pytest.mark.parametrize("kind", [None, VALUE_KIND_TIME, VALUE_KIND_STRING])
def test_times_out_of_range_reject_their_rows(
    tmp_path: Path, type_: Any, counts: list[int], kind: ValueKind.ValueType | None
) -> None:
    width = pa.int32() if pa.types.is_date32(type_) else pa.int64()
    path = write_parquet(tmp_path / "e.parquet", pa.array(counts, width).view(type_))
    found = stored(path, Settings(kinds={} if kind is None else {"a": kind}))
    outside = "attributes['a']", "is outside of the years 1 to 9999"
    assert found.rejected == {0: outside, 1: outside, 2: outside}
    assert set(found.events) == {3}
    # The time of the event too.
    of_time = stored(path, Settings(time_column="a"))
    assert of_time.rejected == dict.fromkeys(range(3), ("time", "is outside of the years 1 to 9999"))


OUTSIDE = "is outside of the years 1 to 9999"
LAST_SECOND = 253_402_300_799
BEFORE_FIRST_SECOND = -62_135_596_801
COUNTS: dict[TimeUnit.ValueType, list[int]] = {
    unit: [
        *(2**63 - 1, -(2**63), 2**64 - 1, 10**18, -(10**18), 10**25, -(10**25)),
        *(LAST_SECOND * 10**9 // nanos, BEFORE_FIRST_SECOND * 10**9 // nanos),
        *((LAST_SECOND + 1) * 10**9 // nanos, 1_793_527_200 * 10**9 // nanos, -1, 0),
    ]
    for unit, nanos in {**UNITS, TIME_UNIT_NANOSECONDS: 1}.items()
}
"""Counts of each unit around the ends of 64 bits and of the years 1 to 9999."""


def in_range(count: int, nanos: int) -> int | None:
    """The microseconds of a count; None outside of the years 1 to 9999."""
    micros = count * nanos // 1000
    return micros if (BEFORE_FIRST_SECOND + 1) * MICROS <= micros < (LAST_SECOND + 1) * MICROS else None


@pytest.mark.parametrize(("unit", "counts"), COUNTS.items(), ids=map(TimeUnit.Name, COUNTS))
def test_counts_out_of_range_read_the_same_in_every_format(
    tmp_path: Path, unit: TimeUnit.ValueType, counts: list[int]
) -> None:
    nanos = {**UNITS, TIME_UNIT_NANOSECONDS: 1}[unit]
    micros = [in_range(count, nanos) for count in counts]
    paths = [
        write_csv(tmp_path / "e.csv", [str(count) for count in counts]),
        write_csv(tmp_path / "f.csv", [f"{count:+}.0" for count in counts]),
        write_ndjson(tmp_path / "e.ndjson", [str(count) for count in counts]),
        write_parquet(tmp_path / "d.parquet", pa.array(map(Decimal, counts), pa.decimal128(38, 0))),
    ]
    outside = {row: OUTSIDE for row, each in enumerate(micros) if each is None}
    assert 0 < len(outside) < len(counts)
    for path in paths:
        found = stored(path, Settings(kinds={"a": VALUE_KIND_TIME}, time_unit=unit))
        assert found.rejected == {row: ("attributes['a']", why) for row, why in outside.items()}
        assert found.column("a") == ["rejected" if each is None else (T, each) for each in micros]
        found = stored(path, Settings(time_column="a", time_unit=unit, exclude=("time",)))
        assert found.rejected == {row: ("time", why) for row, why in outside.items()}
        times = [found.events[row]["time"] for row, each in enumerate(micros) if each is not None]
        assert times == [each for each in micros if each is not None]


@pytest.mark.parametrize("unit", [*UNITS, TIME_UNIT_NANOSECONDS], ids=TimeUnit.Name)
@pytest.mark.parametrize("type_", [pa.int64(), pa.uint64()], ids=str)
def test_integers_of_64_bits_read_as_texts_do(
    tmp_path: Path, unit: TimeUnit.ValueType, type_: pa.DataType
) -> None:
    nanos = {**UNITS, TIME_UNIT_NANOSECONDS: 1}[unit]
    least, most = (0, 2**64) if pa.types.is_uint64(type_) else (-(2**63), 2**63)
    counts = [count for count in COUNTS[unit] if least <= count < most]
    path = write_parquet(tmp_path / "e.parquet", pa.array(counts, type_))
    found = stored(path, Settings(time_column="a", time_unit=unit, exclude=("time",)))
    micros = [in_range(count, nanos) for count in counts]
    assert found.rejected == {row: ("time", OUTSIDE) for row, each in enumerate(micros) if each is None}
    assert [event["time"] for event in found.events.values()] == [each for each in micros if each is not None]


@pytest.mark.parametrize("number", [1e30, -1e30, 1e300, 9.3e18, 2.0**63])
def test_floats_far_out_of_range_say_so(tmp_path: Path, number: float) -> None:
    paths = [
        write_parquet(tmp_path / "e.parquet", pa.array([number])),
        write_ndjson(tmp_path / "e.ndjson", [number]),
    ]
    for path in paths:
        found = stored(path, Settings(time_column="a", exclude=("time",)))
        assert found.rejected == {0: ("time", OUTSIDE)}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10000-01-01T00:00:00Z", "is not a time"),
        ("0000-12-31T23:59:59Z", OUTSIDE),
        ("9999-12-31T23:59:59-01:00", OUTSIDE),
        ("0001-01-01T00:00:00+01:00", OUTSIDE),
        ("2026-02-30T00:00:00Z", "is not a time"),
        ("soon", "is not a time"),
    ],
)
def test_written_times_out_of_range_read_the_same_in_every_format(
    tmp_path: Path, text: str, why: str
) -> None:
    kind = Settings(kinds={"a": VALUE_KIND_TIME})
    for path, settings in (
        (write_csv(tmp_path / "e.csv", [text]), kind),
        (write_ndjson(tmp_path / "e.ndjson", [text]), kind),
        (write_ndjson(tmp_path / "f.ndjson", [{"timeValue": text}]), Settings()),
        (write_ndjson(tmp_path / "g.ndjson", [{"time_value": text}]), Settings()),
        (write_parquet(tmp_path / "e.parquet", pa.array([text])), kind),
    ):
        assert stored(path, settings).rejected == {0: ("attributes['a']", why)}


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([2**64 - 1, 7], pa.uint64()), ["rejected", (N, 7.0)]),
        (pa.array(np.array([0.5, np.inf, np.nan], np.float16)), [(N, 0.5), "rejected", "rejected"]),
        (pa.array([0.1, float("nan"), -float("inf")]), [(N, 0.1), "rejected", "rejected"]),
        (
            pa.array([Decimal("9007199254740993.00"), Decimal("0.10")], pa.decimal128(38, 2)),
            ["rejected", (N, 0.1)],
        ),
        (pa.array([Decimal("9" * 70), Decimal(3)], pa.decimal256(76, 0)), ["rejected", (N, 3.0)]),
        (pa.array(["a", None, "a"]).dictionary_encode(), [(S, "a"), None, (S, "a")]),
        (pa.array([["a"], None, ["b", None]]), [(L, ("a",)), None, "rejected"]),
        (pa.nulls(2), [None, None]),
        (pa.array([True, None]), [(B, True), None]),
    ],
    ids=lambda each: str(each.type)[:20] if isinstance(each, pa.Array) else "",
)
def test_values_of_parquet_types(tmp_path: Path, array: Any, expected: list[Any]) -> None:
    assert stored(write_parquet(tmp_path / "e.parquet", array)).column("a") == expected


@pytest.mark.parametrize(
    ("array", "type_", "flatten"),
    [
        (pa.array([{"x": 1}]), "struct<x: int64>", True),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), "map<string, int64", False),
        (pa.array([b"x"]), "binary", False),
        (pa.array([1], pa.duration("s")), "duration[s]", False),
        (pa.array([[1]]), "list<element: int64>", False),
        (pa.array([1], pa.time64("us")), "time64[us]", False),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_column_that_no_attribute_can_hold_is_refused_before_a_row_is_sent(
    tmp_path: Path, array: Any, type_: str, flatten: bool
) -> None:
    path = write_parquet(tmp_path / "e.parquet", array)
    with pytest.raises(CannotImport) as raised:
        stored(path)
    ways = ["leave it out with --exclude a", "leave out and count all such values with --skip-objects"]
    if flatten:
        ways.insert(1, "make its members columns with --flatten a")
    said = str(raised.value)
    assert said.startswith(f"{path}: has a column of a type that no attribute can hold: 'a' ({type_}")
    assert said.endswith(f": {', '.join(ways[:-1])}, or {ways[-1]}")
    assert stored(path, Settings(exclude=("a",))).column("a") == [None]
    skipped = stored(path, Settings(skip_objects=True))
    assert (skipped.column("a"), skipped.left_out) == ([None], {"a": 1})


@pytest.mark.parametrize("suffix", ["parquet", "ndjson"])
def test_flatten_reaches_nested_objects_and_keeps_other_members(tmp_path: Path, suffix: str) -> None:
    objects = [
        {"device": {"os": "x", "name": "n"}, "page": {"url": "/"}},
        {"device": {"os": "y", "name": "m"}, "page": {"url": "/a"}},
    ]
    path = tmp_path / f"e.{suffix}"
    write_parquet(path, pa.array(objects)) if suffix == "parquet" else write_ndjson(path, objects)
    both = stored(path, Settings(flatten=("a.device", "a.page")))
    assert (both.rejected, both.left_out) == ({}, {})
    assert (both.column("os"), both.column("url")) == ([(S, "x"), (S, "y")], [(S, "/"), (S, "/a")])
    assert both.column("a.device.name") == [(S, "n"), (S, "m")]
    one = stored(path, Settings(flatten=("a.device",), skip_objects=True))
    assert (one.column("os"), one.left_out) == ([(S, "x"), (S, "y")], {"a": 2})


@pytest.mark.parametrize("suffix", ["csv", "parquet", "ndjson"])
def test_an_unnamed_column_is_ignored_if_empty_and_refused_if_not(tmp_path: Path, suffix: str) -> None:
    def write(values: list[str | None]) -> Path:
        path = tmp_path / f"e.{suffix}"
        rows = [{"user_id": "u", "name": "buy", "time": TIME, "": value} for value in values]
        if suffix == "csv":
            lines = [f"u,buy,{TIME},{value or ''}\n" for value in values]
            path.write_text("user_id,name,time,\n" + "".join(lines), encoding="utf-8")
        elif suffix == "parquet":
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
        else:
            path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return path

    event = {"user_id": "u", "name": "buy", "time": TEN}
    assert stored(write([None, "", None])).events == dict.fromkeys(range(3), event)
    path = write([None, "x"])
    with pytest.raises(CannotImport, match=r"has no name, but row 1 has 'x' in it: .*--exclude ''"):
        stored(path)
    assert stored(path, Settings(exclude=("",))).events == dict.fromkeys(range(2), event)


def test_an_unnamed_member_after_the_first_lines_rejects_its_row(tmp_path: Path) -> None:
    path = tmp_path / "e.ndjson"
    line = '{"user_id": "u", "name": "buy", "time": "2026-11-01"%s}\n'
    path.write_text(line % "" * 1_000 + line % ', "": 1', encoding="utf-8")
    assert stored(path).rejected == {1_000: ("", "has a member without a name that is not empty")}


def test_objects_of_a_parquet_file(tmp_path: Path) -> None:
    objects = [
        {"price": 9.5, "name": "shoe", "deep": {"x": 1}},
        None,
        {"price": None, "name": "hat", "deep": None},
    ]
    path = write_parquet(tmp_path / "e.parquet", pa.array(objects))
    found = stored(path, Settings(flatten=("a",), skip_objects=True))
    assert found.column("price") == [(N, 9.5), None, None]
    assert found.column("a.name") == [(S, "shoe"), None, (S, "hat")]
    assert [event["name"] for event in found.events.values()] == ["buy"] * 3
    assert found.left_out == {"deep": 1}


# --- NDJSON ---


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"numberValue": "9.5"}, (N, 9.5)),
        ({"number_value": 9.5}, (N, 9.5)),
        ({"numberValue": 9}, (N, 9.0)),
        ({"numberValue": "9007199254740993"}, INEXACT),
        ({"numberValue": 9007199254740993}, INEXACT),
        ({"numberValue": "NaN"}, "must be a finite number"),
        ({"numberValue": True}, "is not a Value: numberValue must be a number, not true"),
        ({"number_value": False}, "is not a Value: numberValue must be a number, not false"),
        ({"numberValue": [1]}, "is not a Value: "),
        ({"numberValue": "1e5"}, (N, 100_000.0)),
        ({"numberValue": "1_000"}, "is not a Value: numberValue '1_000' is not a number"),
        ({"numberValue": " 5"}, "is not a Value: numberValue ' 5' is not a number"),
        ({"numberValue": "\N{FULLWIDTH DIGIT ONE}"}, "is not a Value: numberValue "),
        ({"numberValue": "nine"}, "is not a Value: Couldn't parse float: nine at Value.numberValue"),
        ({"stringValue": "5"}, (S, "5")),
        ({"stringValue": 5}, "is not a Value: Failed to parse stringValue field: expected string"),
        ({"boolValue": True}, (B, True)),
        ({"boolValue": "true"}, "is not a Value: Expected true or false without quotes at Value.boolValue"),
        ({"timeValue": TIME}, (T, TEN)),
        ({"time_value": "2026-11-01T12:00:00.000000999+02:00"}, (T, TEN)),
        ({"timeValue": "2026-11-01"}, "is not a Value: "),
        ({"listValue": {"values": ["a"]}}, (L, ("a",))),
        ({"listValue": {"values": [1]}}, "is not a Value: "),
        ({"stringValue": "a", "numberValue": 1}, "is not a Value: "),
        ({"stringValue": None}, None),
        ({"a": 1}, "must be a string, a number, a bool or an array of strings"),
        ({}, "must be a string, a number, a bool or an array of strings"),
        ([1], "must be a string, a number, a bool or an array of strings"),
    ],
)
def test_values_of_the_contract_s_own_form(tmp_path: Path, given: Any, expected: Any) -> None:
    found = stored(write_ndjson(tmp_path / "e.ndjson", [given]))
    if isinstance(expected, str):
        field, description = found.rejected[0]
        assert field == "attributes['a']"
        assert description.startswith(expected)
    else:
        assert found.column("a") == [expected]


anything_in_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@drawn(
    field=st.sampled_from([name for each in Value.DESCRIPTOR.fields for name in (each.name, each.json_name)]),
    member=anything_in_json,
)
def test_any_json_is_a_value_or_an_unfit_value(field: str, member: object) -> None:
    """What protobuf, Python or msgspec raise would end the import."""
    with contextlib.suppress(UnfitValue):
        json_value({field: member}, is_checked=True)


@pytest.mark.parametrize(
    ("line", "twice"),
    [
        ('{"user_id":"u","name":"e","time":"%s","a":1,"a":2}', "a"),
        ('{"user_id":"u","name":"e","time":"%s","a" : 1,"b":2,"a" :2}', "a"),
        ('{"user_id":"u","name":"e","time":"%s","a":1,"a":2,"b" :3}', "a"),
        ('{"user_id":"u","name":"e","time":"%s","a":1,"a":2,"b"\t:3,"c" \t :4,"c":5}', "a"),
        ('{"user_id":"u","user_id":"v","name":"e","time":"%s","a":1}', "user_id"),
        ('{"user_id":"u","name":"e","time":"%s","attributes":{"a":1,"a":1}}', "a"),
        ('{"user_id":"u","name":"e","time":"%s","a":1,"\\u0061":2}', "a"),
        ('{"user_id":"u","name":"e","time":"%s","a":"x\\":1","b":"\\":"}', ""),
        ('{"user_id":"u","name":"e","time":"%s","a" :1,"b"\t: 2}', ""),
        ('{"user_id":"u","name":"e","time":"%s","a":{"numberValue":1},"b":{"numberValue":1}}', ""),
    ],
)
def test_member_that_comes_twice_is_refused(tmp_path: Path, line: str, twice: str) -> None:
    """A decoder keeps one of them and says nothing."""
    path = tmp_path / "e.ndjson"
    path.write_text((line % TIME) + "\n")
    found = stored(path)
    if twice:
        assert found.rejected == {0: ("", f"has the member {twice!r} twice")}
    else:
        assert found.rejected == {}
        assert len(found.events) == 1


def test_time_values_keep_their_kind_in_a_mixed_column(tmp_path: Path) -> None:
    found = stored(write_ndjson(tmp_path / "e.ndjson", [{"timeValue": TIME}, "text", 5]))
    assert found.column("a") == [(T, TEN), (S, "text"), (N, 5.0)]


def test_fields_of_the_contract_s_own_form(tmp_path: Path) -> None:
    """`type` and `input` are the event's own where their values can be nothing else."""
    path = tmp_path / "e.ndjson"
    full = "accounts/a/workspaces/w/inputs/i"
    members: list[dict[str, Any]] = [
        {"type": "EVENT_TYPE_COMMERCE", "input": full},
        {"type": "gift", "input": "keyboard"},
        {"type": "EVENT_TYPE_NONE"},
        {"type": 3},
        {},
    ]
    rows = [{"user_id": "u", "name": "buy", "time": TIME, **each} for each in members]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = stored(path)
    assert found.rejected == {2: ("type", "is not an event type")}
    assert found.types == {
        0: EventType.COMMERCE,
        1: EventType.CUSTOM,
        3: EventType.CUSTOM,
        4: EventType.CUSTOM,
    }
    assert found.inputs == {0: full, 1: "", 3: "", 4: ""}
    assert found.column("type") == [None, (S, "gift"), "rejected", (N, 3.0), None]
    assert found.column("input") == [None, (S, "keyboard"), "rejected", None, None]
    # The caller may want it otherwise.
    as_text = stored(path, Settings(kinds={"type": VALUE_KIND_STRING}))
    assert as_text.column("type")[0] == (S, "EVENT_TYPE_COMMERCE")
    named = stored(path, Settings(type_column="type", exclude=("input",)))
    assert (named.types[0], named.types[3]) == (EventType.COMMERCE, EventType.COMMERCE)
    assert set(named.rejected) == {1, 2}


SEGMENT_LINES = [
    {
        "type": "track",
        "userId": "ann",
        "event": "Order Completed",
        "messageId": "m1",
        "originalTimestamp": "2026-11-01T10:00:00.000Z",
        "properties": {"revenue": 9.5, "type": "gift", "products": [{"sku": "a"}]},
        "context": {"library": {"name": "js"}},
        "integrations": {},
    },
    {"type": "page", "userId": "bob", "timestamp": "2026-11-01T10:00:00Z", "properties": {"path": "/"}},
]


@pytest.mark.parametrize("profile", ["segment", "rudderstack"])
def test_lines_of_segment_and_rudderstack(tmp_path: Path, profile: str) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text("\n".join(map(json.dumps, SEGMENT_LINES)), encoding="utf-8")
    found = stored(path, profiled(Settings(exclude=("integrat*",)), profile))
    assert found.rejected == {}
    assert found.events == {
        0: {
            "time": TEN,
            "user_id": "ann",
            "name": "Order Completed",
            "type": (S, "track"),
            "revenue": (N, 9.5),
            "properties.type": (S, "gift"),
        },
        1: {
            "time": TEN,
            "user_id": "bob",
            "name": "page",
            "type": (S, "page"),
            "timestamp": (S, TIME),
            "path": (S, "/"),
        },
    }
    assert found.left_out == {"products": 1, "context": 1}


# --- headers and encodings ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user_id,name,time,amount,amount\n", "line 1: the header has more than one column 'amount'"),
        (
            "user_id;name;time\nu;buy;1\n",
            "line 1: the header has none .* give --delimiter ';'",
        ),
        ("user_id\tname\ttime\nu\tbuy\t1\n", "line 1: .* give --delimiter tab"),
        (
            "user_id,name,time,\nu,buy,1,\nu,buy,1,x\n",
            "line 1: column 4 has no name, but row 1 has 'x'",
        ),
        ("", "is empty: the first line must name the columns"),
    ],
)
def test_a_header_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "e.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CannotImport, match=rf"e\.csv,? ?.*{message}"):
        stored(path)


@pytest.mark.parametrize(
    ("encoding", "named"), [("utf-16", "UTF-16"), ("utf-16-le", "UTF-16LE"), ("utf-16-be", "UTF-16BE")]
)
@pytest.mark.parametrize("name", ["e.csv", "e.ndjson"])
def test_utf16_is_refused_by_name(tmp_path: Path, encoding: str, named: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes("user_id,name,time\nu,buy,1\n".encode(encoding))
    with pytest.raises(CannotImport, match=rf"{name}, line 1: the file is UTF-16.* iconv -f {named} "):
        stored(path)


@pytest.mark.parametrize("rows", [1, 1_000])
def test_a_zero_byte_in_a_value_is_kept(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "e.csv"
    path.write_text("user_id,name,time,a\n" + "u,buy,1,x\n" * rows + "u,buy,1,a\0b\n")
    assert stored(path).column("a") == [(S, "x")] * rows + [(S, "a\0b")]


def test_zero_bytes_in_the_header_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_bytes(b"PK\x03\x04\0\0not text\n")
    with pytest.raises(CannotImport, match=r"e\.csv, line 1: the file has zero bytes"):
        stored(path)


def test_empty_unnamed_columns_of_csv_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text('user_id,name,time,a,, \nu0,buy,1,x,,""\n\n', encoding="utf-8-sig")
    found = stored(path)
    assert found.events == {0: {"user_id": "u0", "name": "buy", "time": 1, "a": (S, "x")}}


@pytest.mark.parametrize("end", ["", "\n", "\r", "\r\n"])
def test_a_file_with_only_a_header(tmp_path: Path, end: str) -> None:
    path = tmp_path / "e.csv"
    path.write_bytes(f"user_id,name,time,a{end}".encode())
    assert stored(path) == Stored()


def test_options_of_reading(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    text = "user_id;name;amount;day;utm_a;utm_b;;n\nu0;buy;-9,5;01.11.2026;x;y;z;1.234\n"
    path.write_text(text, encoding="utf-8")
    settings = Settings(
        delimiter=";",
        decimal_comma=True,
        time_format="%d.%m.%Y",
        exclude=("utm_*", ""),
        default_time=TIME,
    )
    found = stored(path, settings)
    assert found.events == {
        0: {
            "user_id": "u0",
            "name": "buy",
            "time": TEN,
            "amount": (N, -9.5),
            "day": (T, TEN - 36_000 * MICROS),
            "n": (S, "1.234"),
        }
    }


@pytest.mark.parametrize("write", [write_csv, write_ndjson])
def test_a_truncated_gzip_file_is_refused(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write(tmp_path / ("e.csv" if write is write_csv else "e.ndjson"), ["x"] * 1_000)
    path.write_bytes(gzip.compress(path.read_bytes())[:-100])
    with pytest.raises(CannotImport, match=r"e\..* cannot be read"):
        stored(path)


def test_the_helper_reports_rejected_rows() -> None:
    assert Stored(rejected={0: ("a", "b")}).column("x") == ["rejected"]


@pytest.mark.parametrize(
    ("name", "encoding", "command"),
    [
        ("e.csv", "utf-16", "iconv -f UTF-16 -t UTF-8 e.csv > converted-e.csv"),
        ("e.csv.gz", "utf-16", "gzip -dc e.csv.gz | iconv -f UTF-16 -t UTF-8 > converted-e.csv"),
        ("an e.ndjson", "utf-32", "iconv -f UTF-32 -t UTF-8 'an e.ndjson' > 'converted-an e.ndjson'"),
        ("e.ndjson", "utf-8", "jq -c '.[]' e.ndjson > converted-e.ndjson"),
        ("e.ndjson.gz", "utf-8", "gzip -dc e.ndjson.gz | jq -c '.[]' > converted-e.ndjson"),
    ],
)
def test_the_command_that_converts_a_file(tmp_path: Path, name: str, encoding: str, command: str) -> None:
    """It writes another file, and can be typed as it is."""
    text = "user_id,name,time\n" if ".csv" in name else ' \n[{"user_id": "u"}]\n'
    data = text.encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(CannotImport, match=f"line 1: .* {re.escape(command)}$"):
        stored(tmp_path / name)
