"""Incomplete stores: each row of the table in docs/operations.md.

The service refuses to start with the message of the row, changes nothing, and starts once the store is
complete again. The commands that read the store print the same message.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import lmdb
import pytest

from engine.backends.base import Count
from engine.backends.local import offline
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.ownership import Stage, owned
from engine.backends.local.storage.parts import STORE_PARTS
from engine.errors import MilepostError
from engine.plan.model import Universe
from service.application import Application
from service.config import Config
from tests.conformance.site import ACCOUNT, WEB, event, plan_of
from tests.stores import crash_image
from tests.test_docs import OPERATIONS, between

SETTINGS = LocalSettings(groups=2, checkpoint_s=3_600.0)
EVERYONE = plan_of(Universe(inputs=(WEB,)))
USERS = 500
PAGE_BYTES = 4_096


class Stores(NamedTuple):
    """What the rows are made of. `earlier` is `store` before it was last opened."""

    store: Path
    earlier: Path
    other: Path
    backup: Path


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    """A store of 500 users, one of them only in its log, and its relatives."""
    room = tmp_path_factory.mktemp("stores")
    made = Stores(room / "store", room / "earlier", room / "other", room / "backup")
    backend = LocalBackend.open(made.store, settings=SETTINGS)
    backend.append(ACCOUNT, [event(f"user-{number}") for number in range(USERS - 1)])
    backend.close()
    shutil.copytree(made.store, made.earlier)
    backend = LocalBackend.open(made.store, settings=SETTINGS)
    backend.append(ACCOUNT, [event(f"user-{USERS - 1}")])
    backend.snapshot(made.backup)
    crash = room / "crash"
    shutil.copytree(made.store, crash)
    backend.close()
    shutil.rmtree(made.store)
    crash_image(crash, made.store)
    LocalBackend.open(made.other, settings=SETTINGS).close()
    return made


@pytest.fixture
def store(stores: Stores, tmp_path: Path) -> Path:
    return crash_image(stores.store, tmp_path / "store")


# --- the rows -----------------------------------------------------------------------------------------------


def replace(target: Path, source: Path) -> None:
    """Puts one file or directory in the place of another. A file keeps its inode."""
    if source.is_dir():
        shutil.rmtree(target)
        shutil.copytree(source, target)
    else:
        target.write_bytes(source.read_bytes())


def delete_part(store: Path, part: str, stores: Stores) -> None:
    (store / part / "data.mdb").unlink()


def delete_part_directory(store: Path, part: str, stores: Stores) -> None:
    shutil.rmtree(store / part)


def empty_part(store: Path, part: str, stores: Stores) -> None:
    (store / part / "data.mdb").write_bytes(b"")


def cut_part(store: Path, part: str, stores: Stores) -> None:
    with (store / part / "data.mdb").open("r+b") as opened:
        opened.truncate(3 * PAGE_BYTES)


def cut_part_to_its_metas(store: Path, part: str, stores: Stores) -> None:
    with (store / part / "data.mdb").open("r+b") as opened:
        opened.truncate(2 * PAGE_BYTES)


def cut_part_to_some_bytes(store: Path, part: str, stores: Stores) -> None:
    with (store / part / "data.mdb").open("r+b") as opened:
        opened.truncate(PAGE_BYTES + 100)


def overwrite_part(store: Path, part: str, stores: Stores) -> None:
    (store / part / "data.mdb").write_bytes(b"no LMDB file\n" * 10_000)


def replace_part_by_a_foreign_file(store: Path, part: str, stores: Stores) -> None:
    shutil.rmtree(store / part)
    with lmdb.open(str(store / part)) as environment, environment.begin(write=True) as txn:
        txn.put(b"a", b"b")


def replace_part_by_another_store_s(store: Path, part: str, stores: Stores) -> None:
    replace(store / part, stores.other / part)


def replace_both_parts(store: Path, part: str, stores: Stores) -> None:
    for each in STORE_PARTS:
        replace(store / each, stores.other / each)


def delete_both_parts(store: Path, part: str, stores: Stores) -> None:
    for each in STORE_PARTS:
        shutil.rmtree(store / each)


def put_back_an_earlier_log(store: Path, part: str, stores: Stores) -> None:
    replace(store / "log", stores.earlier / "log")


def put_back_an_earlier_index(store: Path, part: str, stores: Stores) -> None:
    replace(store / "index", stores.earlier / "index")


def delete_lock_and_part(store: Path, part: str, stores: Stores) -> None:
    (store / "lock").unlink()
    shutil.rmtree(store / part)


def delete_lock(store: Path, part: str, stores: Stores) -> None:
    (store / "lock").unlink()


def empty_lock(store: Path, part: str, stores: Stores) -> None:
    (store / "lock").write_bytes(b"")


def overwrite_lock(store: Path, part: str, stores: Stores) -> None:
    content = bytearray((store / "lock").read_bytes())
    content[20] ^= 1
    (store / "lock").write_bytes(content)


def replace_lock(store: Path, part: str, stores: Stores) -> None:
    replace(store / "lock", stores.other / "lock")


def copy(store: Path, part: str, stores: Stores) -> None:
    shutil.copytree(store, store.with_name("copy"))
    store.rename(store.with_name("original"))
    store.with_name("copy").rename(store)


def serve_a_backup(store: Path, part: str, stores: Stores) -> None:
    shutil.rmtree(store)
    shutil.copytree(stores.backup, store)


def kill_a_restore(store: Path, part: str, stores: Stores) -> None:
    shutil.rmtree(store)
    store.mkdir()
    with owned(store) as lock:
        lock.write("new", Stage.RESTORING)
    shutil.copytree(stores.backup / "index", store / "index")


def kill_an_adoption(store: Path, part: str, stores: Stores) -> None:
    with owned(store) as lock:
        identity = lock.identity()
        assert identity is not None
        lock.write("new", Stage.ADOPTING, identity.store_id)


def keep_other_files(store: Path, part: str, stores: Stores) -> None:
    shutil.rmtree(store)
    store.mkdir()
    (store / "7.txt").write_text("precious")


def keep_backups_and_outputs(store: Path, part: str, stores: Stores) -> None:
    shutil.rmtree(store)
    shutil.copytree(stores.backup, store / "backups" / "nightly")
    (store / "outputs").mkdir()
    (store / "outputs" / "1.ndjson").touch()


Damage = Callable[[Path, str, Stores], None]

DAMAGES: dict[str, tuple[Damage, ...]] = {
    "`PART/data.mdb` or `PART/` was deleted": (delete_part, delete_part_directory),
    "`PART/data.mdb` was cut to 0 bytes": (empty_part,),
    "the end of `PART/data.mdb` was cut off": (cut_part, cut_part_to_its_metas),
    "all but the first bytes of `PART/data.mdb` were cut off": (cut_part_to_some_bytes,),
    "`PART/data.mdb` was overwritten": (overwrite_part,),
    "`PART/data.mdb` is an LMDB file of something else": (replace_part_by_a_foreign_file,),
    "`PART/`, or both, are of another store": (replace_part_by_another_store_s, replace_both_parts),
    "`index/` and `log/` were deleted": (delete_both_parts,),
    "`log/` is older than `index/`": (put_back_an_earlier_log,),
    "`index/` is older than `log/`": (put_back_an_earlier_index,),
    "`lock` and `PART/` were deleted": (delete_lock_and_part,),
    "`lock` was deleted": (delete_lock,),
    "`lock` was cut to 0 bytes": (empty_lock,),
    "`lock` was overwritten": (overwrite_lock,),
    "`lock` is of another store": (replace_lock,),
    "`DIR` is a copy of a store": (copy,),
    "`DIR` is a backup": (serve_a_backup,),
    "a restore was killed": (kill_a_restore,),
    "an adoption was killed": (kill_an_adoption,),
    "`DIR` holds other files": (keep_other_files,),
    "only `backups/` and `outputs/` are left of a store": (keep_backups_and_outputs,),
}


class Row(NamedTuple):
    """The second and third column of the table."""

    message: str
    to_do: str


TABLE = {
    wrong: Row(message, to_do)
    for wrong, message, to_do in re.findall(
        r"^\| (.*?) \| `(.*?)` \| (.*) \|$", between(OPERATIONS, "parts"), re.MULTILINE
    )
}

SOUND_TO_READ = {"`lock` was deleted", "`DIR` is a copy of a store", "`DIR` is a backup"}
"""What is wrong is only where the store is: its content can be verified, counted and restored."""

NO_STORE = {"`DIR` holds other files", "only `backups/` and `outputs/` are left of a store"}


CASES = [
    pytest.param(row, damage, part, id=f"{damage.__name__}-{part}".rstrip("-"))
    for row, damages in DAMAGES.items()
    for damage in damages
    for part in (STORE_PARTS if "PART" in row else ("",))
]


def message_of(row: str, store: Path, part: str, *, with_lock: bool = True) -> re.Pattern[str]:
    """The message of a row. Commands that only read do not miss a lock file: a backup has none."""
    message = TABLE[row].message if with_lock else TABLE[row].message.replace("lock is missing, ", "")
    pattern = re.escape(message.replace("PART", part).replace("DIR", "\0"))
    pattern = re.sub(r"\bID\b", "[0-9a-f]{32}", pattern)
    return re.compile(re.sub(r"\bN\b", "[0-9,]+", pattern).replace("\0", re.escape(str(store))))


def content_of(directory: Path) -> dict[str, bytes]:
    """Every name below a directory, with the bytes of a file."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else b""
        for path in directory.rglob("*")
    }


def test_every_row_of_the_table_is_tested() -> None:
    assert set(TABLE) == set(DAMAGES)
    assert {row.to_do for row in TABLE.values()} == set(WAYS_BACK)


@pytest.mark.parametrize(("row", "damage", "part"), CASES)
def test_the_service_refuses_and_changes_nothing(
    stores: Stores, store: Path, row: str, damage: Damage, part: str
) -> None:
    damage(store, part, stores)
    before = content_of(store)
    with pytest.raises(MilepostError) as refused:
        Application(Config(data_dir=store, port=0, store_settings={"groups": 2}))
    assert message_of(row, store, part).match(refused.value.message), refused.value.message
    assert content_of(store) == before


@pytest.mark.parametrize(("row", "damage", "part"), CASES)
def test_commands_print_the_same_message(
    stores: Stores, store: Path, tmp_path: Path, row: str, damage: Damage, part: str
) -> None:
    damage(store, part, stores)
    new = tmp_path / "new"
    asked: tuple[Callable[[], object], ...] = (
        lambda: list(offline.verify_store(store)),
        lambda: offline.store_figures(store),
        lambda: offline.restore(store, new),
    )
    if row in SOUND_TO_READ:
        for ask in asked:
            ask()
        assert offline.store_figures(new).users == USERS - 1
        return
    for ask in asked:
        with pytest.raises(MilepostError) as refused:
            ask()
        if row in NO_STORE:
            assert refused.value.reason == "STORE_MISSING"
        else:
            message = message_of(row, store, part, with_lock=False)
            assert message.match(refused.value.message), refused.value.message
    assert not new.exists()


# --- the ways back ------------------------------------------------------------------------------------------


def put_back(store: Path, whole: Mapping[str, bytes], stores: Stores) -> Path:
    for part in STORE_PARTS:
        shutil.rmtree(store / part, ignore_errors=True)
        (store / part).mkdir()
        (store / part / "data.mdb").write_bytes(whole[f"{part}/data.mdb"])
    return store


def restore_elsewhere(store: Path, whole: Mapping[str, bytes], stores: Stores) -> Path:
    offline.restore(stores.backup, store.with_name("elsewhere"))
    return store.with_name("elsewhere")


def restore_this_backup(store: Path, whole: Mapping[str, bytes], stores: Stores) -> Path:
    offline.restore(store, store.with_name("elsewhere"))
    return store.with_name("elsewhere")


def restore_again(store: Path, whole: Mapping[str, bytes], stores: Stores) -> Path:
    offline.restore(stores.backup, store)
    return store


def restore_a_backup_that_is_left(store: Path, whole: Mapping[str, bytes], stores: Stores) -> Path:
    left = store.with_name("left")
    store.rename(left)
    offline.restore(left / "backups" / "nightly", store)
    return store


def adopt_as_a_copy(store: Path, whole: Mapping[str, bytes], stores: Stores) -> Path:
    assert offline.adopt(store) not in {offline.store_figures(stores.store).store_id, ""}
    return store


def adopt_as_moved(store: Path, whole: Mapping[str, bytes], stores: Stores) -> Path:
    assert offline.adopt(store, moved=True) == offline.store_figures(stores.store).store_id
    return store


def name_another_directory(store: Path, whole: Mapping[str, bytes], stores: Stores) -> Path:
    return restore_elsewhere(store, whole, stores)


WaysBack = Callable[[Path, Mapping[str, bytes], Stores], Path]

WAYS_BACK: dict[str, WaysBack] = {
    "put it back, or restore a backup": put_back,
    "put the right one back, or restore a backup": put_back,
    "put the right ones back, or restore a backup": put_back,
    "put back the newer log, or restore a backup": put_back,
    "put back the newer index, or restore a backup": put_back,
    "restore a backup into another directory": restore_elsewhere,
    "`milepost store adopt --moved --data DIR`": adopt_as_moved,
    "`milepost store adopt --data DIR`": adopt_as_a_copy,
    "`milepost store restore DIR --data NEW`": restore_this_backup,
    "repeat the restore": restore_again,
    "repeat the adoption": adopt_as_a_copy,
    "name another directory, or move the files away": name_another_directory,
    "move `backups` away and restore one of them": restore_a_backup_that_is_left,
}


@pytest.mark.parametrize(("row", "damage", "part"), CASES)
def test_recovery_restores_every_user(
    stores: Stores, store: Path, row: str, damage: Damage, part: str
) -> None:
    whole = content_of(store)
    damage(store, part, stores)
    with pytest.raises(MilepostError):
        LocalBackend.open(store, settings=SETTINGS)
    directory = WAYS_BACK[TABLE[row].to_do](store, whole, stores)
    backend = LocalBackend.open(directory, settings=SETTINGS)
    try:
        assert backend.execute(EVERYONE, Count()).sizes == (USERS,)
        assert backend.append(ACCOUNT, [event("new")]).revision == 3
    finally:
        backend.close()
