"""Settings: flags, then `MILEPOST_*` variables, then defaults.

Every field of `Config` is a flag (`data_dir` → `--data-dir`) and a variable (`MILEPOST_DATA_DIR`); the flag
wins. `--help` lists them with defaults and units.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from engine import limits as data
from engine.backends import registry
from engine.clock import FOLLOW_AFTER_MICROS, SETTLE_AFTER_MICROS
from engine.errors import InvalidInput
from engine.limits import Limits
from engine.retention import RETENTION_INTERVAL_S
from engine.values import MICROS_PER_SECOND
from service import limits as transport
from service.interceptors import AccessLog
from service.logs import LogFormat, LogLevel

ClockTrust = Literal["check", "trust"]
"""Whether the service compares the clock with the newest time in the store when it starts."""

VARIABLE_PREFIX = "MILEPOST_"
HOST_DEFAULT = "127.0.0.1"
PORT_DEFAULT = 7443
PORT_MAX = 65_535
REFRESH_INTERVAL_MS = 200
PATH_DEFAULT = Path("data")
MAP_BYTES_MIN = 1 << 20

_LOCAL = registry.registration(registry.DEFAULT_BACKEND).settings
"""Defaults of the embedded backend's settings."""


class ConfigError(ValueError):
    """Invalid setting. The message names it and the reason."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A field's `--help` text and its range."""

    description: str
    least: float = -math.inf
    most: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings. Sizes are in bytes; a time's unit is the end of its name."""

    data_dir: Annotated[Path, Setting("Store directory. Created if missing.")] = PATH_DEFAULT
    store: Annotated[
        str | None, Setting("Store URL, BACKEND:LOCATION (default: local: and the data directory).")
    ] = None
    host: Annotated[str, Setting("Address to listen on.")] = HOST_DEFAULT
    port: Annotated[
        int, Setting("Port to listen on. 0 picks a free port and prints it when ready.", 0, PORT_MAX)
    ] = PORT_DEFAULT
    port_file: Annotated[Path | None, Setting("File to write the port to once the service is ready.")] = None
    output_dir: Annotated[
        Path | None,
        Setting("Directory for file outputs (default: outputs in the data directory)."),
    ] = None
    backup_dir: Annotated[
        Path | None,
        Setting("Directory for backups (default: backups in the data directory)."),
    ] = None
    groups: Annotated[
        int,
        Setting("Partition groups of a new store, a power of two. The smallest sample is one group.", 1, 64),
    ] = _LOCAL["groups"]
    map_bytes: Annotated[
        int,
        Setting(
            "Maximum size of the index and of the log, in bytes each. Reserves address space, not memory.",
            MAP_BYTES_MIN,
        ),
    ] = _LOCAL["map_bytes"]
    checkpoint_records: Annotated[
        int,
        Setting(
            "Log records that trigger a checkpoint. A start replays the records after the last checkpoint.", 1
        ),
    ] = _LOCAL["checkpoint_records"]
    checkpoint_s: Annotated[
        float, Setting("Maximum age of the oldest log record before a checkpoint starts, in seconds.", 0.01)
    ] = _LOCAL["checkpoint_seconds"]
    page_cache_bytes: Annotated[
        int,
        Setting("Page cache size in bytes: users, sets and profiles. 0 = 25,165,824 plus 20 per user.", 0),
    ] = 0
    column_cache_bytes: Annotated[
        int, Setting("Event column cache size in bytes. 0 = 50,331,648 plus 24 per user.", 0)
    ] = 0
    refresh_interval_ms: Annotated[
        int, Setting("Interval between refreshes of activated audiences, in milliseconds.", 1)
    ] = REFRESH_INTERVAL_MS
    erased_ids_days: Annotated[
        int, Setting("Days to keep erased ids so that lagging consumers still receive the exit.", 0)
    ] = data.ERASED_IDS_DAYS
    retention_interval_s: Annotated[
        float, Setting("Interval between retention sweeps, in seconds.", 0.01)
    ] = RETENTION_INTERVAL_S

    changes_days: Annotated[
        int,
        Setting("Days to keep membership changes for watchers. A shorter event retention lowers it.", 1),
    ] = data.CHANGES_DAYS
    clock: Annotated[
        ClockTrust,
        Setting("Clock check at start: compare the clock with the newest time in the store, or trust it."),
    ] = "check"
    clock_follow_s: Annotated[
        float, Setting("Steady time after a clock jump before reads use the new time, in seconds.", 0)
    ] = FOLLOW_AFTER_MICROS / MICROS_PER_SECOND
    clock_settle_s: Annotated[
        float, Setting("Steady time after a clock jump before removals use the new time, in seconds.", 0)
    ] = SETTLE_AFTER_MICROS / MICROS_PER_SECOND

    worker_threads: Annotated[int, Setting("Threads for unary calls.", 1)] = transport.WORKER_THREADS
    in_flight_max: Annotated[int, Setting("Maximum unary calls in flight, queued ones included.", 1)] = (
        transport.IN_FLIGHT_MAX
    )
    streams_max: Annotated[
        int, Setting("Maximum concurrent event streams, exports and reflection streams.", 1)
    ] = transport.STREAMS_MAX
    imports_max: Annotated[int, Setting("Maximum concurrent imports.", 1)] = transport.IMPORTS_MAX
    watchers_max: Annotated[int, Setting("Maximum concurrent WatchMembership streams.", 1)] = (
        transport.WATCHERS_MAX
    )
    call_s_max: Annotated[
        float, Setting("Maximum duration of a unary call, in seconds. Caps the caller's deadline.", 1)
    ] = transport.CALL_S_MAX
    stop_grace_s: Annotated[
        float, Setting("Grace period for running calls after SIGTERM, in seconds.", 0)
    ] = transport.STOP_GRACE_S

    retry_budget_s: Annotated[
        float,
        Setting("Time an output may keep failing before its connections become FAULTED, in seconds.", 0),
    ] = transport.RETRY_BUDGET_S

    batch_events_max: Annotated[int, Setting("Maximum events or users per batch.", 1)] = data.BATCH_EVENTS_MAX
    batch_bytes_max: Annotated[
        int, Setting("Maximum request size in bytes.", 1, transport.RECEIVE_BYTES_MAX)
    ] = data.BATCH_BYTES_MAX
    import_batch_bytes_max: Annotated[
        int, Setting("Maximum uncompressed size of an import's record batch, in bytes.", 1)
    ] = transport.IMPORT_BATCH_BYTES_MAX
    event_attributes_max: Annotated[int, Setting("Maximum attributes per event.", 1)] = (
        data.EVENT_ATTRIBUTES_MAX
    )
    name_bytes_max: Annotated[int, Setting("Maximum length of a name or user id, in bytes.", 1)] = (
        data.NAME_BYTES_MAX
    )
    string_bytes_max: Annotated[int, Setting("Maximum length of a string value, in bytes.", 1)] = (
        data.STRING_BYTES_MAX
    )
    list_items_max: Annotated[int, Setting("Maximum strings per list value.", 1)] = data.LIST_ITEMS_MAX
    list_item_bytes_max: Annotated[
        int, Setting("Maximum length of a string in a list value, in bytes.", 1)
    ] = data.LIST_ITEM_BYTES_MAX
    display_name_characters_max: Annotated[
        int, Setting("Maximum length of a display name, in characters.", 1)
    ] = data.DISPLAY_NAME_CHARACTERS_MAX

    log_format: Annotated[LogFormat, Setting("Log format on stderr.")] = "console"
    log_level: Annotated[LogLevel, Setting("Minimum log level.")] = "info"
    access_log: Annotated[AccessLog, Setting("Calls to log. problems = failed or slow calls.")] = "problems"
    slow_call_ms: Annotated[
        int, Setting("Duration from which a call counts as slow, in milliseconds.", 1)
    ] = transport.SLOW_CALL_MS

    @property
    def store_url(self) -> str:
        """The store to serve."""
        return self.store or f"{registry.DEFAULT_BACKEND}:{self.data_dir}"

    @property
    def directory(self) -> Path:
        """The data directory: the embedded store's own, wherever `store` has it."""
        backend, location = registry.split_url(self.store_url)
        return Path(location) if backend == registry.DEFAULT_BACKEND else self.data_dir

    @property
    def store_settings(self) -> Mapping[str, Any]:
        """Settings for the store's backend, which takes those it knows."""
        return {
            "groups": self.groups,
            "map_bytes": self.map_bytes,
            "checkpoint_records": self.checkpoint_records,
            "checkpoint_seconds": self.checkpoint_s,
            "cache_bytes": self.page_cache_bytes or None,
            "column_cache_bytes": self.column_cache_bytes or None,
        }

    @property
    def outputs(self) -> Path:
        """Directory for file outputs."""
        return self.output_dir or self.directory / "outputs"

    @property
    def backups(self) -> Path:
        """Directory for backups."""
        return self.backup_dir or self.directory / "backups"

    @property
    def limits(self) -> Limits:
        """The engine's limits."""
        names = {field.name for field in dataclasses.fields(self)} & set(Limits.__struct_fields__)
        return Limits(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of `Config` as a command-line flag."""

    name: str
    kind: Any
    setting: Setting
    default: Any

    @property
    def choices(self) -> tuple[str, ...]:
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is typing.Literal else ()

    @property
    def metavar(self) -> str:
        names = {int: "N", float: "N", str: "TEXT", str | None: "TEXT"}
        return "|".join(self.choices) or names.get(self.kind, "PATH")

    @property
    def help(self) -> str:
        shown = "" if self.default is None else f" (default: {self.default})"
        return f"{self.setting.description}{shown}"


def fields() -> tuple[_Field, ...]:
    """Every setting, in the order of `Config`."""
    hints = typing.get_type_hints(Config, include_extras=True)
    found = []
    for field in dataclasses.fields(Config):
        kind, setting = typing.get_args(hints[field.name])
        found.append(_Field(field.name, kind, setting, field.default))
    return tuple(found)


def load(arguments: Sequence[str], environment: Mapping[str, str]) -> Config:
    """Read the settings from a command line and an environment.

    Raises ConfigError for an invalid value. Exits, as argparse does, on `--help` and on an unknown flag.
    """
    flags = vars(_parser().parse_args(arguments))
    given: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for field in fields():
        text, source = flags[field.name], flag_of(field.name)
        if text is None:
            source = variable_of(field.name)
            text = environment.get(source)
        if text is not None:
            given[field.name], sources[field.name] = _value(field, text, source), source
    _settle_store(given, sources)
    config = Config(**given)
    if config.groups.bit_count() != 1:
        raise ConfigError(f"{flag_of('groups')} must be a power of two, got {config.groups}")
    return config


def _settle_store(given: dict[str, Any], sources: Mapping[str, str]) -> None:
    """Checks the store's URL. The embedded store is named once: by URL or by directory, and a flag of the one
    wins over the variable of the other.
    """
    if "store" not in given:
        return
    try:
        backend, _ = registry.split_url(given["store"])
        registry.registration(backend)
    except InvalidInput as error:
        raise ConfigError(f"{sources['store']}: {error.violations[0].description}") from None
    if backend != registry.DEFAULT_BACKEND or "data_dir" not in given:
        return
    by_flag = [name for name in ("store", "data_dir") if sources[name] == flag_of(name)]
    if len(by_flag) != 1:
        raise ConfigError(f"{sources['store']} and {sources['data_dir']} both name the store: give one")
    del given["data_dir" if by_flag == ["store"] else "store"]


def flag_of(name: str) -> str:
    """`data_dir` → `--data-dir`."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """`data_dir` → `MILEPOST_DATA_DIR`."""
    return VARIABLE_PREFIX + name.upper()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Milepost: a gRPC service for customer journeys and audiences.",
        epilog=f"Each flag has a variable, {variable_of('data_dir')} for --data-dir. The flag wins.",
        allow_abbrev=False,
    )
    for field in fields():
        parser.add_argument(flag_of(field.name), help=field.help, metavar=field.metavar)
    return parser


def _value(field: _Field, text: str, source: str) -> Any:
    if field.choices:
        if text not in field.choices:
            raise ConfigError(f"{source} must be one of {', '.join(field.choices)}, got {text!r}")
        return text
    if field.kind in (int, float):
        return _number(field, text, source)
    if not text:
        raise ConfigError(f"{source} must not be empty")
    return text if field.kind in (str, str | None) else Path(text)


def _number(field: _Field, text: str, source: str) -> int | float:
    try:
        value: int | float = field.kind(text)
    except ValueError:
        raise ConfigError(f"{source} must be a number, got {text!r}") from None
    least, most = field.setting.least, field.setting.most
    # This order of comparison also rejects NaN.
    if not least <= value <= most:
        bounds = f"at least {least:g}" if most == math.inf else f"between {least:g} and {most:g}"
        raise ConfigError(f"{source} must be {bounds}, got {text}")
    return value
