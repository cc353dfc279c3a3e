"""A file contains each event once, complete and in order, after any interruption."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

import pytest

from service.delivery.sinks.file import FileSink, file_path
from service.delivery.sinks.sink import Event, SinkError

SOON = math.inf
"""Files need no deadline."""


def event(number: int) -> Event:
    return Event(id=f"e{number}", body=f'{{"id":"e{number}","text":"é"}}'.encode())


def ids(path: Path) -> list[str]:
    return [line.split('"')[3] for line in path.read_text(encoding="utf-8").splitlines()]


def test_batches_are_appended_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a" / "c.ndjson"
    output = FileSink(path)
    output.deliver([event(1), event(2)], SOON)
    output.deliver([event(3)], SOON)
    output.close()
    assert path.read_bytes() == b"".join(event(n).body + b"\n" for n in (1, 2, 3))


def test_existing_file_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "c.ndjson"
    for number in (1, 2):
        output = FileSink(path)
        output.deliver([event(number)], SOON)
        output.close()
    assert ids(path) == ["e1", "e2"]


def test_batch_whose_cursor_was_lost_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "c.ndjson"
    output = FileSink(path)
    output.deliver([event(n) for n in range(5)], SOON)
    output.close()
    again = FileSink(path)
    again.deliver([event(n) for n in range(2, 8)], SOON)
    again.close()
    assert ids(path) == [f"e{n}" for n in range(8)]


@pytest.mark.parametrize("torn", [b'{"id":"e', b'{"id":"e3","text":"\xc3', b"x"])
def test_torn_last_line_is_removed(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "c.ndjson"
    path.write_bytes(event(1).body + b"\n" + event(2).body + b"\n" + torn)
    output = FileSink(path)
    output.deliver([event(2), event(3)], SOON)
    output.close()
    assert ids(path) == ["e1", "e2", "e3"]


def test_only_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "c.ndjson"
    path.write_bytes(b'{"id":')
    output = FileSink(path)
    output.deliver([event(1)], SOON)
    output.close()
    assert ids(path) == ["e1"]


def test_foreign_line_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "c.ndjson"
    path.write_bytes(b"# a note\n")
    output = FileSink(path)
    output.deliver([event(1)], SOON)
    output.close()
    assert path.read_bytes() == b"# a note\n" + event(1).body + b"\n"


def test_full_disk_is_a_retryable_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.ndjson"
    output = FileSink(path)
    output.deliver([event(1)], SOON)

    def no_space(_descriptor: int) -> None:
        # What was written before may or may not be on disk; here half of it is.
        with path.open("r+b") as file:
            file.truncate(len(event(1).body) + 5)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", no_space)
        with pytest.raises(SinkError, match="No space left") as failure:
            output.deliver([event(2)], SOON)
    assert not failure.value.final
    output.deliver([event(2)], SOON)
    output.close()
    assert ids(path) == ["e1", "e2"]


def test_each_account_has_its_own_directory(tmp_path: Path) -> None:
    path = file_path(tmp_path, "accounts/a", "exports/daily", "accounts/a/connections/c")
    assert path == tmp_path / "a" / "exports" / "daily" / "c.ndjson"


def test_path_outside_the_output_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    os.symlink("/", tmp_path / "a" / "root")
    for path in ("../b", "root/etc"):
        with pytest.raises(SinkError, match="is outside") as failure:
            file_path(tmp_path, "accounts/a", path, "accounts/a/connections/c")
        assert failure.value.final
