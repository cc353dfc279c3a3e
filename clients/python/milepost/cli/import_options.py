"""Options of `milepost import` that say how files are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from milepost.importing import Settings
from milepost.importing.profiles import PROFILES, profiled

TAB = "\t"
_DELIMITER_NAMES = {"tab": TAB, "\\t": TAB}
_PANEL = "Reading"

Delimiter = Annotated[
    str,
    typer.Option(
        "--delimiter",
        help="Separator in CSV files: one character, or tab. Default: comma; tab for .tsv.",
        rich_help_panel=_PANEL,
    ),
]
DecimalComma = Annotated[
    bool,
    typer.Option("--decimal-comma", help="Numbers use a decimal comma: 9,5.", rich_help_panel=_PANEL),
]
NullValue = Annotated[
    list[str] | None,
    typer.Option(
        "--null-value",
        metavar="TEXT",
        help="CSV text that means no value, like NA. Repeatable.",
        rich_help_panel=_PANEL,
    ),
]
TimeFormat = Annotated[
    str,
    typer.Option(
        "--time-format",
        metavar="FORMAT",
        help="Time format, as in strptime: '%d.%m.%Y %H:%M'. RFC 3339 is always accepted.",
        rich_help_panel=_PANEL,
    ),
]
DefaultTime = Annotated[
    str,
    typer.Option(
        "--default-time",
        metavar="TIME",
        help="Time of rows without one, in RFC 3339. Makes the time column optional.",
        rich_help_panel=_PANEL,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="COLUMN",
        help="Column to ignore, or a pattern like 'utm_*'. Repeatable.",
        rich_help_panel=_PANEL,
    ),
]
Flatten = Annotated[
    list[str] | None,
    typer.Option(
        "--flatten",
        metavar="COLUMN",
        help="Object column whose members become columns, like properties. Repeatable.",
        rich_help_panel=_PANEL,
    ),
]
SkipObjects = Annotated[
    bool,
    typer.Option(
        "--skip-objects",
        help="Drop and count objects that attributes cannot hold, instead of rejecting their rows.",
        rich_help_panel=_PANEL,
    ),
]
Profile = Annotated[
    str,
    typer.Option(
        "--profile",
        help=f"Columns of a known export: {', '.join(PROFILES)}.",
        rich_help_panel=_PANEL,
    ),
]


def with_reading(
    settings: Settings,
    *,
    delimiter: str = "",
    decimal_comma: bool = False,
    null_value: Sequence[str] | None = None,
    time_format: str = "",
    default_time: str = "",
    exclude: Sequence[str] | None = None,
    flatten: Sequence[str] | None = None,
    skip_objects: bool = False,
    profile: str = "",
) -> Settings:
    """The settings with these options. Raises ValueError, whose message is for the user."""
    read = dataclasses.replace(
        settings,
        delimiter=_delimiter(delimiter),
        decimal_comma=decimal_comma,
        null_values=tuple(null_value or ()),
        time_format=_time_format(time_format),
        default_time=_default_time(default_time),
        exclude=tuple(exclude or ()),
        flatten=tuple(flatten or ()),
        skip_objects=skip_objects,
    )
    if profile and profile not in PROFILES:
        raise ValueError(f"--profile must be one of {', '.join(PROFILES)}, not {profile!r}")
    return profiled(read, profile) if profile else read


def _delimiter(text: str) -> str:
    character = _DELIMITER_NAMES.get(text, text)
    if text and (len(character) != 1 or not character.isascii() or character in '"\r\n'):
        raise ValueError(f"--delimiter must be one character, or tab, not {text!r}")
    return character


def _time_format(text: str) -> str:
    if text:
        try:
            from milepost.time_formats import TimeFormat
        except ModuleNotFoundError:
            # Without the library nothing is imported, and the import says so.
            return text
        TimeFormat(text)
    return text


def _default_time(text: str) -> str:
    if not text:
        return ""
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"--default-time must be a time like 2026-11-01T10:00:00Z, not {text!r}") from error
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")
