"""Settings: flags, then `MILEPOST_*` variables, then defaults.

Every field of `Config` is a flag (`data_dir` → `--data-dir`) and a variable (`MILEPOST_DATA_DIR`); the flag
wins. `--help` lists them all with defaults and units.
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
from engine.backends.local.settings import CHECKPOINT_RECORDS, CHECKPOINT_SECONDS
from engine.backends.local.storage.environment import MAP_BYTES_DEFAULT
from engine.backends.local.storage.header import GROUPS_DEFAULT
from engine.clock import FOLLOW_AFTER_MICROS, SETTLE_AFTER_MICROS
from engine.limits import Limits
from engine.retention import RETENTION_INTERVAL_S
from engine.values import MICROS_PER_SECOND
from service import limits as transport
from service.interceptors import AccessLog
from service.logs import LogFormat, LogLevel

ClockTrust = Literal["check", "trust"]
"""Whether a start compares the clock with the newest time the store knows."""

VARIABLE_PREFIX = "MILEPOST_"
HOST_DEFAULT = "127.0.0.1"
PORT_DEFAULT = 7443
PORT_MAX = 65_535
REFRESH_INTERVAL_MS = 200
PATH_DEFAULT = Path("data")
MAP_BYTES_MIN = 1 << 20


class ConfigError(ValueError):
    """A setting that cannot be used; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What `--help` says of a field, and the numbers it may hold."""

    description: str
    least: float = -math.inf
    most: float = math.inf


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that can be set. Sizes in bytes, times in the unit their name ends with."""

    data_dir: Annotated[Path, Setting("directory of the store; made when missing")] = PATH_DEFAULT
    host: Annotated[str, Setting("address to listen on")] = HOST_DEFAULT
    port: Annotated[int, Setting("port to listen on; 0 = a free one, printed when ready", 0, PORT_MAX)] = (
        PORT_DEFAULT
    )
    port_file: Annotated[Path | None, Setting("file to write the port to once serving")] = None
    output_dir: Annotated[
        Path | None,
        Setting("directory below which file outputs write (default: outputs in the data directory)"),
    ] = None
    backup_dir: Annotated[
        Path | None,
        Setting("directory below which backups are written (default: backups in the data directory)"),
    ] = None
    groups: Annotated[
        int,
        Setting("groups of partitions of a new store, a power of two; the smallest sample is a group", 1, 64),
    ] = GROUPS_DEFAULT
    map_bytes: Annotated[
        int,
        Setting("most that the index and the log may each grow to, in bytes; address space", MAP_BYTES_MIN),
    ] = MAP_BYTES_DEFAULT
    checkpoint_records: Annotated[
        int,
        Setting(
            "records in the log that start a checkpoint; what is not checkpointed is replayed at a start", 1
        ),
    ] = CHECKPOINT_RECORDS
    checkpoint_s: Annotated[
        float, Setting("how long after the first record that is not checkpointed a checkpoint starts", 0.01)
    ] = CHECKPOINT_SECONDS
    page_cache_bytes: Annotated[
        int,
        Setting("memory for users, sets and profiles read lately; 0 = 25,165,824 and 20 a user", 0),
    ] = 0
    column_cache_bytes: Annotated[
        int, Setting("memory for columns of events read lately; 0 = 50,331,648 and 24 a user", 0)
    ] = 0
    refresh_interval_ms: Annotated[
        int, Setting("how often activated audiences are brought up to date", 1)
    ] = REFRESH_INTERVAL_MS
    erased_ids_days: Annotated[
        int, Setting("days that ids of erased users are kept for those who have not heard of their exits", 0)
    ] = data.ERASED_IDS_DAYS
    retention_interval_s: Annotated[
        float, Setting("how often events that an account's retention is over for are looked for", 0.01)
    ] = RETENTION_INTERVAL_S

    changes_days: Annotated[
        int,
        Setting("days that changes of activated audiences are kept for watchers; less with a retention", 1),
    ] = data.CHANGES_DAYS
    clock: Annotated[
        ClockTrust,
        Setting("what a start thinks of the machine's clock; trust = it is right, whatever the store knows"),
    ] = "check"
    clock_follow_s: Annotated[
        float, Setting("how long the clock must be steady after a jump before answers go by it", 0)
    ] = FOLLOW_AFTER_MICROS / MICROS_PER_SECOND
    clock_settle_s: Annotated[
        float, Setting("how long the clock must be steady after a jump before anything is removed by it", 0)
    ] = SETTLE_AFTER_MICROS / MICROS_PER_SECOND

    worker_threads: Annotated[int, Setting("threads for unary calls", 1)] = transport.WORKER_THREADS
    in_flight_max: Annotated[int, Setting("unary calls accepted and not yet answered", 1)] = (
        transport.IN_FLIGHT_MAX
    )
    streams_max: Annotated[int, Setting("streams of events, exports and reflection at a time", 1)] = (
        transport.STREAMS_MAX
    )
    imports_max: Annotated[int, Setting("imports at a time", 1)] = transport.IMPORTS_MAX
    watchers_max: Annotated[int, Setting("WatchMembership streams at a time", 1)] = transport.WATCHERS_MAX
    call_s_max: Annotated[float, Setting("longest a unary call works for, whatever its deadline", 1)] = (
        transport.CALL_S_MAX
    )
    stop_grace_s: Annotated[float, Setting("how long calls may finish after SIGTERM", 0)] = (
        transport.STOP_GRACE_S
    )

    retry_budget_s: Annotated[
        float, Setting("how long an output may fail before its connections are FAULTED", 0)
    ] = transport.RETRY_BUDGET_S

    batch_events_max: Annotated[int, Setting("events or users of a batch", 1)] = data.BATCH_EVENTS_MAX
    batch_bytes_max: Annotated[int, Setting("bytes of a request", 1, transport.RECEIVE_BYTES_MAX)] = (
        data.BATCH_BYTES_MAX
    )
    import_batch_bytes_max: Annotated[int, Setting("bytes of a record batch of an import, unpacked", 1)] = (
        transport.IMPORT_BATCH_BYTES_MAX
    )
    event_attributes_max: Annotated[int, Setting("attributes of an event", 1)] = data.EVENT_ATTRIBUTES_MAX
    name_bytes_max: Annotated[int, Setting("bytes of a name or user id", 1)] = data.NAME_BYTES_MAX
    string_bytes_max: Annotated[int, Setting("bytes of a string value", 1)] = data.STRING_BYTES_MAX
    list_items_max: Annotated[int, Setting("strings of a list value", 1)] = data.LIST_ITEMS_MAX
    list_item_bytes_max: Annotated[int, Setting("bytes of a string of a list value", 1)] = (
        data.LIST_ITEM_BYTES_MAX
    )
    display_name_characters_max: Annotated[int, Setting("characters of a display name", 1)] = (
        data.DISPLAY_NAME_CHARACTERS_MAX
    )

    log_format: Annotated[LogFormat, Setting("how logs on stderr are written")] = "console"
    log_level: Annotated[LogLevel, Setting("least level that is logged")] = "info"
    access_log: Annotated[AccessLog, Setting("calls that are logged; problems = failed or slow")] = "problems"
    slow_call_ms: Annotated[int, Setting("calls that take this long are slow", 1)] = transport.SLOW_CALL_MS

    @property
    def outputs(self) -> Path:
        """The directory below which file outputs write."""
        return self.output_dir or self.data_dir / "outputs"

    @property
    def backups(self) -> Path:
        """The directory below which backups are written."""
        return self.backup_dir or self.data_dir / "backups"

    @property
    def limits(self) -> Limits:
        """The engine's limits."""
        names = {field.name for field in dataclasses.fields(self)} & set(Limits.__struct_fields__)
        return Limits(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of `Config` as the command line knows it."""

    name: str
    kind: Any
    setting: Setting
    default: Any

    @property
    def choices(self) -> tuple[str, ...]:
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is typing.Literal else ()

    @property
    def metavar(self) -> str:
        return "|".join(self.choices) or {int: "N", float: "N", str: "TEXT"}.get(self.kind, "PATH")

    @property
    def help(self) -> str:
        shown = "" if self.default is None else f" (default: {self.default})"
        return f"{self.setting.description}{unit_of(self.name)}{shown}"


def fields() -> tuple[_Field, ...]:
    """Every setting, in the order of `Config`."""
    hints = typing.get_type_hints(Config, include_extras=True)
    found = []
    for field in dataclasses.fields(Config):
        kind, setting = typing.get_args(hints[field.name])
        found.append(_Field(field.name, kind, setting, field.default))
    return tuple(found)


def load(arguments: Sequence[str], environment: Mapping[str, str]) -> Config:
    """The settings from a command line and an environment.

    Raises ConfigError for a value that cannot be used; exits, as argparse does, on `--help` and on an unknown
    flag.
    """
    flags = vars(_parser().parse_args(arguments))
    given: dict[str, Any] = {}
    for field in fields():
        text, source = flags[field.name], flag_of(field.name)
        if text is None:
            source = variable_of(field.name)
            text = environment.get(source)
        if text is not None:
            given[field.name] = _value(field, text, source)
    config = Config(**given)
    if config.groups.bit_count() != 1:
        raise ConfigError(f"{flag_of('groups')} must be a power of two, not {config.groups}")
    return config


def flag_of(name: str) -> str:
    """`data_dir` → `--data-dir`."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """`data_dir` → `MILEPOST_DATA_DIR`."""
    return VARIABLE_PREFIX + name.upper()


def unit_of(name: str) -> str:
    """The unit that a name ends with, for `--help`."""
    stem = name.removesuffix("_max")
    for suffix, unit in (("_ms", ", in milliseconds"), ("_s", ", in seconds")):
        if stem.endswith(suffix):
            return unit
    return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Milepost: a gRPC service that runs customer journeys.",
        epilog=f"Each flag has a variable too, {variable_of('data_dir')} for --data-dir; the flag wins.",
        allow_abbrev=False,
    )
    for field in fields():
        parser.add_argument(flag_of(field.name), help=field.help, metavar=field.metavar)
    return parser


def _value(field: _Field, text: str, source: str) -> Any:
    if field.choices:
        if text not in field.choices:
            raise ConfigError(f"{source} must be one of {', '.join(field.choices)}, not {text!r}")
        return text
    if field.kind in (int, float):
        return _number(field, text, source)
    if not text:
        raise ConfigError(f"{source} must not be empty")
    return text if field.kind is str else Path(text)


def _number(field: _Field, text: str, source: str) -> int | float:
    try:
        value: int | float = field.kind(text)
    except ValueError:
        raise ConfigError(f"{source} must be a number, not {text!r}") from None
    least, most = field.setting.least, field.setting.most
    # Written so that NaN, which is in no order with anything, is refused as well.
    if not least <= value <= most:
        bounds = f"at least {least:g}" if most == math.inf else f"between {least:g} and {most:g}"
        raise ConfigError(f"{source} must be {bounds}, not {text}")
    return value
