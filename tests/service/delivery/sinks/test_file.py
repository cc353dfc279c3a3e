"""A file contains each event once, complete and in order, after any interruption."""

from __future__ import annotations

import errno
import gzip
import math
import os
import shutil
from pathlib import Path

import pytest

from service.delivery.sinks.file import FileSink, Rotation, file_path
from service.delivery.sinks.finished_files import finish, finished_files
from service.delivery.sinks.sink import NEVER, Event, SinkError
from tests.harness import eventually

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


def all_ids(path: Path) -> list[str]:
    """Ids of finished files and the open one, oldest first, as a consumer reads them."""
    found = [i for each in finished_files(path) for i in lines_of(each)]
    return found + (ids(path) if path.exists() else [])


def lines_of(path: Path) -> list[str]:
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [line.split('"')[3] for line in text.decode().splitlines()]


def test_a_removed_file_is_noticed_and_nothing_that_follows_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "a" / "c.ndjson"
    output = FileSink(path)
    output.deliver([event(1)], SOON)
    path.unlink()
    output.deliver([event(2)], SOON)
    assert ids(path) == ["e2"]
    os.rename(path, tmp_path / "taken")
    output.deliver([event(3)], SOON)
    assert (ids(tmp_path / "taken"), ids(path)) == (["e2"], ["e3"])
    shutil.rmtree(path.parent)
    output.deliver([event(4)], SOON)
    output.close()
    assert ids(path) == ["e4"]


def test_a_file_removed_while_a_batch_is_written_gets_the_batch_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.ndjson"
    output = FileSink(path)
    output.deliver([event(1)], SOON)
    sync = os.fsync
    removed: list[bytes] = []

    def remove_then_sync(descriptor: int) -> None:
        if not removed:
            removed.append(path.read_bytes())
            path.unlink()
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", remove_then_sync)
    output.deliver([event(2)], SOON)
    output.close()
    assert (removed, ids(path)) == ([event(1).body + b"\n" + event(2).body + b"\n"], ["e2"])


def test_a_file_that_is_removed_again_and_again_is_a_retryable_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.ndjson"
    output = FileSink(path)
    sync = os.fsync

    def remove_then_sync(descriptor: int) -> None:
        path.unlink(missing_ok=True)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", remove_then_sync)
    with pytest.raises(SinkError, match="removed again and again") as failure:
        output.deliver([event(1)], SOON)
    assert not failure.value.final


def test_a_file_is_finished_by_size_and_each_change_is_in_one(tmp_path: Path) -> None:
    path = tmp_path / "c.ndjson"
    size = len(event(1).body) + 1
    output = FileSink(path, Rotation(max_bytes=3 * size))
    for number in range(1, 9):
        output.deliver([event(number)], SOON)
    assert [lines_of(each) for each in finished_files(path)] == [["e1", "e2", "e3"], ["e4", "e5", "e6"]]
    assert ids(path) == ["e7", "e8"]
    assert [each.name.count(".") for each in finished_files(path)] == [3, 3]
    output.close()


def test_a_batch_that_is_sent_again_never_is_in_a_finished_file(tmp_path: Path) -> None:
    path = tmp_path / "c.ndjson"
    size = len(event(1).body) + 1
    write(path, 1, 2)
    # The cursor was lost, and the batch has grown meanwhile.
    output = FileSink(path, Rotation(max_bytes=2 * size))
    output.deliver([event(1), event(2), event(3)], SOON)
    assert (finished_files(path), ids(path)) == ([], ["e1", "e2", "e3"])
    output.deliver([event(1), event(2), event(3)], SOON)
    assert (finished_files(path), ids(path)) == ([], ["e1", "e2", "e3"])
    output.deliver([event(4)], SOON)
    assert all_ids(path) == ["e1", "e2", "e3", "e4"]
    assert ids(path) == ["e4"]
    output.close()


def write(path: Path, *numbers: int) -> None:
    """What an earlier process wrote."""
    output = FileSink(path)
    output.deliver([event(number) for number in numbers], SOON)
    output.close()


def test_a_file_is_finished_by_age_without_new_changes(tmp_path: Path) -> None:
    path, now = tmp_path / "c.ndjson", [1_000.0]
    rotation = Rotation(max_age_s=60)
    output = FileSink(path, rotation, lambda: now[0])
    assert output.tend() == NEVER
    output.deliver([event(1)], SOON)
    now[0] += 59
    assert output.tend() == 1_060
    output.deliver([event(2)], SOON)
    now[0] += 1
    assert output.tend() == NEVER
    assert (path.exists(), all_ids(path)) == (False, ["e1", "e2"])
    # After a restart the age is counted anew.
    write(path, 3)
    restarted = FileSink(path, rotation, lambda: now[0])
    assert restarted.tend() == 1_120
    now[0] += 60
    restarted.deliver([event(4)], SOON)
    assert [lines_of(each) for each in finished_files(path)] == [["e1", "e2"], ["e3"]]
    assert ids(path) == ["e4"]
    restarted.close()


def test_names_of_finished_files_increase_although_the_clock_goes_back(tmp_path: Path) -> None:
    path = tmp_path / "c.ndjson"
    later = tmp_path / "c.20991231T235959.999998Z.ndjson.gz"
    later.write_bytes(gzip.compress(event(0).body + b"\n"))
    (tmp_path / "c-2.20991231T235959.999999Z.ndjson").write_bytes(b"of another connection\n")
    path.write_bytes(event(1).body + b"\n")
    assert finish(path).name == "c.20991231T235959.999999Z.ndjson"
    assert all_ids(path) == ["e0", "e1"]


def test_finished_files_are_compressed_whatever_a_crash_left(tmp_path: Path) -> None:
    path = tmp_path / "c.ndjson"
    names = [f"c.20261128T12000{n}.000000Z.ndjson" for n in range(3)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(event(number).body + b"\n")
    # A crash while the second one was written, and one before the third one's original went.
    (tmp_path / (names[1] + ".partial")).write_bytes(b"half of it")
    (tmp_path / (names[2] + ".gz")).write_bytes(gzip.compress(event(2).body + b"\n"))
    output = FileSink(path, Rotation(max_bytes=1, gzip=True))
    output.deliver([event(3)], SOON)
    output.deliver([event(4)], SOON)
    output.close()
    eventually(lambda: {each.suffix for each in finished_files(path)} == {".gz"})
    done = finished_files(path)
    assert [each.name for each in done[:3]] == [f"{name}.gz" for name in names]
    assert all_ids(path) == ["e0", "e1", "e2", "e3", "e4"]
    assert sorted(each.name for each in tmp_path.iterdir()) == [*(each.name for each in done), "c.ndjson"]
