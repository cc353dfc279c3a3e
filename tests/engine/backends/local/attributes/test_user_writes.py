"""User updates by column, compared with the same updates one by one: the stores must be equal."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.backends.base import UserRecord
from engine.backends.base.upkeep import StoreFault
from engine.backends.local.attributes.index import column_codec
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.keys import Family, key, parts_of
from engine.backends.local.storage.page_cache import (
    ABSENT_TIME,
    BITMAP,
    PAGE_BITS,
    PAGE_MASK,
    PAGE_USERS,
    SEEN_TIMES,
    as_numpy,
)
from engine.backends.local.storage.transactions import ReadTransaction
from engine.backends.local.users.id_pages import ID_PAGE
from engine.backends.local.write import local_state
from engine.criteria.model import ConsentState
from engine.values import Kind, Value
from tests.conformance.as_columns import user_columns_of
from tests.conformance.drawing import INSTANTS, KEYS, PURPOSES, STRINGS, VALUES
from tests.conformance.site import ACCOUNT, APP, DESK, NOON, SHOP, WEB, event, update
from tests.engine.backends.local.walk.store import unsynced
from tests.short_forms import examples
from tests.stores import crash_image

USER_IDS = tuple(f"user-{i}" for i in range(12))
EMAILS = st.dictionaries(st.just("email"), st.none() | st.sampled_from(STRINGS), max_size=1)
UPDATES = st.lists(
    st.builds(
        UserRecord,
        st.sampled_from(USER_IDS),
        st.sampled_from((WEB, APP, DESK)),
        st.sampled_from(INSTANTS),
        st.dictionaries(st.sampled_from(KEYS), st.none() | st.sampled_from(VALUES), max_size=2),
        EMAILS,
        st.dictionaries(st.sampled_from(PURPOSES), st.sampled_from(ConsentState), max_size=2),
    ),
    max_size=20,
)
ACTIONS = st.sampled_from(("", "", "checkpoint", "restart", "alias", "erase", "event"))


class Pair:
    """A store that takes updates one by one, and one that takes them by column."""

    def __init__(self, directory: Path, settings: LocalSettings) -> None:
        self._settings = settings
        self._directories = [directory / name for name in ("rows", "columns")]
        self._open()

    def _open(self) -> None:
        self.by_row, self.by_column = self.both = [
            LocalBackend.open(directory, settings=self._settings) for directory in self._directories
        ]

    def send(self, updates: Sequence[UserRecord]) -> None:
        """One batch, either way."""
        answer = self.by_row.append(ACCOUNT, updates)
        by_column = self.by_column.append_user_columns(ACCOUNT, user_columns_of(updates))
        # Many updates are several entries of the log.
        assert replace(by_column, revision=answer.revision) == answer

    def act(self, action: str, source: random.Random) -> None:
        """Applies another operation to both."""
        if action == "restart":
            self.close()
            self._open()
        one, other = source.sample(USER_IDS, 2)
        for backend in self.both:
            match action:
                case "checkpoint":
                    backend.checkpoint()
                case "alias":
                    _alias(backend, one, other)
                case "erase":
                    backend.erase(ACCOUNT, [one])
                case "event":
                    backend.append(ACCOUNT, [event(one), event(f"by event {other}")])

    def check(self) -> None:
        """Both are equal and consistent."""
        for backend in self.both:
            backend.checkpoint()
        with self.by_row._store.index.reading() as rows, self.by_column._store.index.reading() as columns:
            expected, found = _Stored(rows), _Stored(columns)
            assert found.profiles() == expected.profiles()
            assert found.sets() == expected.sets()
            assert found.columns() == expected.columns()
            assert found.seen() == expected.seen()
            assert found.texts() == expected.texts()
        facts = [backend.user_attributes(ACCOUNT, limit=100) for backend in self.both]
        assert facts[0] == facts[1]
        assert [found for found in self.by_column.verify() if isinstance(found, StoreFault)] == []

    def close(self) -> None:
        """Closes both."""
        for backend in self.both:
            backend.close()


def _alias(backend: LocalBackend, one: str, other: str) -> None:
    known = backend.profile(ACCOUNT, one), backend.profile(ACCOUNT, other)
    if all(profile is None or profile.user_id in (one, other) for profile in known):
        names = {profile.user_id for profile in known if profile is not None}
        if len(names) == 2:
            backend.alias(ACCOUNT, one, other)


class _Stored:
    """What is stored about users, by their ids: dense ids differ, as they follow the order of a batch."""

    def __init__(self, txn: ReadTransaction) -> None:
        self._txn = txn
        self._ids = {
            parts_of(found)[1:]: ID_PAGE.decode(value).texts()
            for found, value in txn.scan(key(Family.USER_IDS))
        }

    def _id(self, group: int, dense: int) -> str:
        return self._ids[group, dense >> PAGE_BITS][dense & PAGE_MASK]

    def _values(self, family: Family) -> Iterator[tuple[tuple[Any, ...], memoryview]]:
        return ((parts_of(found), value) for found, value in self._txn.scan(key(family)))

    def profiles(self) -> dict[Any, bytes]:
        """The stored form, by user."""
        found = self._values(Family.PROFILE)
        return {self._id(group, dense): bytes(value) for (_, group, dense), value in found}

    def sets(self) -> dict[Any, list[str]]:
        """The users of each bitmap, over all groups together: each store forms its own groups."""
        group_at = {Family.FIELD_PRESENT: 3, Family.FIELD_VALUE: 3, Family.BELONGS: 2, Family.ALIVE: 1}
        found: dict[Any, list[str]] = {}
        for family, at in group_at.items():
            for parts, value in self._values(family):
                users = found.setdefault((family, *parts[:at], *parts[at + 1 :]), [])
                users += (self._id(parts[at], dense) for dense in BITMAP.decode(value))
        return {name: sorted(users) for name, users in found.items()}

    def columns(self) -> dict[Any, float]:
        """Numbers and times by field, kind and user."""
        found = {}
        for (_, field, kind, group, page), value in self._values(Family.FIELD_COLUMN):
            codec = column_codec(Kind(kind))
            column = codec.decode(value)
            for slot in np.flatnonzero(codec.is_present(as_numpy(column))).tolist():
                found[field, kind, self._id(group, page << PAGE_BITS | slot)] = column[slot]
        return found

    def seen(self) -> dict[Any, tuple[int, int]]:
        """First and last times by input and user."""
        found = {}
        for (_, through, group, page), value in self._values(Family.SEEN):
            times = SEEN_TIMES.decode(value)
            for slot, user_id in enumerate(self._ids[group, page]):
                if times[slot] != ABSENT_TIME:
                    found[through, user_id] = times[slot], times[slot + PAGE_USERS]
        return found

    def texts(self) -> dict[Any, bytes]:
        """Strings that are too long for keys."""
        found = self._values(Family.FIELD_TEXT)
        return {(*parts[:3], *parts[4:]): bytes(value) for parts, value in found}


@contextmanager
def pair(chunk_users: int = 1 << 14, groups: int = 2) -> Iterator[Pair]:
    """Two empty stores."""
    with (
        tempfile.TemporaryDirectory(prefix="pair-") as directory,
        mock.patch.object(local_state, "IMPORT_CHUNK_USERS", chunk_users),
        unsynced(),
    ):
        opened = Pair(Path(directory), LocalSettings(groups=groups, checkpoint_s=1e6, map_bytes=1 << 30))
        # Names get their numbers in one order, whichever way they come first.
        everything: dict[str, Value | None] = dict.fromkeys(KEYS, "x")
        for backend in opened.both:
            names = [
                UserRecord(
                    "first", through, NOON, everything, {"email": "x"}, dict.fromkeys(PURPOSES, given_)
                )
                for through, given_ in (
                    (WEB, ConsentState.GIVEN),
                    (APP, ConsentState.DENIED),
                    (DESK, ConsentState.GIVEN),
                )
            ]
            backend.append(ACCOUNT, names)
        try:
            yield opened
        finally:
            opened.close()


@settings(max_examples=examples(15), suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    steps=st.lists(st.tuples(UPDATES, ACTIONS), min_size=1, max_size=5),
    chunk_users=st.sampled_from((3, 1 << 14)),
    seed=st.integers(0, 1 << 32),
)
def test_column_updates_equal_single_updates(
    steps: list[tuple[list[UserRecord], str]], chunk_users: int, seed: int
) -> None:
    source = random.Random(seed)
    with pair(chunk_users) as stores:
        for updates, action in steps:
            stores.send(updates)
            stores.act(action, source)
        stores.check()


@pytest.mark.parametrize("batches", [1, 3])
def test_large_batches_span_pages_and_groups(batches: int) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    users = 2 * PAGE_USERS + 2_000
    with pair(chunk_users=5_000, groups=1) as stores:
        for _ in range(batches):
            ids = [source.randrange(users * 2) for _ in range(users)]
            stores.send([_random_update(source, f"user-{i}") for i in ids])
        stores.check()
        assert stores.by_column.stats().users == stores.by_row.stats().users > PAGE_USERS


def _random_update(source: random.Random, user_id: str) -> UserRecord:
    attributes = {name: source.choice((None, *VALUES)) for name in KEYS if source.random() < 0.8}
    return UserRecord(user_id, WEB, NOON + source.randrange(50), attributes)


def test_latest_of_several_rows_of_a_user_wins() -> None:
    with pair() as stores:
        stores.send([update("ada", time=NOON, plan="old", age=0.0)])
        stores.send(
            [
                update("ada", time=NOON + 2, plan="late"),
                update("ada", time=NOON + 1, plan="early"),
                update("ada", time=NOON + 2, plan="later"),
                update("bob", time=NOON - 1, plan=None),
                update("ada", time=NOON - 1, age=7.0),
            ]
        )
        for backend in stores.both:
            ada, bob = backend.profile(ACCOUNT, "ada"), backend.profile(ACCOUNT, "bob")
            assert ada is not None
            assert ada.attributes == {SHOP: {"plan": (NOON + 2, "later"), "age": (NOON, 0.0)}}
            assert ada.seen == {WEB: (NOON - 1, NOON + 2)}
            assert bob is not None
            assert bob.attributes == {}
        stores.check()


def test_an_update_replayed_from_the_log_gives_the_same_profile(tmp_path: Path) -> None:
    never = LocalSettings(checkpoint_s=1e6, map_bytes=1 << 30)
    backend = LocalBackend.open(tmp_path / "store", settings=never)
    updates = [update(f"user-{i}", plan="gold", age=float(i)) for i in range(500)]
    backend.append_user_columns(ACCOUNT, user_columns_of(updates), request_id="r")
    # What a crash leaves behind: closing would checkpoint.
    crashed = crash_image(tmp_path / "store", tmp_path / "crashed")
    backend.close()
    again = LocalBackend.open(crashed, settings=never)
    profile = again.profile(ACCOUNT, "user-499")
    assert profile is not None
    assert profile.attributes == {SHOP: {"plan": (NOON, "gold"), "age": (NOON, 499.0)}}
    repeated = again.append_user_columns(ACCOUNT, user_columns_of(updates[:1]), request_id="r")
    assert (repeated.accepted, repeated.repeated) == (500, True)
    again.close()
