"""Erased users leave no trace: a compact copy of the store is searched byte by byte for their data.

Searching starts with a store in which everything is found, and ends with one in which the same things of
everybody else still are. Nothing is compressed here, since a search sees through no compression.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from engine.backends.base import Record, UserRecord
from engine.backends.base.upkeep import StoreVerified
from engine.backends.local.backend import LocalBackend
from engine.backends.local.events import compaction
from engine.backends.local.offline import compact, verify_store
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage import compression
from engine.plan.model import Universe
from tests.conformance.site import ACCOUNT, AUDIENCE, JOURNEY, NOON, WEB, event, plan_of

SETTINGS = LocalSettings(groups=2, checkpoint_s=3_600.0)
EVERYONE = plan_of(Universe(inputs=(WEB,)))
USERS = 1_400
BATCH = 350
ERASED_EVERY = 7
SEED = 20_251_125
WORD = re.compile(rb"(?:user|alias|email|note|essay|tag|code)-[0-9a-f]{16}")


class Person(NamedTuple):
    """A user, and values that no other user has."""

    user_id: str
    alias: str
    email: str
    note: str
    essay: str
    tag: str
    score: float
    code: str
    amount: float

    @property
    def texts(self) -> set[bytes]:
        """Every text as it would be found."""
        texts = (self.user_id, self.alias, self.email, self.note, self.essay, self.tag, self.code)
        return {match for text in texts for match in WORD.findall(text.encode())}

    @property
    def numbers(self) -> set[int]:
        """The bits of every number, in both orders of bytes."""
        return {
            struct.unpack("<Q", struct.pack(form, number))[0]
            for number in (self.score, self.amount)
            for form in ("<d", ">d")
        }


def people() -> list[Person]:
    drawn = random.Random(SEED)

    def word(stem: str) -> str:
        return f"{stem}-{drawn.getrandbits(64):016x}"

    return [
        Person(
            word("user"),
            word("alias"),
            word("email"),
            word("note"),
            word("essay") * 20,
            word("tag"),
            drawn.random(),
            word("code"),
            drawn.random(),
        )
        for _ in range(USERS)
    ]


def records_of(person: Person) -> list[Record]:
    """Everything about a person: fields of all forms, and events."""
    return [
        UserRecord(
            person.user_id,
            WEB,
            NOON,
            {
                "note": person.note,
                "essay": person.essay,
                "tags": (person.tag, "common"),
                "score": person.score,
            },
            {"email": person.email},
        ),
        event(person.user_id, event_id=f"event-{person.user_id}", code=person.code, amount=person.amount),
        event(person.alias, "view", code=person.code),
    ]


@pytest.fixture
def everybody(monkeypatch: pytest.MonkeyPatch) -> list[Person]:
    plain = SimpleNamespace(compress=lambda data: data + b"longer", decompress=bytes)
    monkeypatch.setattr(compression, "_contexts", plain)
    return people()


@pytest.fixture
def backend(everybody: list[Person], tmp_path: Path) -> Iterator[LocalBackend]:
    opened = LocalBackend.open(tmp_path / "store", settings=SETTINGS)
    for start in range(0, USERS, BATCH):
        batch = everybody[start : start + BATCH]
        for person in batch[::5]:
            opened.alias(ACCOUNT, person.alias, person.user_id)
        opened.append(ACCOUNT, [record for person in batch for record in records_of(person)])
        opened.checkpoint()
    yield opened
    opened.close()


def contents(directory: Path) -> bytes:
    """Every byte of both files."""
    return b"".join((directory / part / "data.mdb").read_bytes() for part in ("log", "index"))


def copy_of(backend: LocalBackend, directory: Path) -> bytes:
    backend.snapshot(directory)
    *_, result = verify_store(directory)
    assert isinstance(result, StoreVerified)
    assert result.faults == 0
    return contents(directory)


def found(people: list[Person], stored: bytes) -> set[bytes | int]:
    """The data of these users that was found."""
    texts = {text for person in people for text in person.texts}
    numbers = np.array(sorted({bits for person in people for bits in person.numbers}), np.uint64)
    there: set[bytes | int] = set(texts & set(WORD.findall(stored)))
    for offset in range(8):
        words = np.frombuffer(stored, np.uint64, (len(stored) - offset) // 8, offset)
        there.update(words[np.isin(words, numbers)].tolist())
    return there


def erase(backend: LocalBackend, gone: list[Person]) -> None:
    """In a few calls, as callers would. An unaccepted alias is a separate user."""
    for start in range(0, len(gone), 100):
        ids = [name for person in gone[start : start + 100] for name in (person.user_id, person.alias)]
        backend.erase(ACCOUNT, ids)


def test_copy_contains_no_byte_of_an_erased_user(
    backend: LocalBackend, everybody: list[Person], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = everybody[::ERASED_EVERY]
    stay = [person for at, person in enumerate(everybody) if at % ERASED_EVERY]
    before = copy_of(backend, tmp_path / "before")
    everything = found(everybody, before)
    for person in everybody:
        assert person.texts <= everything
        # Of each number one form at least, in the profile, and mostly the other one too.
        assert everything & person.numbers
    # A checkpoint rewrites little at a time; the others follow by themselves.
    monkeypatch.setattr(compaction, "PURGED_ROWS_PER_CHECKPOINT", 500)
    erase(backend, gone)
    assert backend.figures().is_purging
    backend.purge()
    assert not backend.figures().is_purging
    after = copy_of(backend, tmp_path / "after")
    assert found(gone, after) == set()
    assert found(stay, after) == found(stay, before)
    assert backend.stats().users == 2 * len(stay) - len([p for p in everybody[::5] if p in stay])


def test_compacted_store_contains_no_byte_of_an_erased_user(
    backend: LocalBackend, everybody: list[Person], tmp_path: Path
) -> None:
    gone = everybody[::ERASED_EVERY]
    erase(backend, gone)
    backend.close()
    # Pages that are free, and inner pages of the tree, may still do.
    compact(tmp_path / "store")
    assert found(gone, contents(tmp_path / "store")) == set()
    assert everybody[1].texts <= found(everybody[1:2], contents(tmp_path / "store"))


def test_erased_ids_are_kept_only_while_exits_may_be_sent(
    backend: LocalBackend, everybody: list[Person], tmp_path: Path
) -> None:
    [membership] = backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], EVERYONE)
    gone = everybody[:: USERS // 10]
    backend.erase(ACCOUNT, [person.user_id for person in gone])
    backend.purge()
    # The id alone, once, for the change that tells of the exit.
    ids = {person.user_id.encode() for person in gone}
    assert found(gone, copy_of(backend, tmp_path / "waiting")) - alias_traces(gone) == ids
    exits = backend.changes(AUDIENCE, membership.last_sequence, 100).changes
    assert {change.user_id.encode() for change in exits} == ids
    backend.trim_changes(AUDIENCE, exits[-1].sequence - 1)
    kept = found(gone, copy_of(backend, tmp_path / "nearly"))
    assert kept - alias_traces(gone) == ids
    # Every consumer has read them.
    backend.trim_changes(AUDIENCE, exits[-1].sequence)
    assert found(gone, copy_of(backend, tmp_path / "sent")) <= alias_traces(gone)


def alias_traces(people: list[Person]) -> set[bytes]:
    """Data of users under a name that is not an alias of the erased ones."""
    return {trace.encode() for person in people for trace in (person.alias, person.code)}
