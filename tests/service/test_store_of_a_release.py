"""Stores that earlier builds wrote open in this one: a store is never loaded anew for a new version.

Each archive holds the directory of a killed service: data in the index, and data only in the log. The answers
are those of the build that wrote it. `tests/service/releases/make.py` writes archives.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine.backends.local.storage.header import FORMAT_VERSION, UPGRADED_VERSION
from milepost import Client, make_user_update
from milepost.errors import NotFound, PermissionDenied
from service import offline
from tests.harness import eventually, serving
from tests.service.releases.make import ACCOUNT, ERASED, answers

ARCHIVES = Path(__file__).parent / "releases"


@dataclass(frozen=True)
class Release:
    """A store that a build wrote: the secrets of its keys, and what the build answered."""

    operator: str
    reader: str
    answers: dict[str, Any] = field(repr=False)


RELEASES = {
    6: Release(
        operator="mpk_5OLOWawjgtdbRo2SW8B5UU4JLdiVMIHctV6vcQrTQi4",
        reader="mpk_aoDmqhjlLqXbOJV_vK2TD4wDCjcxNiewJwbYt6bYHI8",
        answers={
            "users": 68,
            "events": 126,
            "milestones": {"rich": 11, "Gold plan": 23, "mail": 24, "Remaining users": 10},
            "rich": sorted(f"user-{number}" for number in range(4, 59, 5)),
            "alias": "user-57",
            "checks": [True, False, False],
            "connections": ["files-gold", "watch-gold"],
            "keys": ["reader"],
        },
    )
}
"""Format version → a store of it. `tests/engine/backends/local/storage` has one of version 5."""


def extracted(version: int, directory: Path) -> Path:
    """The store of a version in a directory, as if it had been moved there."""
    store = directory / "store"
    with tarfile.open(ARCHIVES / f"format-{version}.tar.xz") as archive:
        archive.extractall(store, filter="data")
    offline.adopt(store, moved=True)
    return store


def test_there_is_a_store_of_this_format_version() -> None:
    # When the version changes: write an archive with the build before, and keep those that can be upgraded.
    assert FORMAT_VERSION in RELEASES
    assert set(RELEASES) >= {version for version in (UPGRADED_VERSION, FORMAT_VERSION) if version >= 6}


@pytest.mark.parametrize("version", RELEASES)
def test_a_store_of_an_earlier_build_answers_as_it_did(tmp_path: Path, version: int) -> None:
    release = RELEASES[version]
    store = extracted(version, tmp_path)
    for _ in range(2):
        with serving(store, access_log="none") as service:
            with Client(service.address, account=ACCOUNT, api_key=release.operator) as client:
                assert answers(client) == release.answers
                with pytest.raises(NotFound):
                    client.get_user(ERASED)
                # The log was replayed.
                assert client.get_user("later-0").user_id == "later-0"
            with Client(service.address, account=ACCOUNT, api_key=release.reader) as client:
                assert client.check("user-1", "spring/gold")
                with pytest.raises(PermissionDenied):
                    client.delete_users(["user-1"])
        # The second start has a store that this build has checkpointed.


@pytest.mark.parametrize("version", RELEASES)
def test_its_outputs_go_on_where_they_stood(tmp_path: Path, version: int) -> None:
    store = extracted(version, tmp_path)
    delivered = store / "outputs" / ACCOUNT / "files" / "files-gold.ndjson"
    with (
        serving(store, access_log="none") as service,
        Client(service.address, account=ACCOUNT, api_key=RELEASES[version].operator) as client,
    ):
        client.upsert_users([make_user_update("new", {"plan": "gold"})], input="shop/web")
        members = set(client.list_members("spring/gold"))
        eventually(lambda: {each.get("subject") for each in lines_of(delivered)} >= members)
        eventually(lambda: "milepost.snapshot.end" in [each["type"] for each in lines_of(delivered)])
    begin, *events = lines_of(delivered)
    # The build that wrote the store knew no epochs, so the receiver gets a snapshot of this one.
    assert begin["type"] == "milepost.snapshot.begin"
    entered = [each["subject"] for each in events if each["type"] == "milepost.membership.entered"]
    assert sorted(entered) == sorted(members)
    assert len(events) == len(members) + 1


def lines_of(file: Path) -> list[dict[str, Any]]:
    """The events of an output's file."""
    written = file.read_text("utf-8") if file.exists() else ""
    return [json.loads(line) for line in written.rpartition("\n")[0].splitlines()]


@pytest.mark.parametrize("version", RELEASES)
def test_nothing_in_it_is_at_fault(tmp_path: Path, version: int) -> None:
    store = extracted(version, tmp_path)
    with (
        serving(store, access_log="none") as service,
        Client(service.address, account=ACCOUNT, api_key=RELEASES[version].operator) as client,
    ):
        results = [each.result for each in client.verify_store() if each.HasField("result")]
    assert [result.faults for result in results] == [0]
    assert offline.stats(store).format_version == FORMAT_VERSION
