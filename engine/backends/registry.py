"""Backends by name: `local:DIR` opens the embedded one, `local::memory:` does so in memory, and
`clickhouse://HOST:PORT?gateway=DIR` one whose rows are in a cluster.

Backends of other distributions are found through the entry point group `milepost.backends`: each entry names
a backend, and its value is a `Registration`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol

import msgspec

from engine.backends.base import Backend, Finding, ServingTools, Store, StoreFigures, backend_of
from engine.backends.base.moving import Moved, Told
from engine.clock import Stamp, wall_stamp
from engine.errors import InvalidInput, Unsupported

_PASSWORD = re.compile(r"(://[^/?@:]*:)[^/?@]*@")

ENTRY_POINT_GROUP = "milepost.backends"
DEFAULT_BACKEND = "local"
IN_MEMORY = "local::memory:"
"""URL of a new embedded store in memory, which ends with its process."""

BUILT_IN = {
    name: EntryPoint(name, registration, ENTRY_POINT_GROUP)
    for name, registration in (
        ("local", "engine.backends.local.registration:LOCAL"),
        ("clickhouse", "engine.backends.clickhouse.registration:CLICKHOUSE"),
    )
}
"""By name, not imported: a backend is loaded on first use."""


class Opener(Protocol):
    """Opens or creates the store at a location, the part of its URL after the name.

    `settings` are fields of `Registration.settings`; `clock` stamps arrivals. Raises StoreUnavailable when
    the store is not available, DataLoss when it is damaged.
    """

    def __call__(
        self, location: str, settings: Mapping[str, Any], clock: Callable[[], Stamp], /
    ) -> Store: ...


class OfflineTools(Protocol):
    """Offline operations on a store, by its location: an optional role beside the store.

    Arguments and errors are those of `engine.backends.local.offline`.
    """

    def verify_store(self, directory: Path) -> Iterator[Finding]:
        """Reads and cross-checks everything stored."""
        ...

    def store_figures(self, directory: Path) -> StoreFigures:
        """All figures."""
        ...

    def stored_documents(self, directory: Path, prefix: str) -> tuple[tuple[str, bytes], ...]:
        """The documents whose keys start with a prefix."""
        ...

    def restore(self, backup: Path, directory: Path) -> StoreFigures:
        """Restores a backup, and returns its figures."""
        ...

    def compact(self, directory: Path) -> tuple[int, int]:
        """Rewrites the files, and returns their sizes before and after."""
        ...

    def upgrade_store(self, directory: Path) -> tuple[tuple[str, ...], int]:
        """Upgrades to the current format, and returns the upgraded parts and their version."""
        ...

    def adopt(self, directory: Path, *, moved: bool = False) -> str:
        """Turns a copied directory into an independent store, and returns its id."""
        ...


class MovingTools(Protocol):
    """Moves data into stores of this kind, and within them, or says where more are: an optional role beside
    the store.

    Arguments and errors are those of `engine.backends.clickhouse.moving`.
    """

    def export(self, backup: Path, location: str, told: Told, /) -> Moved:
        """Exports a backup, or goes on with an export that was interrupted."""
        ...

    def compare(self, backup: Path, location: str, told: Told, /) -> Moved:
        """Compares what was exported with the backup."""
        ...

    def add_shard(self, location: str, told: Told, /) -> Moved:
        """Adds the last shard that a location names."""
        ...

    def map_events(
        self, location: str, input_name: str, document: str, table: str, settle_s: float, /
    ) -> int:
        """The events of an input are the rows of a table of others, which stay there."""
        ...

    def unmap_events(self, location: str, input_name: str, /) -> int:
        """The rows of that table do not count any more."""
        ...

    def recount_events(self, location: str, input_name: str, /) -> int:
        """Takes the rows of that table as they are now."""
        ...


class NoSettings(msgspec.Struct, frozen=True):
    """The settings of a backend that has none."""


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """A backend in the registry."""

    open: Opener
    settings: type[msgspec.Struct] = NoSettings
    """Its settings: fields with defaults. Those that a `Setting` describes become flags of the service."""
    prepare_process: Callable[[], None] | None = None
    """Called in a process that serves such a store, before it starts threads."""
    offline: OfflineTools | None = None
    moving: MovingTools | None = None
    serving: ServingTools | None = None
    """For services with readers, processes that answer checks beside the one with the store."""


def names() -> tuple[str, ...]:
    """The names of all backends that can be opened here, in order."""
    return tuple(sorted({*BUILT_IN, *(found.name for found in entry_points(group=ENTRY_POINT_GROUP))}))


def registration(name: str) -> Registration:
    """The backend with that name. Raises InvalidInput, listing the available names, when it is unknown;
    Unsupported when its entry point is not a `Registration` or needs a module that is not installed.
    """
    found = _entry_point(name)
    if found is None:
        raise InvalidInput.one("store", f"unknown backend {name!r}; available: {', '.join(names())}")
    try:
        loaded = found.load()
    except ModuleNotFoundError as error:
        way_on = f"install milepost-server[{name}]" if name in BUILT_IN else "install it"
        raise Unsupported(f"the backend {name!r} needs the module {error.name!r}: {way_on}") from error
    if not isinstance(loaded, Registration):
        raise Unsupported(f"the entry point {found.value!r} of backend {name!r} is not a Registration")
    return loaded


def split_url(url: str) -> tuple[str, str]:
    """`local:DIR` → name and location. Raises InvalidInput for a malformed URL."""
    name, colon, location = url.partition(":")
    if not (name and colon and location):
        raise InvalidInput.one("store", f"must be BACKEND:LOCATION, such as local:data; got {url!r}")
    return name, location


def shown_url(url: str) -> str:
    """The URL without its password, for logs and messages."""
    return _PASSWORD.sub(r"\1***@", url)


def open_store(
    url: str, *, settings: Mapping[str, Any] | None = None, clock: Callable[[], Stamp] = wall_stamp
) -> Store:
    """Opens the store at a URL, whatever its roles.

    Raises as `registration` and `Opener` do, and InvalidInput for a setting that the backend does not take.
    """
    name, location = split_url(url)
    found = registration(name)
    settings = settings or {}
    for key in settings:
        if key not in found.settings.__struct_fields__:
            raise InvalidInput.one(key, f"is no setting of the backend {name!r}")
    return found.open(location, settings, clock)


def open_backend(
    url: str, *, settings: Mapping[str, Any] | None = None, clock: Callable[[], Stamp] = wall_stamp
) -> Backend:
    """As `open_store`, for a store that needs all roles the engine uses; raises Unsupported otherwise."""
    store = open_store(url, settings=settings, clock=clock)
    try:
        return backend_of(store)
    except BaseException:
        store.close()
        raise


def prepare_process(url: str) -> None:
    """Runs the preparation that the backend of a URL needs, before the process starts threads."""
    prepare = registration(split_url(url)[0]).prepare_process
    if prepare is not None:
        prepare()


def _entry_point(name: str) -> EntryPoint | None:
    # Built-in backends come first, so that no other takes their names. Scanning all installed packages takes
    # 30 ms.
    if name in BUILT_IN:
        return BUILT_IN[name]
    return next(iter(entry_points(group=ENTRY_POINT_GROUP, name=name)), None)
