"""What the values of a file become, in each format: taken right, or their row rejected by name."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from engine.values import Kind
from milepost.importing import CannotImport, Format, Settings, csv, kinds
from milepost.importing.kinds import KindTeller
from milepost.importing.profiles import profiled
from milepost.v1.catalog_service_pb2 import (
    VALUE_KIND_BOOL,
    VALUE_KIND_NUMBER,
    VALUE_KIND_STRING,
    VALUE_KIND_TIME,
    ValueKind,
)
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
def test_a_text_of_a_csv_file_by_itself(tmp_path: Path, text: str, expected: Any) -> None:
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
def test_a_column_is_of_a_kind_when_all_its_values_are(
    tmp_path: Path, texts: list[str], kind: Kind, misfit: tuple[int, str] | None
) -> None:
    path = write_csv(tmp_path / "e.csv", texts)
    assert {each[0] for each in stored(path).column("a") if each} == {kind}
    teller = KindTeller(Settings())
    teller.add(path, Format.AUTO)
    (told,) = teller.told().columns
    assert told.kind == int(kind)
    assert (told.misfit and (told.misfit.row, told.misfit.value)) == misfit


def test_kinds_are_found_over_all_files(tmp_path: Path) -> None:
    first = write_csv(tmp_path / "first.csv", ["1"] * 9)
    second = write_csv(tmp_path / "second.csv", ["2", "NA"])
    broken = tmp_path / "broken.csv"
    broken.write_text(f'user_id,name,time,a\nu,buy,{TIME},x\nu,buy,{TIME},"y\n', encoding="utf-8")
    teller = KindTeller(Settings())
    teller.add(first, Format.AUTO)
    with pytest.raises(CannotImport, match=r"broken.csv: row 1 has a quote that is not closed"):
        teller.add(broken, Format.AUTO)
    teller.add(second, Format.AUTO)
    told = teller.told()
    assert [str(each) for each in told.doubtful] == [
        "a: string, because 'NA' (second.csv, row 1) is no number; 10 of 11 are"
    ]
    # Whatever the first file has by itself, it is read as all of them are.
    assert stored(first, Settings(told=told.kinds)).column("a") == [(S, "1")] * 9
    assert stored(first, Settings()).column("a") == [(N, 1.0)] * 9


def test_kinds_are_the_same_whatever_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        monkeypatch.setattr(csv, "BLOCK_BYTES", block_bytes)
        teller = KindTeller(Settings(time_column="-"))
        teller.add(path, Format.AUTO)
        found.append({each.column: (each.kind, each.misfit) for each in teller.told().columns})
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


def test_texts_that_stand_for_no_value(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "e.csv", ["1", "NA", "-", ""])
    assert stored(path, Settings(null_values=("NA", "-"))).column("a") == [(N, 1.0), None, None, None]


# --- random texts through three formats ---


@pytest.mark.parametrize("kind", [VALUE_KIND_STRING, VALUE_KIND_NUMBER, VALUE_KIND_BOOL, VALUE_KIND_TIME])
def test_the_same_texts_are_the_same_in_each_format(
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
    monkeypatch.setattr(csv, "BLOCK_BYTES", rng.randrange(1, 5_000))
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
            and len(whole) <= 18
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


def test_numbers_are_the_same_as_texts_json_and_integers(tmp_path: Path) -> None:
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


# --- blocks ---

BLOCKS = (
    b'user_id,name,time,a\r\nu0,buy,1,"x\r\ny"\ru1,buy,2,"q""\r\n"\nu2,buy,3,5" pipe\r\n\r\nshort\n'
    b'u3,"b,\n",4,"\r"\n'
)
"""Each kind of line end, within quotes and outside of them, and a row that is set aside."""


@pytest.mark.parametrize("name", ["e.csv", "e.csv.GZ"])
def test_rows_are_the_same_whatever_the_blocks(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(BLOCKS) if name.endswith("GZ") else BLOCKS)
    settings = Settings(kinds={"a": VALUE_KIND_STRING})
    for block_bytes in range(1, len(BLOCKS) + 2):
        monkeypatch.setattr(csv, "BLOCK_BYTES", block_bytes)
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
        monkeypatch.setattr(csv, "BLOCK_BYTES", rng.randrange(1, 200))
        found = stored(path, Settings(kinds={"a": VALUE_KIND_STRING}))
        assert found.column("a") == [(S, text) for text in texts]
        assert not found.rejected


LINE_ENDS = ("\n", "\r\n", "\r", "\n\n")


# --- Parquet ---


def test_old_timestamps_of_any_year(tmp_path: Path) -> None:
    """INT96, as Spark, Hive and Impala write it."""
    texts = ["9999-12-31T23:59:59", "2262-04-12T00:00:00", "0001-01-01T00:00:00", "2026-11-01T10:00:00"]
    times = pa.array([datetime.fromisoformat(text) for text in texts], pa.timestamp("us"))
    path = write_parquet(tmp_path / "e.parquet", times, use_deprecated_int96_timestamps=True)
    found = stored(path)
    assert found.column("a") == [(T, micros(datetime.fromisoformat(text))) for text in texts]


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
        ({"numberValue": "nine"}, "is no Value: Couldn't parse float: nine at Value.numberValue"),
        ({"stringValue": "5"}, (S, "5")),
        ({"stringValue": 5}, "is no Value: Failed to parse stringValue field: expected string"),
        ({"boolValue": True}, (B, True)),
        ({"boolValue": "true"}, "is no Value: Expected true or false without quotes at Value.boolValue"),
        ({"timeValue": TIME}, (T, TEN)),
        ({"time_value": "2026-11-01T12:00:00.000000999+02:00"}, (T, TEN)),
        ({"timeValue": "2026-11-01"}, "is no Value: "),
        ({"listValue": {"values": ["a"]}}, (L, ("a",))),
        ({"listValue": {"values": [1]}}, "is no Value: "),
        ({"stringValue": "a", "numberValue": 1}, "is no Value: "),
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


def test_times_keep_their_kind_among_other_values(tmp_path: Path) -> None:
    found = stored(write_ndjson(tmp_path / "e.ndjson", [{"timeValue": TIME}, "text", 5]))
    assert found.column("a") == [(T, TEN), (S, "text"), (N, 5.0)]


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
def test_utf16_is_named(tmp_path: Path, encoding: str, named: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes("user_id,name,time\nu,buy,1\n".encode(encoding))
    with pytest.raises(CannotImport, match=rf"{name}, line 1: the file is UTF-16.* iconv -f {named} "):
        stored(path)


@pytest.mark.parametrize("rows", [1, 1_000])
def test_a_zero_byte_is_a_character_wherever_it_stands(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "e.csv"
    path.write_text("user_id,name,time,a\n" + "u,buy,1,x\n" * rows + "u,buy,1,a\0b\n")
    assert stored(path).column("a") == [(S, "x")] * rows + [(S, "a\0b")]


def test_zero_bytes_in_the_header_are_another_format(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_bytes(b"PK\x03\x04\0\0not text\n")
    with pytest.raises(CannotImport, match=r"e\.csv, line 1: the file has zero bytes"):
        stored(path)


def test_unnamed_columns_that_are_empty_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text('user_id,name,time,a,, \nu0,buy,1,x,,""\n\n', encoding="utf-8-sig")
    found = stored(path)
    assert found.events == {0: {"user_id": "u0", "name": "buy", "time": 1, "a": (S, "x")}}


@pytest.mark.parametrize("end", ["", "\n", "\r", "\r\n"])
def test_a_file_of_a_header_alone(tmp_path: Path, end: str) -> None:
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
def test_a_file_that_is_cut_short_is_named(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write(tmp_path / ("e.csv" if write is write_csv else "e.ndjson"), ["x"] * 1_000)
    path.write_bytes(gzip.compress(path.read_bytes())[:-100])
    with pytest.raises(CannotImport, match=r"e\..* cannot be read"):
        stored(path)


def test_stored_says_what_is_not_stored() -> None:
    assert Stored(rejected={0: ("a", "b")}).column("x") == ["rejected"]
