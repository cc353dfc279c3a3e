"""A store of format version 5 is upgraded completely, even when interrupted.

`store-v5.tar.xz` was written by the last version of that format: a snapshot of two groups with keys of every
family, its last two batches only in the log.
"""

from __future__ import annotations

import logging
import os
import shutil
import tarfile
from pathlib import Path

import lmdb
import msgspec
import pytest
import xxhash

from engine.backends.base import Count, Members
from engine.backends.base.upkeep import StoreFault
from engine.backends.local import offline
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage import upgrade as upgrade_module
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.header import FORMAT_VERSION, HEADER_KEY, read_header
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.upgrade import UPGRADE_DIRECTORY, is_old, upgrade, write_upgraded
from engine.clock import Stamp
from engine.criteria.model import Equals, Text
from engine.errors import DataLoss, StoreUnavailable
from engine.plan.model import (
    AttributeMatch,
    EventMatch,
    EventSelection,
    Interval,
    NumberRange,
    Plan,
    Universe,
)
from tests.conformance.site import ACCOUNT, AUDIENCE, SHOP, WEB, event, plan_of

ARCHIVE = Path(__file__).parent / "store-v5.tar.xz"
STORE_ID = "c7247a72f4f0f3fa7629f1dd84d6dcf2"
SETTINGS = LocalSettings(groups=2, checkpoint_s=3_600.0)


def attribute(name: str, test: Equals | Text | NumberRange) -> Plan:
    return plan_of(AttributeMatch(workspaces=(SHOP,), key=name, test=test))


TWO_EVENTS = EventMatch(selection=EventSelection(inputs=(WEB,)), intervals=(Interval(low=2.0),))
# What the version that wrote the store answered.
ANSWERS = {
    "everyone": (plan_of(Universe(inputs=(WEB,))), 148),
    "gold": (attribute("plan", Equals("gold")), 72),
    "note": (attribute("note", Text("contains", "1")), 46),
    "age": (attribute("age", NumberRange((Interval(low=40.0),))), 75),
    "events": (plan_of(TWO_EVENTS), 101),
}
LOGGED = 2
WRITTEN = 1_795_896_700_000_000
"""Two minutes after its last batch. Request ids are forgotten a day later."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    directory = tmp_path / "store"
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(directory, filter="data")
    # The archive is a snapshot. A store of that version has a lock file with nothing in it.
    (directory / "lock").touch()
    return directory


def check(directory: Path) -> None:
    backend = LocalBackend.open(directory, settings=SETTINGS, clock=lambda: Stamp(WRITTEN, WRITTEN))
    try:
        assert (backend.store_id, backend.revision(), backend.stats().users) == (STORE_ID, 7, 148)
        sizes = {name: backend.execute(plan, Count()).sizes[0] for name, (plan, _) in ANSWERS.items()}
        assert sizes == {name: size for name, (_, size) in ANSWERS.items()}
        members = backend.execute(ANSWERS["everyone"][0], Members(limit=1_000)).user_ids
        assert (len(members), members[0], "late" in members) == (148, "user-99", True)
        membership = backend.membership(AUDIENCE)
        assert membership is not None
        assert len(backend.changes(AUDIENCE, 0, 1_000).changes) == membership.last_sequence
        assert backend.documents.get("a/document") == b"content"
        profile = backend.profile(ACCOUNT, "user-7")
        assert profile is not None
        assert profile.user_id == "user-8"
        # Requests and event ids are remembered.
        assert backend.append(ACCOUNT, [event("x")], request_id="request-1").repeated
        assert backend.append(ACCOUNT, [event("user-30", event_id="0/30")]).duplicates == 1
        assert [finding for finding in backend.verify() if isinstance(finding, StoreFault)] == []
    finally:
        backend.close()
    assert [finding for finding in offline.verify_store(directory) if isinstance(finding, StoreFault)] == []


def test_opening_upgrades_and_logs_it(old: Path, caplog: pytest.LogCaptureFixture) -> None:
    inside = {path.name for path in old.iterdir()}
    with caplog.at_level(logging.INFO):
        check(old)
    told = [record.getMessage() for record in caplog.records if "format version" in record.getMessage()]
    versions = [int(message.partition("has format version ")[2][:1]) for message in told]
    assert versions == [5, 6, 5, 6]
    assert "its groups of users stay runs of neighbouring partitions" in caplog.text
    assert {path.name for path in old.iterdir()} == inside
    assert upgrade(old) == ()


def test_reading_an_old_store_tells_how_to_upgrade(old: Path) -> None:
    with pytest.raises(StoreUnavailable) as raised:
        list(offline.verify_store(old))
    assert raised.value.reason == "STORE_FORMAT"
    assert "milepost store upgrade" in raised.value.message
    assert is_old(old / "log")


def test_a_version_that_cannot_be_upgraded_is_named_with_the_way_on(old: Path, tmp_path: Path) -> None:
    header = msgspec.msgpack.encode({"format_version": 4})
    with lmdb.open(str(old / "log"), lock=False) as environment, environment.begin(write=True) as txn:
        txn.put(HEADER_KEY, xxhash.xxh3_64_digest(header) + header)
    with pytest.raises(StoreUnavailable) as raised:
        write_upgraded(old, tmp_path / "new", ("log",))
    assert raised.value.reason == "STORE_FORMAT"
    assert raised.value.message == (
        "the store has format version 4; this build reads 6 and upgrades 5: use the version of Milepost that"
        " wrote it"
    )


@pytest.mark.parametrize("dies_at", range(1, 9))
def test_interrupted_upgrade_is_repeated(old: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int) -> None:
    """The process ends before or after any of the steps that change the directory."""
    calls = 0

    def step(function: str) -> None:
        original = getattr(upgrade_module, function)

        def stepped(*arguments: object) -> object:
            nonlocal calls
            for is_after in (False, True):
                calls += 1
                if calls == dies_at:
                    raise KeyboardInterrupt
                if not is_after:
                    answer = original(*arguments)
            return answer

        monkeypatch.setattr(upgrade_module, function, stepped)

    step("_rewrite")
    step("_replace")
    # Killed, not unwound: nothing is cleaned up.
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
        LocalBackend.open(old, settings=SETTINGS)
    monkeypatch.undo()
    check(old)
    assert not (old / UPGRADE_DIRECTORY).exists()


def test_damaged_old_store_is_not_changed(old: Path) -> None:
    file = old / "index" / "data.mdb"
    content = bytearray(file.read_bytes())
    with lmdb.open(str(old / "index"), readonly=True, lock=False) as raw, raw.begin() as txn:
        # Long enough to be where it is once in the file.
        value = txn.get(key(Family.DEDUPE_FILTER, 1))
    assert value is not None
    assert content.count(value) == 1
    content[content.index(value) + len(value) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataLoss):
        LocalBackend.open(old, settings=SETTINGS)
    assert file.read_bytes() == content
    assert sorted(os.listdir(old)) == ["index", "lock", "log"]


def test_a_backup_of_the_old_version_is_restored(old: Path, tmp_path: Path) -> None:
    figures = offline.restore(old, tmp_path / "restored")
    assert (figures.format_version, figures.revision) == (FORMAT_VERSION, 7)
    assert is_old(old / "log")
    environment = Environment(tmp_path / "restored" / "index", read_only=True)
    with environment.reading() as txn:
        header = read_header(txn)
    environment.close()
    assert header is not None
    assert (header.groups, header.store_id == STORE_ID) == (2, False)
