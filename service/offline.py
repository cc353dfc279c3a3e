"""Operations on a store that no service has open, with the messages of AdminService.

The command `milepost store` shows both alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.backends import registry
from engine.backends.base.moving import Moved, Told
from engine.backends.registry import MovingTools, OfflineTools
from engine.errors import MilepostError, Unsupported
from engine.resources.outputs import without_key
from engine.resources.records import Input, Output
from engine.resources.repository import prefix_of
from engine.resources.secret_keys import SecretKeys
from milepost.v1 import admin_service_pb2 as pb
from service.config import SECRET_KEY_FILE
from service.convert.upkeep import finding_messages, stats_message
from service.directories import os_error_in_words

Step = Callable[[str, int, int], None]
"""Takes the progress of a move: its step, the pages that are done, and all of them."""


def _tools() -> OfflineTools:
    tools = registry.registration(registry.DEFAULT_BACKEND).offline
    assert tools is not None, "the embedded backend has offline operations"
    return tools


class OfflineError(Exception):
    """The operation failed. The message gives the reason."""


def verify(directory: Path) -> Iterator[pb.VerifyStoreResponse]:
    """As VerifyStore."""
    with _told():
        yield from finding_messages(_tools().verify_store(directory))


def stats(directory: Path) -> pb.GetStoreStatsResponse:
    """As GetStoreStats, with users and events as of the last checkpoint."""
    with _told():
        return stats_message(_tools().store_figures(directory))


def outputs_without_key(directory: Path) -> tuple[str, ...]:
    """The outputs whose secrets the key file in the directory does not fit, or that lack one."""
    with _told():
        stored = _tools().stored_documents(directory, prefix_of(Output))
        return without_key(stored, SecretKeys(directory / SECRET_KEY_FILE))


def restore(backup: Path, directory: Path) -> pb.GetStoreStatsResponse:
    """Restores a backup into an empty or missing directory."""
    with _told():
        return stats_message(_tools().restore(backup, directory))


def export(backup: Path, url: str, told: Step) -> Moved:
    """Exports a backup into the store at a URL, or goes on with an export that was interrupted."""
    with _told():
        tools, location = _moving(url)
        return tools.export(backup, location, _steps(told))


def compare(backup: Path, url: str, told: Step) -> Moved:
    """Compares the store at a URL with the backup that was exported into it."""
    with _told():
        tools, location = _moving(url)
        return tools.compare(backup, location, _steps(told))


def add_shard(url: str, told: Step) -> Moved:
    """Adds the last shard that a URL names to the store."""
    with _told():
        tools, location = _moving(url)
        return tools.add_shard(location, _steps(told))


def map_events(url: str, input_name: str, table: str, settle_s: float) -> int:
    """Reads the events of an input from a table of others. Returns the revision from which its rows count."""
    with _told():
        tools, location = _moving(url)
        document = prefix_of(Input) + input_name
        return tools.map_events(location, input_name, document, table, settle_s)


def unmap_events(url: str, input_name: str) -> int:
    """Stops reading the table of an input. Returns the revision from which its rows no longer count."""
    with _told():
        tools, location = _moving(url)
        return tools.unmap_events(location, input_name)


def recount_events(url: str, input_name: str) -> int:
    """Counts the rows of the table of an input again. Returns the revision from which the new count holds."""
    with _told():
        tools, location = _moving(url)
        return tools.recount_events(location, input_name)


def _steps(told: Step) -> Told:
    return lambda at: told(at.step, at.pages, at.pages_total)


def _moving(url: str) -> tuple[MovingTools, str]:
    name, location = registry.split_url(url)
    tools = registry.registration(name).moving
    if tools is None:
        raise Unsupported(f"a store of the kind {name!r} has no servers for data")
    return tools, location


def compact(directory: Path) -> tuple[int, int]:
    """Rewrites the files of a store. Returns their bytes before and after."""
    with _told():
        before_bytes, after_bytes = _tools().compact(directory)
    return before_bytes, after_bytes


def upgrade(directory: Path) -> tuple[tuple[str, ...], int]:
    """Upgrades the store's files to the current format. Returns the upgraded files and the version."""
    with _told():
        return _tools().upgrade_store(directory)


def adopt(directory: Path, *, moved: bool = False) -> str:
    """Turns a copied directory into a store and returns its new id."""
    with _told():
        return _tools().adopt(directory, moved=moved)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except MilepostError as error:
        raise OfflineError(error.message) from error
    except OSError as error:
        raise OfflineError(os_error_in_words(error)) from error
