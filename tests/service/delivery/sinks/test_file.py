"""A file holds each event once, whole, in order, whatever was interrupted."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from service.delivery.sinks.file import FileSink, file_path
from service.delivery.sinks.sink import Event, SinkError


def event(number: int) -> Event:
    return Event(id=f"e{number}", body=f'{{"id":"e{number}","text":"é"}}'.encode())


def ids(path: Path) -> list[str]:
    return [line.split('"')[3] for line in path.read_text(encoding="utf-8").splitlines()]


def test_batches_follow_one_another(tmp_path: Path) -> None:
    path = tmp_path / "a" / "c.ndjson"
    output = FileSink(path)
    output.deliver([event(1), event(2)])
    output.deliver([event(3)])
    output.close()
    assert path.read_bytes() == b"".join(event(n).body + b"\n" for n in (1, 2, 3))


def test_a_file_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "c.ndjson"
    for number in (1, 2):
        output = FileSink(path)
        output.deliver([event(number)])
        output.close()
    assert ids(path) == ["e1", "e2"]


def test_a_batch_whose_cursor_was_lost_is_not_written_twice(tmp_path: Path) -> None:
    path = tmp_path / "c.ndjson"
    output = FileSink(path)
    output.deliver([event(n) for n in range(5)])
    output.close()
    again = FileSink(path)
    again.deliver([event(n) for n in range(2, 8)])
    again.close()
    assert ids(path) == [f"e{n}" for n in range(8)]


@pytest.mark.parametrize("torn", [b'{"id":"e', b'{"id":"e3","text":"\xc3', b"x"])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "c.ndjson"
    path.write_bytes(event(1).body + b"\n" + event(2).body + b"\n" + torn)
    output = FileSink(path)
    output.deliver([event(2), event(3)])
    output.close()
    assert ids(path) == ["e1", "e2", "e3"]


def test_only_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "c.ndjson"
    path.write_bytes(b'{"id":')
    output = FileSink(path)
    output.deliver([event(1)])
    output.close()
    assert ids(path) == ["e1"]


def test_a_line_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "c.ndjson"
    path.write_bytes(b"# a note\n")
    output = FileSink(path)
    output.deliver([event(1)])
    output.close()
    assert path.read_bytes() == b"# a note\n" + event(1).body + b"\n"


def test_a_full_disk_is_an_error_to_try_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.ndjson"
    output = FileSink(path)
    output.deliver([event(1)])

    def no_space(_descriptor: int) -> None:
        # What was written before may or may not be on disk; here half of it is.
        with path.open("r+b") as file:
            file.truncate(len(event(1).body) + 5)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", no_space)
        with pytest.raises(SinkError, match="No space left") as failure:
            output.deliver([event(2)])
    assert not failure.value.final
    output.deliver([event(2)])
    output.close()
    assert ids(path) == ["e1", "e2"]


def test_each_account_has_a_directory_of_its_own(tmp_path: Path) -> None:
    path = file_path(tmp_path, "accounts/a", "exports/daily", "accounts/a/connections/c")
    assert path == tmp_path / "a" / "exports" / "daily" / "c.ndjson"


def test_a_path_cannot_lead_out(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    os.symlink("/", tmp_path / "a" / "root")
    for path in ("../b", "root/etc"):
        with pytest.raises(SinkError, match="leads out") as failure:
            file_path(tmp_path, "accounts/a", path, "accounts/a/connections/c")
        assert failure.value.final
