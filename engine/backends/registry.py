"""Backends by name: `local:DIR` opens the embedded one.

Those of other distributions are found by the entry points of the group `milepost.backends`: each names a
backend, and its value is a `Registration`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol

import msgspec

from engine.backends.base import Backend, Finding, Store, StoreFigures, backend_of
from engine.clock import Stamp, wall_stamp
from engine.errors import InvalidInput, Unsupported

ENTRY_POINT_GROUP = "milepost.backends"
DEFAULT_BACKEND = "local"

BUILT_IN = (EntryPoint("local", "engine.backends.local.registration:LOCAL", ENTRY_POINT_GROUP),)
"""Named, not imported: a backend is loaded when it is asked for."""


class Opener(Protocol):
    """Opens or creates the store at a location, the part of its URL after the name.

    `settings` are some of `Registration.settings`; `clock` stamps what arrives. Raises StoreUnavailable when
    the store cannot be had, DataLoss when it is damaged.
    """

    def __call__(
        self, location: str, settings: Mapping[str, Any], clock: Callable[[], Stamp], /
    ) -> Store: ...


class OfflineTools(Protocol):
    """What can be done with a store that nobody serves, by its location: an optional role beside the store.

    The arguments and errors are told by `engine.backends.local.offline`.
    """

    def verify_store(self, directory: Path) -> Iterator[Finding]:
        """Reads and cross-checks everything that is stored."""
        ...

    def store_figures(self, directory: Path) -> StoreFigures:
        """All figures."""
        ...

    def restore(self, backup: Path, directory: Path) -> StoreFigures:
        """Makes a store of a backup, and answers its figures."""
        ...

    def compact(self, directory: Path) -> tuple[int, int]:
        """Writes the files anew, and answers their bytes before and after."""
        ...

    def upgrade_store(self, directory: Path) -> tuple[tuple[str, ...], int]:
        """Upgrades to the present format, and answers which parts were to be upgraded, and its version."""
        ...

    def adopt(self, directory: Path, *, moved: bool = False) -> str:
        """Makes a copied directory a store of its own, and answers its id."""
        ...


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """A backend as the registry knows it."""

    open: Opener
    settings: Mapping[str, Any] = {}
    """The settings it takes, with their defaults."""
    prepare_process: Callable[[], None] | None = None
    """What a process that serves such a store does before it has threads."""
    offline: OfflineTools | None = None


def names() -> tuple[str, ...]:
    """The names of all backends that can be opened here, in order."""
    return tuple(sorted(_entry_points()))


def registration(name: str) -> Registration:
    """The backend of a name. Raises InvalidInput, listing those there are, for another; Unsupported when what
    is registered is none.
    """
    found = _entry_points().get(name)
    if found is None:
        raise InvalidInput.one("store", f"unknown backend {name!r}; available: {', '.join(names())}")
    loaded = found.load()
    if not isinstance(loaded, Registration):
        raise Unsupported(f"the entry point {found.value!r} of backend {name!r} is no Registration")
    return loaded


def split_url(url: str) -> tuple[str, str]:
    """`local:DIR` → name and location. Raises InvalidInput for what is no such URL."""
    name, colon, location = url.partition(":")
    if not (name and colon and location):
        raise InvalidInput.one("store", f"must be BACKEND:LOCATION, such as local:data; got {url!r}")
    return name, location


def open_store(
    url: str, *, settings: Mapping[str, Any] | None = None, clock: Callable[[], Stamp] = wall_stamp
) -> Store:
    """Opens the store at a URL, whatever its roles. Settings that its backend does not take are left out, as
    a service has flags for several backends.

    Raises as `registration` and `Opener` do.
    """
    name, location = split_url(url)
    found = registration(name)
    taken = {key: value for key, value in (settings or {}).items() if key in found.settings}
    return found.open(location, taken, clock)


def open_backend(
    url: str, *, settings: Mapping[str, Any] | None = None, clock: Callable[[], Stamp] = wall_stamp
) -> Backend:
    """As `open_store`, for a store that has every role that the engine needs; Unsupported otherwise."""
    store = open_store(url, settings=settings, clock=clock)
    try:
        return backend_of(store)
    except BaseException:
        store.close()
        raise


def prepare_process(url: str) -> None:
    """Does what the backend of a URL wants done in a process of its own, before that has threads."""
    prepare = registration(split_url(url)[0]).prepare_process
    if prepare is not None:
        prepare()


def _entry_points() -> dict[str, EntryPoint]:
    # What is built in comes last: nobody else's backend takes its name.
    return {found.name: found for found in (*entry_points(group=ENTRY_POINT_GROUP), *BUILT_IN)}
