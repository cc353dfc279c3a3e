"""The backends that the suite runs against: every registered one, each opened in its own directory.

That over a cluster has one ClickHouse server, or one's own servers, and for each directory a database. It is
skipped when no server can be started.

A test declares the roles it needs (`pytest.mark.needs`). It is skipped for a backend that does not announce
them, and must use no others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from engine.backends import registry
from engine.backends.base import PROTOCOLS, Backend, Role
from engine.backends.local.settings import LocalSettings
from tests.conformance.as_columns import ColumnsBackend
from tests.conformance.site import Site
from tests.engine.backends.clickhouse.databases import Databases, databases_on
from tests.engine.backends.clickhouse.servers import (
    own_servers,
    reason_to_leave_out,
    reason_to_skip,
    started,
)

Opener = Callable[[Path], Backend]

SETTINGS = {"checkpoint_s": 3_600.0}
"""A store checkpoints only on request; a backend without checkpoints does not take it."""

CLUSTER = "clickhouse"


def open_registered(name: str, directory: Path) -> Backend:
    """The backend with that name, with all its roles."""
    taken = registry.registration(name).settings.__struct_fields__
    settings = {key: value for key, value in SETTINGS.items() if key in taken}
    return cast(Backend, registry.open_store(f"{name}:{directory}", settings=settings))


def open_by_column(directory: Path) -> Backend:
    """The embedded backend, taking events by column."""
    return ColumnsBackend.open(directory, settings=msgspec.convert(SETTINGS, LocalSettings))


BACKENDS: dict[str, Opener] = {
    **{name: functools.partial(open_registered, name) for name in registry.names() if name != CLUSTER},
    "local, by column": open_by_column,
}


@pytest.fixture(scope="session")
def cluster_databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """The servers that stores in a cluster are on."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    if own := own_servers():
        with databases_on(own) as databases:
            yield databases
        return
    with (
        started(tmp_path_factory.mktemp("clickhouse"), 1, 1) as servers,
        databases_on([[server.address for server in shard] for shard in servers]) as databases,
    ):
        yield databases


def _opener(request: pytest.FixtureRequest) -> Opener:
    if request.param != CLUSTER:
        return BACKENDS[request.param]
    databases: Databases = request.getfixturevalue("cluster_databases")
    return databases.open


@pytest.fixture(params=[*BACKENDS, CLUSTER])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """An empty store of each backend. To make one in a cluster takes long."""
    if request.param == CLUSTER and (reason := reason_to_leave_out()):
        pytest.skip(reason)
    opened = Site(_opener(request), tmp_path / "store")
    yield opened
    opened.backend.close()


@pytest.fixture(params=[*BACKENDS, CLUSTER], scope="session")
def shared_site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One store for many small worlds, each in its own account."""
    opened = Site(
        _opener(request),
        tmp_path_factory.mktemp("conformance"),
        over_network=request.param == CLUSTER,
    )
    yield opened
    opened.backend.close()


@pytest.fixture(autouse=True)
def _only_needed_roles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    used = [name for name in ("site", "shared_site") if name in request.fixturenames]
    if not used:
        return
    marks = list(request.node.iter_markers("needs"))
    if not marks:
        pytest.fail("does not declare its roles: add pytest.mark.needs(Role.PLANS, ...)", pytrace=False)
    needed: set[Role] = {role for mark in marks for role in mark.args}
    backend = request.getfixturevalue(used[0]).backend
    able = backend.capabilities()
    missing = needed - able.roles
    if missing:
        pytest.skip(f"{able.name} has no role {', '.join(sorted(role.value for role in missing))}")
    allowed = {method for role in needed for method in methods_of(role)}
    for role in able.roles - needed:
        for method in methods_of(role) - allowed:
            monkeypatch.setattr(backend, method, functools.partial(_refuse, role, method))


def methods_of(role: Role) -> frozenset[str]:
    """The names of a role's methods, without properties."""
    kinds = PROTOCOLS[role].__mro__
    return frozenset(
        name
        for kind in kinds
        if getattr(kind, "_is_protocol", False)
        for name, value in vars(kind).items()
        if callable(value) and not name.startswith("_")
    )


def _refuse(role: Role, method: str, *_: Any, **__: Any) -> None:
    raise AssertionError(f"{method} belongs to the role {role.value!r}, which this test does not declare")
