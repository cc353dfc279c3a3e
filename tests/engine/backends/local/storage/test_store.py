"""Opening and creating a store: its header, lock, index and log."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from engine.backends.local.storage.copying import write_copy
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.positions import CheckpointedState, write_checkpointed, write_trimmed
from engine.backends.local.storage.store import Store
from engine.errors import DataLoss, StoreUnavailable
from tests.stores import go_on_with


def test_a_store_keeps_its_id_and_groups(tmp_path: Path) -> None:
    store = Store.open(tmp_path, groups=8)
    store_id = store.store_id
    store.close()
    store.close()
    again = Store.open(tmp_path, groups=2)
    assert (again.store_id, again.groups) == (store_id, 8)
    again.close()


def test_meta_records_keep_the_names_that_older_versions_stored(tmp_path: Path) -> None:
    with closing(Store.open(tmp_path)) as store:
        with store.index.writing() as txn:
            write_checkpointed(txn, CheckpointedState(7))
        with store.log.writing() as txn:
            write_trimmed(txn, 7)
        for environment, position in ((store.index, b"folded"), (store.log, b"trimmed")):
            with environment.reading() as read:
                names = {stored[1:] for stored in read.keys(key(Family.META))}
            assert names == {b"commit", b"header", b"session", position}


@pytest.mark.parametrize("groups", [0, 3, 128])
def test_groups_are_a_power_of_two_within_the_limit(tmp_path: Path, groups: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        Store.open(tmp_path, groups=groups)


def test_a_second_owner_is_refused_here_and_in_another_process(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    with pytest.raises(StoreUnavailable) as refused:
        Store.open(tmp_path)
    assert refused.value.reason == "STORE_LOCKED"
    program = (
        "import pathlib, sys\n"
        "from engine.errors import StoreUnavailable\n"
        "from engine.backends.local.storage.store import Store\n"
        "try:\n"
        "    Store.open(pathlib.Path(sys.argv[1])).close()\n"
        "    print('opened')\n"
        "except StoreUnavailable as error:\n"
        "    print(error.reason)\n"
    )

    def other_process() -> str:
        command = [sys.executable, "-c", program, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert other_process() == "STORE_LOCKED"
    store.close()
    assert other_process() == "opened"


def test_store_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    with store.log.writing() as txn:
        header = {"format_version": 99, "store_id": store.store_id, "groups": 4, "new": True}
        txn.put(key(Family.META, b"header"), msgspec.msgpack.encode(header))
    store.close()
    with pytest.raises(StoreUnavailable) as refused:
        Store.open(tmp_path)
    assert refused.value.reason == "STORE_FORMAT"


def test_an_index_without_its_log_is_data_loss(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    for file in (tmp_path / "log").iterdir():
        file.unlink()
    with pytest.raises(DataLoss, match=r"log/data\.mdb is missing"):
        Store.open(tmp_path)


def test_an_index_of_another_store_is_data_loss(tmp_path: Path) -> None:
    Store.open(tmp_path / "a").close()
    Store.open(tmp_path / "b").close()
    (tmp_path / "a" / "index" / "data.mdb").write_bytes((tmp_path / "b" / "index" / "data.mdb").read_bytes())
    with pytest.raises(DataLoss, match="different stores"):
        Store.open(tmp_path / "a")


def test_a_copy_opens_with_the_same_values(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    with store.index.writing() as txn:
        txn.put(key(Family.META, b"x"), b"kept")
    for name, environment in (("log", store.log), ("index", store.index)):
        with environment.reading() as source:
            write_copy(source, tmp_path / "copy" / name)
    with store.index.writing() as txn:
        txn.put(key(Family.META, b"x"), b"later")
    assert store.index.disk_bytes() % 4096 == 0
    store.close()
    copy = Store.open(go_on_with(tmp_path / "copy"))
    with copy.index.reading() as read:
        assert bytes(read.get(key(Family.META, b"x")) or b"") == b"kept"
    copy.close()


def test_a_renamed_store_keeps_its_location(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "a")
    store_id = store.store_id
    store.close()
    (tmp_path / "a").rename(tmp_path / "b")
    again = Store.open(tmp_path / "b")
    assert again.store_id == store_id
    again.close()


def test_stale_part_of_the_same_session_is_detected_by_position(tmp_path: Path) -> None:
    """A log copied while the store was open, restored after a crash."""
    store = Store.open(tmp_path / "store")
    with store.log.writing() as txn:
        txn.put(key(Family.LOG, 1), b"entry")
    earlier = (tmp_path / "store" / "log" / "data.mdb").read_bytes()
    with store.log.writing() as txn:
        txn.put(key(Family.LOG, 2), b"entry")
    with store.index.writing() as txn:
        write_checkpointed(txn, CheckpointedState(position=2))
    store.close()
    (tmp_path / "store" / "log" / "data.mdb").write_bytes(earlier)
    with pytest.raises(DataLoss, match=r"log is from an earlier time than index \(it ends at revision 1"):
        Store.open(tmp_path / "store")
