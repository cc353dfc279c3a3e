"""The backends that the suite runs against: every registered one, each opened in its own directory.

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

Opener = Callable[[Path], Backend]

SETTINGS = {"checkpoint_s": 3_600.0}
"""A store checkpoints only on request; a backend without checkpoints does not take it."""


def open_registered(name: str, directory: Path) -> Backend:
    """The backend with that name, with all its roles."""
    taken = registry.registration(name).settings.__struct_fields__
    settings = {key: value for key, value in SETTINGS.items() if key in taken}
    return cast(Backend, registry.open_store(f"{name}:{directory}", settings=settings))


def open_by_column(directory: Path) -> Backend:
    """The embedded backend, taking events by column."""
    return ColumnsBackend.open(directory, settings=msgspec.convert(SETTINGS, LocalSettings))


BACKENDS: dict[str, Opener] = {
    **{name: functools.partial(open_registered, name) for name in registry.names()},
    "local, by column": open_by_column,
}


@pytest.fixture(params=BACKENDS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """An empty store of each backend."""
    opened = Site(BACKENDS[request.param], tmp_path / "store")
    yield opened
    opened.backend.close()


@pytest.fixture(params=BACKENDS, scope="session")
def shared_site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One store for many small worlds, each in its own account."""
    opened = Site(BACKENDS[request.param], tmp_path_factory.mktemp("conformance"))
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
