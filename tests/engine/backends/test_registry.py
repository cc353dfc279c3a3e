"""Backends, including external ones, are opened by URL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.backends import registry
from engine.backends.base import Capabilities, Role, Stats, upkeep_of
from engine.backends.registry import Registration
from engine.clock import Stamp
from engine.errors import InvalidInput, Unsupported
from engine.values import Micros


class Idle:
    """A store that does nothing, and says so."""

    store_id = "idle"
    is_closed = False

    def __init__(self, location: str, settings: Mapping[str, Any]) -> None:
        self.location, self.settings = location, settings

    def revision(self) -> int:
        return 0

    def newest_arrival(self) -> Micros:
        return 0

    def stats(self) -> Stats:
        return Stats(store_id="idle", revision=0, users=0, events=0, disk_bytes=0, log_bytes=0)

    def capabilities(self) -> Capabilities:
        return Capabilities("idle", frozenset({Role.USERS}))

    def close(self) -> None:
        self.is_closed = True


opened: list[Idle] = []


def open_idle(location: str, settings: Mapping[str, Any], clock: Callable[[], Stamp]) -> Idle:
    opened.append(Idle(location, settings))
    return opened[-1]


class IdleSettings(msgspec.Struct, frozen=True):
    depth: int = 3


IDLE = Registration(open=open_idle, settings=IdleSettings)


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    group = registry.ENTRY_POINT_GROUP
    others = (
        EntryPoint("idle", f"{__name__}:IDLE", group),
        EntryPoint("wrong", f"{__name__}:open_idle", group),
        EntryPoint("local", f"{__name__}:IDLE", group),
    )

    def entry_points(*, group: str, name: str | None = None) -> tuple[EntryPoint, ...]:
        assert group == registry.ENTRY_POINT_GROUP
        return tuple(found for found in others if name in (None, found.name))

    monkeypatch.setattr(registry, "entry_points", entry_points)
    monkeypatch.setattr(EntryPoint, "load", load)


def load(found: EntryPoint) -> object:
    """As `EntryPoint.load`, but also for objects of this file."""
    module, _, name = found.value.partition(":")
    return globals()[name] if module == __name__ else original_load(found)


original_load = EntryPoint.load


def test_the_embedded_backend(tmp_path: Path) -> None:
    backend = registry.open_backend(f"local:{tmp_path / 'store'}", settings={"groups": 4})
    assert backend.capabilities() == Capabilities("local", frozenset(Role))
    assert backend.smallest_sample() == 1_024 // 4
    assert upkeep_of(backend).figures().users == 0
    backend.close()


def test_external_backend_is_opened_with_its_settings() -> None:
    assert registry.names() == ("clickhouse", "idle", "local", "wrong")
    store = registry.open_store("idle:host:99/db", settings={"depth": 9})
    assert isinstance(store, Idle)
    assert (store.location, store.settings) == ("host:99/db", {"depth": 9})
    with pytest.raises(Unsupported, match="'idle' does not have the role upkeep"):
        upkeep_of(store)


def test_store_without_required_roles_is_closed() -> None:
    lacking = "catalog, documents, membership, plans, writing"
    with pytest.raises(Unsupported, match=f"'idle' does not have the role {lacking}"):
        registry.open_backend("idle:anywhere")
    assert opened[-1].is_closed


def test_a_setting_that_a_backend_does_not_take_is_refused() -> None:
    with pytest.raises(InvalidInput) as refusal:
        registry.open_store("idle:anywhere", settings={"depth": 9, "groups": 4})
    assert refusal.value.message == "groups: is no setting of the backend 'idle'"


@pytest.mark.parametrize(
    ("url", "description"),
    [
        ("nothing:x", "unknown backend 'nothing'; available: clickhouse, idle, local, wrong"),
        ("data", "must be BACKEND:LOCATION, such as local:data; got 'data'"),
        ("local:", "must be BACKEND:LOCATION, such as local:data; got 'local:'"),
        (":data", "must be BACKEND:LOCATION, such as local:data; got ':data'"),
    ],
)
def test_invalid_store_urls_are_refused(url: str, description: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        registry.open_store(url)
    assert refusal.value.message == f"store: {description}"


@pytest.mark.parametrize(
    ("name", "way_on"),
    [("clickhouse", r"install milepost-server\[clickhouse\]"), ("elsewhere", "install it")],
)
def test_a_module_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, name: str, way_on: str) -> None:
    def missing(found: EntryPoint) -> object:
        raise ModuleNotFoundError("No module named 'driver'", name="driver")

    others = (EntryPoint("elsewhere", "elsewhere:BACKEND", registry.ENTRY_POINT_GROUP),)
    monkeypatch.setattr(registry, "entry_points", lambda group, name=None: others)
    monkeypatch.setattr(EntryPoint, "load", missing)
    with pytest.raises(Unsupported, match=f"the backend '{name}' needs the module 'driver': {way_on}"):
        registry.registration(name)


def test_entry_point_must_be_a_registration() -> None:
    with pytest.raises(Unsupported, match="of backend 'wrong' is not a Registration"):
        registry.open_store("wrong:x")
