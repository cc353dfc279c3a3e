"""`milepost import`: files of events or users into a running service."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from milepost.cli import import_options as options
from milepost.cli import import_users as of_users
from milepost.cli.connection import DEFAULT_ACCOUNT, DEFAULT_TARGET, AccountId, ApiKey, Target, open_client
from milepost.cli.import_run import EXIT_USAGE, ImportRun
from milepost.cli.text import console
from milepost.client import Client
from milepost.importing import Format, Settings, SideFiles, import_file
from milepost.importing.files import is_kept_input, kept_input
from milepost.importing.run import REJECTED_SUFFIX
from milepost.importing.source import SEGMENT_ROWS
from milepost.v1.catalog_service_pb2 import ValueKind
from milepost.v1.data_pb2 import EventType
from milepost.v1.ingest_service_pb2 import (
    TIME_UNIT_MICROSECONDS,
    TIME_UNIT_MILLISECONDS,
    TIME_UNIT_NANOSECONDS,
    TIME_UNIT_SECONDS,
    TimeUnit,
)

TIME_UNITS = {
    "s": TIME_UNIT_SECONDS,
    "ms": TIME_UNIT_MILLISECONDS,
    "us": TIME_UNIT_MICROSECONDS,
    "ns": TIME_UNIT_NANOSECONDS,
}
STANDARD_INPUT = Path("-")
KINDS = ("string", "number", "bool", "time")


def import_(
    context: typer.Context,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Parquet, CSV or NDJSON files; - reads standard input."),
    ],
    input_: Annotated[str, typer.Option("--input", help="Input of rows without one: workspace/input.")] = "",
    format_: Annotated[
        Format, typer.Option("--format", help="File format. auto: by the file name.")
    ] = Format.AUTO,
    user_id_column: Annotated[str, typer.Option(help="Column of user ids.")] = "user_id",
    name_column: Annotated[str, typer.Option(help="Column of event names.")] = "name",
    time_column: Annotated[str, typer.Option(help="Column of times.")] = "time",
    event_id_column: Annotated[str, typer.Option(help="Column of event ids.")] = "event_id",
    type_column: Annotated[str, typer.Option(help="Column of event types.")] = "",
    input_column: Annotated[str, typer.Option(help="Column of inputs, by resource name.")] = "",
    default_name: Annotated[str, typer.Option(help="Event name of rows without one.")] = "",
    default_type: Annotated[str, typer.Option(help="Type of rows without one: custom, commerce, ...")] = "",
    time_unit: Annotated[str, typer.Option(help="Unit of integer times: s, ms, us or ns.")] = "us",
    time_format: options.TimeFormat = "",
    default_time: options.DefaultTime = "",
    delimiter: options.Delimiter = "",
    decimal_comma: options.DecimalComma = False,
    null_value: options.NullValue = None,
    exclude: options.Exclude = None,
    flatten: options.Flatten = None,
    skip_objects: options.SkipObjects = False,
    profile: options.Profile = "",
    users: of_users.Users = False,
    identity: of_users.Identity = None,
    consent: of_users.ConsentOption = None,
    given: of_users.Given = None,
    denied: of_users.Denied = None,
    unset_nulls: of_users.UnsetNulls = False,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:KIND", help=f"Read an attribute as this kind: {', '.join(KINDS)}."),
    ] = None,
    skip_without_user: Annotated[
        bool, typer.Option("--skip-without-user", help="Skip and count rows without a user id.")
    ] = False,
    create: Annotated[
        bool, typer.Option("--create", help="Create the account and the input if they are missing.")
    ] = False,
    request_id: Annotated[str, typer.Option(help="Import the same file again under this id.")] = "",
    side_dir: Annotated[
        Path | None,
        typer.Option(help="Directory for rejected rows and progress. Default: beside each file."),
    ] = None,
    rejected: Annotated[
        Path | None, typer.Option(help="One file for all rejected rows. Default: FILE.rejected.ndjson.")
    ] = None,
    progress_file: Annotated[Path | None, typer.Option(help="Default: FILE.milepost-import.json.")] = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Ignore earlier progress and import again.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Continue even if rows could count twice.")] = False,
    segment_rows: Annotated[
        int, typer.Option(help="Maximum rows per call.", min=1, max=SEGMENT_ROWS)
    ] = SEGMENT_ROWS,
    account: AccountId = DEFAULT_ACCOUNT,
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = "",
) -> None:
    """Import files of events or users. The next run resumes an interrupted one; nothing is applied twice.

    Exit status: 0 all rows imported; 3 some rows rejected (written to a file with reasons); 1 a file failed
    (the others continue) or the run was interrupted; 2 invalid option; 130 stopped by Ctrl-C or SIGTERM.
    """
    if progress_file is not None and len(files) > 1:
        raise _usage("--progress-file is for one file")
    settings = Settings(
        input=input_,
        user_id_column=user_id_column,
        name_column=name_column,
        time_column=time_column,
        event_id_column=event_id_column,
        type_column=type_column,
        input_column=input_column,
        default_name=default_name,
        default_type=_event_type(default_type),
        time_unit=_time_unit(time_unit),
        kinds=_kinds(column or ()),
        skip_without_user=skip_without_user,
    )
    try:
        settings = options.with_reading(
            settings,
            delimiter=delimiter,
            decimal_comma=decimal_comma,
            null_value=null_value,
            time_format=time_format,
            default_time=default_time,
            exclude=exclude,
            flatten=flatten,
            skip_objects=skip_objects,
            profile=profile,
        )
        rows = of_users.settings_of(
            settings,
            users=users,
            identity=identity,
            consent=consent,
            given=given,
            denied=denied,
            unset_nulls=unset_nulls,
        )
    except ValueError as error:
        raise _usage(str(error)) from error
    if side_dir is not None:
        _make_directory(side_dir)
    with _sources(files, format_) as files, open_client(target, account, api_key) as client:
        if create:
            _create(client, input_)
        run = partial(
            import_file,
            request_id=request_id,
            side_files=_side_files(files, side_dir, rejected, progress_file),
            from_start=from_start,
            force=force,
            segment_rows=segment_rows,
        )
        status = ImportRun(context, client, files, format_, rows, run, console()).run()
    if status:
        raise typer.Exit(status)


# --- options ---


def _usage(message: str) -> typer.Exit:
    print(f"milepost: {message}", file=sys.stderr)
    return typer.Exit(EXIT_USAGE)


@contextmanager
def _sources(files: Sequence[Path], format_: Format) -> Iterator[list[Path]]:
    """The files, the standard input as one of its own."""
    if STANDARD_INPUT not in files:
        yield list(files)
        return
    if len(files) > 1 or format_ is Format.AUTO:
        raise _usage("- is the standard input: give it alone, with --format parquet, csv or ndjson")
    with kept_input(sys.stdin.buffer) as kept:
        yield [kept]


def _side_files(
    files: Sequence[Path], directory: Path | None, rejected: Path | None, progress: Path | None
) -> SideFiles:
    """What is rejected of the standard input is kept in the working directory; its progress is not kept."""
    if is_kept_input(files[0]) and directory is None and rejected is None:
        rejected = Path(files[0].name + REJECTED_SUFFIX)
    return SideFiles(directory, rejected, progress)


def _event_type(text: str) -> EventType.ValueType:
    names = {name.removeprefix("EVENT_TYPE_").lower(): value for name, value in EventType.items()}
    if (text or "unspecified").lower() not in names:
        raise _usage(f"--default-type must be one of {', '.join(names)}, not {text!r}")
    return names[(text or "unspecified").lower()]


def _time_unit(text: str) -> TimeUnit.ValueType:
    if text not in TIME_UNITS:
        raise _usage(f"--time-unit must be one of {', '.join(TIME_UNITS)}, not {text!r}")
    return TIME_UNITS[text]


def _kinds(texts: Sequence[str]) -> dict[str, ValueKind.ValueType]:
    kinds = {}
    for text in texts:
        name, _, kind = text.rpartition(":")
        if not name or kind not in KINDS:
            raise _usage(f"--column must be NAME:KIND with a kind of {', '.join(KINDS)}, not {text!r}")
        kinds[name] = ValueKind.Value(f"VALUE_KIND_{kind.upper()}")
    return kinds


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _usage(f"--side-dir {path}: {error.strerror}") from error


def _create(client: Client, input_: str) -> None:
    """Makes the account and the input where they are missing."""
    client.ensure_account()
    if input_:
        workspace, slash, input_id = input_.partition("/")
        if not slash or "/" in input_id:
            raise _usage(f"--create needs --input WORKSPACE/INPUT, not {input_!r}")
        client.ensure_input(workspace, input_id)
