"""Files cut into segments: the same ones wherever reading begins, which makes sending one again safe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from milepost.importing import CannotImport, Format, Settings, csv_file, ndjson, source, unsendable
from milepost.importing.formats import format_of, open_source
from milepost.importing.source import Segment, Source

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
    """All that is sent and said of the segments."""
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
def test_segments_do_not_depend_on_where_reading_starts(tmp_path: Path, name: str) -> None:
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
def test_segments_number_their_rows(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name)
    for segment in opened(file).segments(0, 0):
        made = [row for batch in segment.batches for row in batch.to_pylist()]
        places = [segment.row_of(place) for place in range(len(made))]
        assert [each["user_id"] for each in made] == [f"u{place}" for place in places]


def test_malformed_rows_keep_their_numbers(tmp_path: Path) -> None:
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
def test_invalid_json_makes_its_row_malformed(tmp_path: Path, value: bytes) -> None:
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
    settings = Settings(found_kinds={})

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
def test_closed_quotes_are_accepted(tmp_path: Path, written: str, value: str, end: str) -> None:
    file = tmp_path / "e.csv"
    file.write_text(f"user_id,time,name\nu1,1,x\nu2,2,{written}{end}", encoding="utf-8", newline="")
    (segment,) = opened(file).segments(0, 0)
    assert segment.rows == 2
    assert not segment.malformed
    (batch,) = segment.batches
    assert batch.column("name").to_pylist() == ["x", value]


def test_csv_rows_that_are_not_utf8_are_malformed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Blocks that end anywhere between the two kinds of rows that cannot be read.
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 256)
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


def test_parquet_segments_have_batches_of_equal_length(tmp_path: Path) -> None:
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
def test_the_format_by_file_name(name: str, format_: Format) -> None:
    assert format_of(Path(name)) is format_


@pytest.mark.parametrize("name", ["a", "a.gz", "a.json", "csv"])
def test_other_file_names_have_no_format(name: str) -> None:
    with pytest.raises(CannotImport, match="shows no format"):
        format_of(Path(name))


def test_parquet_row_count_is_known_before_reading(tmp_path: Path) -> None:
    assert opened(write(tmp_path / "e.parquet")).rows == ROWS
    assert opened(write(tmp_path / "e.csv")).rows is None


def wide_file(path: Path, texts: Sequence[str]) -> Path:
    """A file with an attribute `x` of these texts."""
    made = [{"user_id": f"u{row}", "name": "buy", "time": "1", "x": text} for row, text in enumerate(texts)]
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(made), path)
    elif path.suffix == ".csv":
        lines = [",".join(each.values()) for each in made]
        path.write_text("\n".join(["user_id,name,time,x", *lines]) + "\n", encoding="utf-8")
    else:
        path.write_text("\n".join(map(json.dumps, made)) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["e.parquet", "e.csv", "e.ndjson"])
def test_record_batches_stay_below_what_a_service_takes(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where wide rows follow narrow ones."""
    texts = ["x"] * 900 + [f"{row:03}" * 200 for row in range(100)]
    file = wide_file(tmp_path / name, texts)
    monkeypatch.setattr(source, "BATCH_BYTES_MAX", 20_000)
    (segment,) = opened(file, 1_000).segments(0, 0)
    assert max(batch.nbytes for batch in segment.batches) <= 20_000
    assert [text for batch in segment.batches for text in batch.column("x").to_pylist()] == texts
    assert len({batch.schema for batch in segment.batches}) == 1


@pytest.mark.parametrize("as_views", [False, True])
def test_dictionaries_and_views_are_divided(
    tmp_path: Path, as_views: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part of such a column holds all values."""
    texts = [f"{row:03}" * 200 for row in range(100)]
    array = pa.array(texts, pa.string_view()) if as_views else pa.array(texts).dictionary_encode()
    table = pa.table({"user_id": texts, "name": texts, "time": [0] * 100, "x": array})
    pyarrow.parquet.write_table(table, tmp_path / "e.parquet")
    monkeypatch.setattr(source, "BATCH_BYTES_MAX", 20_000)
    (segment,) = opened(tmp_path / "e.parquet", 100).segments(0, 0)
    assert max(batch.nbytes for batch in segment.batches) <= 20_000
    assert [text for batch in segment.batches for text in batch.column("x").to_pylist()] == texts


@pytest.mark.parametrize("name", ["e.parquet", "e.csv", "e.ndjson"])
def test_a_row_that_is_too_long_is_set_aside(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = (0, 95, 96, 500)
    file = wide_file(tmp_path / name, ["y" * 3_000 if row in long else "x" for row in range(600)])
    for module in (csv_file, ndjson, unsendable):
        monkeypatch.setattr(module, "ROW_BYTES_MAX", 2_000)
    whole = list(opened(file).segments(0, 0))
    malformed = [each for segment in whole for each in segment.malformed]
    assert [each.row for each in malformed] == list(long)
    field = "" if name == "e.ndjson" else "attributes['x']"
    assert {(each.field, each.description) for each in malformed} == {(field, source.ROW_TOO_LONG)}
    for segment in whole:
        made = [row["user_id"] for batch in segment.batches for row in batch.to_pylist()]
        assert made == [f"u{segment.row_of(place)}" for place in range(len(made))]
    for begin in range(len(whole)):
        first_row = sum(each.rows for each in whole[:begin])
        aside = sum(len(each.malformed) for each in whole[:begin])
        assert described(list(opened(file).segments(first_row, aside))) == described(whole[begin:])


@pytest.mark.parametrize(("limit", "value"), [("SEGMENT_BYTES", 5_000), ("CELLS_MAX", 400)])
def test_memory_limits_a_segment_of_ndjson(
    tmp_path: Path, limit: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every line has an attribute of its own, and every column a place for every line."""
    file = tmp_path / "e.ndjson"
    lines = [f'{{"user_id": "u{row}", "name": "buy", "time": 1, "x{row}": 1}}' for row in range(200)]
    file.write_text("\n".join(lines))
    monkeypatch.setattr(ndjson, limit, value)
    whole = list(opened(file, 1_000).segments(0, 0))
    assert sum(each.rows for each in whole) == 200
    # 20 lines have 20 columns; 10 lines of 53 and 82 of 55 bytes make 5,040 bytes.
    assert whole[0].rows == {"CELLS_MAX": 20, "SEGMENT_BYTES": 92}[limit]
    assert [each.first_row for each in whole] == [sum(e.rows for e in whole[:n]) for n in range(len(whole))]
    first_row = whole[0].rows
    assert described(list(opened(file, 1_000).segments(first_row, 0))) == described(whole[1:])


def test_a_line_with_too_many_attributes_is_set_aside(tmp_path: Path) -> None:
    file = tmp_path / "e.ndjson"
    members = ", ".join(f'"c{member}": 1' for member in range(ndjson.ATTRIBUTES_MAX + 1))
    file.write_text(f'{{"user_id": "a", {members}}}\n{{"user_id": "b", "x": 1}}\n')
    (segment,) = opened(file).segments(0, 0)
    (malformed,) = segment.malformed
    assert (malformed.row, malformed.field) == (0, "attributes")
    assert malformed.description == "has 10,001 attributes; at most 10,000 are allowed"
    assert [batch.schema.names for batch in segment.batches] == [["user_id", "name", "event_id", "time", "x"]]
