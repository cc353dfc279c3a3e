"""The options of `milepost import`, each declared once. `import_settings.py` makes settings of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from milepost.importing import Format
from milepost.importing.profiles import PROFILES
from milepost.importing.settings import EVENT_ID, NAME, TIME, USER_ID
from milepost.importing.source import SEGMENT_ROWS
from milepost.kinds import KIND_NAMES
from milepost.v1.catalog_service_pb2 import VALUE_KIND_LIST

KINDS = tuple(name for kind, name in KIND_NAMES.items() if kind != VALUE_KIND_LIST)

_reading = partial(typer.Option, rich_help_panel="Reading")
_of_users = partial(typer.Option, rich_help_panel="Users")

Texts = list[str] | None
"""A repeatable option."""


@dataclass(frozen=True)
class RowOptions:
    """The files' format and the meaning of their columns."""

    input: Annotated[str, typer.Option(help="Input for rows that name none, as workspace/input.")] = ""
    format: Annotated[Format, typer.Option(help="File format. auto: by the file name.")] = Format.AUTO
    user_id_column: Annotated[str, typer.Option(help="Column of user ids.")] = USER_ID
    name_column: Annotated[str, typer.Option(help="Column of event names.")] = NAME
    time_column: Annotated[str, typer.Option(help="Column of times.")] = TIME
    event_id_column: Annotated[str, typer.Option(help="Column of event ids.")] = EVENT_ID
    type_column: Annotated[str, typer.Option(help="Column of event types.")] = ""
    input_column: Annotated[str, typer.Option(help="Column of inputs, by resource name.")] = ""
    default_name: Annotated[str, typer.Option(help="Event name of rows without one.")] = ""
    default_type: Annotated[str, typer.Option(help="Type of rows without one: custom, commerce, ...")] = ""
    time_unit: Annotated[str, typer.Option(help="Unit of times that are numbers: s, ms, us or ns.")] = "us"
    column: Annotated[
        Texts,
        typer.Option(
            metavar="NAME:KIND", help=f"Read an attribute as this kind: {', '.join(KINDS)}. Repeatable."
        ),
    ] = None
    skip_without_user: Annotated[
        bool, typer.Option("--skip-without-user", help="Skip and count rows without a user id.")
    ] = False


@dataclass(frozen=True)
class ReadingOptions:
    """How files are read."""

    time_format: Annotated[
        str,
        _reading(
            metavar="FORMAT",
            help="Time format, as in strptime: '%d.%m.%Y %H:%M'. RFC 3339 is always accepted.",
        ),
    ] = ""
    default_time: Annotated[
        str,
        _reading(
            metavar="TIME", help="Time of rows without one, in RFC 3339. Makes the time column optional."
        ),
    ] = ""
    delimiter: Annotated[
        str, _reading(help="Separator in CSV files: one character, or tab. Default: comma; tab for .tsv.")
    ] = ""
    decimal_comma: Annotated[bool, _reading("--decimal-comma", help="Numbers use a decimal comma: 9,5.")] = (
        False
    )
    null_value: Annotated[
        Texts, _reading(metavar="TEXT", help="CSV text that means no value, like NA. Repeatable.")
    ] = None
    exclude: Annotated[
        Texts,
        _reading(metavar="COLUMN", help="Column to ignore, or a pattern like 'utm_*'. Repeatable."),
    ] = None
    flatten: Annotated[
        Texts,
        _reading(
            metavar="COLUMN",
            help="Object column whose members become columns, like properties. Repeatable.",
        ),
    ] = None
    skip_objects: Annotated[
        bool,
        _reading("--skip-objects", help="Drop and count values that no attribute can hold, like objects."),
    ] = False
    profile: Annotated[str, _reading(help=f"Columns of a known export: {', '.join(PROFILES)}.")] = ""


@dataclass(frozen=True)
class UserOptions:
    """The meaning of columns of users."""

    users: Annotated[
        bool,
        _of_users(
            "--users",
            help="Rows are users: columns are attributes, identities and consents. The time column may be"
            " missing. The default time is --default-time, or now.",
        ),
    ] = False
    identity: Annotated[
        Texts,
        _of_users(metavar="COLUMN:TYPE", help="Identity column and its type: mail:email. Repeatable."),
    ] = None
    consent: Annotated[
        Texts,
        _of_users(
            metavar="COLUMN:REGULATION/PURPOSE",
            help="Consent column with its regulation and purpose: ads_ok:gdpr/ads. Repeatable.",
        ),
    ] = None
    given: Annotated[
        Texts,
        _of_users(
            metavar="TEXT",
            help="Consent value that means given, in any case. Repeatable. Default: given, true.",
        ),
    ] = None
    denied: Annotated[
        Texts,
        _of_users(
            metavar="TEXT",
            help="Consent value that means denied, in any case. Repeatable. Default: denied, false.",
        ),
    ] = None
    unset_nulls: Annotated[
        bool,
        _of_users(
            "--unset-nulls",
            help="Unset the attribute or identity of a row without a value. Default: keep it.",
        ),
    ] = False


@dataclass(frozen=True)
class RunOptions:
    """What a run may do, and where it keeps its files."""

    create: Annotated[
        bool, typer.Option("--create", help="Create the account and the input if they are missing.")
    ] = False
    request_id: Annotated[
        str,
        typer.Option(
            help="Request id of the import. A new id imports a file again that was imported before."
        ),
    ] = ""
    side_dir: Annotated[
        Path | None,
        typer.Option(help="Directory for rejected rows and progress. Default: beside each file."),
    ] = None
    rejected: Annotated[
        Path | None, typer.Option(help="One file for all rejected rows. Default: FILE.rejected.ndjson.")
    ] = None
    progress_file: Annotated[
        Path | None,
        typer.Option(help="Progress of the import of one file. Default: FILE.milepost-import.json."),
    ] = None
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Ignore earlier progress and import again.")
    ] = False
    force: Annotated[bool, typer.Option("--force", help="Continue even if rows could count twice.")] = False
    segment_rows: Annotated[int, typer.Option(help="Maximum rows per call.", min=1, max=SEGMENT_ROWS)] = (
        SEGMENT_ROWS
    )
