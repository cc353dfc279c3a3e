"""Files cut into segments: the same ones wherever reading begins, which makes sending one again safe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from milepost.importing import CannotImport, Format, Settings, csv, source
from milepost.importing.source import Segment, Source, open_source, told_format

ROWS = 1_003
SEGMENT_ROWS = 96
BROKEN = (0, 95, 96, 500, 1_002)
"""Lines of the text files that cannot be read."""


def rows() -> list[dict[str, str]]:
    return [{"user_id": f"u{row}", "name": "buy", "time": str(row), "x": str(row % 7)} for row in range(ROWS)]


def write(path: Path) -> Path:
    made = rows()
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(made), path, row_group_size=101)
        return path
    lines = [
        (
            "broken"
            if row in BROKEN
            else ",".join(each.values())
            if path.suffix == ".csv"
            else json.dumps(each)
        )
        for row, each in enumerate(made)
    ]
    heading = ["user_id,name,time,x"] if path.suffix == ".csv" else []
    path.write_text("\n".join([*heading, *lines]) + "\n", encoding="utf-8")
    return path


def opened(path: Path, segment_rows: int = SEGMENT_ROWS) -> Source:
    return open_source(path, Format.AUTO, Settings(), segment_rows)


def described(segments: Sequence[Segment]) -> list[Any]:
    """All that is sent and told of the segments."""
    return [
        (
            each.first_row,
            each.rows,
            [batch.num_rows for batch in each.batches],
            [row for batch in each.batches for row in batch.to_pylist()],
            each.malformed,
            each.places,
        )
        for each in segments
    ]


@pytest.mark.parametrize("name", ["e.parquet", "e.csv", "e.ndjson"])
def test_segments_are_the_same_wherever_reading_begins(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name)
    whole = list(opened(file).segments(0, 0))
    sent = [row["user_id"] for each in whole for batch in each.batches for row in batch.to_pylist()]
    readable = [row for row in range(ROWS) if name == "e.parquet" or row not in BROKEN]
    assert sent == [f"u{row}" for row in readable]
    broken = [] if name == "e.parquet" else list(BROKEN)
    assert sum(len(each.malformed) for each in whole) == len(broken)
    for begin in range(len(whole)):
        first_row = sum(each.rows for each in whole[:begin])
        malformed = sum(len(each.malformed) for each in whole[:begin])
        assert described(list(opened(file).segments(first_row, malformed))) == described(whole[begin:])


@pytest.mark.parametrize("name", ["e.parquet", "e.csv", "e.ndjson"])
def test_rows_are_known_by_their_places(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name)
    for segment in opened(file).segments(0, 0):
        made = [row for batch in segment.batches for row in batch.to_pylist()]
        places = [segment.row_of(place) for place in range(len(made))]
        assert [each["user_id"] for each in made] == [f"u{place}" for place in places]


def test_rows_set_aside_are_known_by_their_places(tmp_path: Path) -> None:
    for name in ("e.csv", "e.ndjson"):
        segments = list(opened(write(tmp_path / name)).segments(0, 0))
        assert [each.row for segment in segments for each in segment.malformed] == list(BROKEN)
        assert sum(segment.rows for segment in segments) == ROWS
        for segment in segments:
            rows = range(segment.first_row, segment.first_row + segment.rows)
            assert all(each.row in rows for each in segment.malformed)


@pytest.mark.parametrize(
    "value",
    [
        rb'"\ud800"',
        rb'"\udc00x"',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b"NaN",
        b"1e999",
        b"[" * 100_000,
        b"9" * 10_000,
    ],
    ids=["half a pair", "the other half", "no UTF-8", "half a pair as UTF-8", "NaN", "huge", "deep", "long"],
)
def test_a_value_that_json_cannot_have_sets_its_row_aside(tmp_path: Path, value: bytes) -> None:
    file = tmp_path / "e.ndjson"
    rows = [
        b'{"user_id": "a", "x": 1}',
        b'{"user_id": "b", "x": %s}' % value,
        b'{"user_id": "c", "x": "\\ud83d\\ude00"}',
    ]
    file.write_bytes(b"\xef\xbb\xbf" + b"\n".join(rows))
    (segment,) = opened(file).segments(0, 0)
    assert [each.row for each in segment.malformed] == [1]
    (batch,) = segment.batches
    assert batch.column("user_id").to_pylist() == ["a", "c"]
    assert batch.column("x").to_pylist() == [1.0, "\N{GRINNING FACE}"]


@pytest.mark.parametrize("broken", ['u700,"buy,1', 'u700,buy,"1', '"u700,buy,1'])
def test_a_quote_that_is_never_closed_ends_the_import(tmp_path: Path, broken: str) -> None:
    """What follows it is one value for the reader, in any column, and must not be lost in it."""
    file = tmp_path / "e.csv"
    lines = [{700: broken, 300: "u300"}.get(row, f"u{row},buy,1") for row in range(ROWS)]
    file.write_text("\n".join(["user_id,name,time", *lines]), encoding="utf-8")
    sent: list[str] = []

    with pytest.raises(CannotImport, match=r"row 700 has a quote that is not closed"):
        opened(file)
    settings = Settings(told={})

    def read() -> None:
        for segment in open_source(file, Format.AUTO, settings, SEGMENT_ROWS).segments(0, 0):
            sent.extend(row["user_id"] for batch in segment.batches for row in batch.to_pylist())

    with pytest.raises(CannotImport, match=r"row 700 has a quote that is not closed"):
        read()
    # Whole segments before it; the rest comes when the file is mended and the import goes on.
    assert sent == [f"u{row}" for row in range(len(sent) + 1) if row != 300]
    assert len(sent) > 600


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n"])
@pytest.mark.parametrize(
    ("written", "value"),
    [('"a ""quoted"" one"', 'a "quoted" one'), ('5" pipe', '5" pipe'), ('"two\nlines"', "two\nlines")],
)
def test_quotes_that_are_closed_are_none_of_that(tmp_path: Path, written: str, value: str, end: str) -> None:
    file = tmp_path / "e.csv"
    file.write_text(f"user_id,time,name\nu1,1,x\nu2,2,{written}{end}", encoding="utf-8", newline="")
    (segment,) = opened(file).segments(0, 0)
    assert segment.rows == 2
    assert not segment.malformed
    (batch,) = segment.batches
    assert batch.column("name").to_pylist() == ["x", value]


def test_rows_of_a_csv_file_that_are_no_utf8_are_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Blocks that end anywhere between the two kinds of rows that cannot be read.
    monkeypatch.setattr(csv, "BLOCK_BYTES", 256)
    lines = [f"u{row},buy,{row},x".encode() for row in range(ROWS)]
    wrong = {row: b"\xe9,buy,0,x" if row % 2 else b"short" for row in range(5, ROWS, 7)}
    text = b"\n".join([b"user_id,name,time,x", *(wrong.get(row, line) for row, line in enumerate(lines))])
    (tmp_path / "e.csv").write_bytes(text + b"\n")
    whole = list(opened(tmp_path / "e.csv").segments(0, 0))
    malformed = [each for segment in whole for each in segment.malformed]
    assert [each.row for each in malformed] == list(wrong)
    assert [each.field for each in malformed] == ["user_id" if row % 2 else "" for row in wrong]
    sent = [row["user_id"] for each in whole for batch in each.batches for row in batch.to_pylist()]
    assert sent == [f"u{row}" for row in range(ROWS) if row not in wrong]
    for begin in range(len(whole)):
        first_row = sum(each.rows for each in whole[:begin])
        aside = sum(len(each.malformed) for each in whole[:begin])
        assert described(list(opened(tmp_path / "e.csv").segments(first_row, aside))) == described(
            whole[begin:]
        )


def test_a_segment_of_a_parquet_file_is_in_batches_of_one_length(tmp_path: Path) -> None:
    segments = list(opened(write(tmp_path / "e.parquet")).segments(0, 0))
    assert [each.rows for each in segments] == [96] * 10 + [43]
    lengths = [[batch.num_rows for batch in each.batches] for each in segments]
    assert lengths == [[12] * 8] * 10 + [[12, 12, 12, 7]]


def test_segments_of_wide_rows_are_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "e.parquet"
    wide = [f"{row}" * 1_000 for row in range(1_000, 1_100)]
    table = pa.table({"user_id": wide, "name": ["buy"] * 100, "time": [0] * 100})
    pyarrow.parquet.write_table(table, file, compression="none", use_dictionary=False)
    monkeypatch.setattr(source, "SEGMENT_BYTES", 40_000)
    found = [each.rows for each in opened(file).segments(0, 0)]
    assert sum(found) == 100
    # 4,000 bytes a row, and a little for how the file holds them.
    assert set(found[:-1]) == {9}


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("a.parquet", Format.PARQUET),
        ("A.CSV", Format.CSV),
        ("a.b.csv.gz", Format.CSV),
        ("a.ndjson", Format.NDJSON),
        ("a.jsonl.gz", Format.NDJSON),
    ],
)
def test_a_name_tells_the_format(name: str, format_: Format) -> None:
    assert told_format(Path(name)) is format_


@pytest.mark.parametrize("name", ["a", "a.gz", "a.json", "csv"])
def test_other_names_tell_none(name: str) -> None:
    with pytest.raises(CannotImport, match="tells no format"):
        told_format(Path(name))


def test_the_rows_of_a_parquet_file_are_known_at_once(tmp_path: Path) -> None:
    assert opened(write(tmp_path / "e.parquet")).rows == ROWS
    assert opened(write(tmp_path / "e.csv")).rows is None
