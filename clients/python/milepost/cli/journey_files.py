"""`milepost journey apply`, `diff`, `export`, `versions`: journeys as YAML documents, and their versions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from milepost import journeys, names
from milepost.cli.answers import AsJson, show_json, show_many
from milepost.cli.asking import AsOf
from milepost.cli.calling import AccountOptions
from milepost.cli.difference import counts_text, print_difference, tree_of_difference
from milepost.cli.documents import STANDARD_STREAM, JourneyFile, Source, refuse_file
from milepost.cli.edit_preview import Preview, show_preview
from milepost.cli.option_groups import grouped
from milepost.cli.parameters import JourneyName
from milepost.cli.text import console, number
from milepost.v1.journey_pb2 import JourneyVersion
from milepost.values import to_datetime

CHANGES_STATUS = 2
CURRENT_MARK = "current"


@grouped
def apply(
    file: JourneyFile,
    preview: Preview = False,
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Apply a journey file, all of it or nothing: create, change, move and delete milestones. Idempotent."""
    out = console()
    source = Source.read(file)
    with account.open() as client, source.faults():
        document = journeys.loads(source.text)
        if preview:
            show_preview(client.preview_apply_journey(journeys.message_of(document)), as_json=as_json)
            return
        if as_json:
            show_json(client.apply_journey(journeys.message_of(document)))
            return
        difference = journeys.compare(client, document)
        name = client.journey_name(difference.after.id)
        print_difference(difference, name, out, same_as="the document", where=source.where)
        if not difference.is_empty:
            journeys.apply(client, difference)
            print(f"applied: {counts_text(difference)}", file=out.file)


@grouped
def diff(
    file: Annotated[
        str, typer.Argument(help="Journey as YAML (`-` = standard input); a journey's id with --version.")
    ],
    version: Annotated[
        int | None, typer.Option(help="Compare this version of the journey with the current one.", min=1)
    ] = None,
    to_version: Annotated[
        int | None, typer.Option(help="Compare --version with this one instead.", min=1)
    ] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with status 2 when there is a difference.")
    ] = False,
    as_of: AsOf = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: each milestone before and after, with its users.")
    ] = False,
    *,
    account: AccountOptions,
) -> None:
    """Show what applying a file would change, or what changed since a version, with every size."""
    if version is None and to_version is not None:
        raise typer.BadParameter("needs --version too", param_hint="--to-version")
    out = console()
    if version is not None:
        with account.open() as client:
            difference = journeys.compare_versions(client, file, version, to_version, as_of=as_of)
            name = client.journey_name(file)
        same_as, summary = f"version {version}", "changed"
        where: Callable[[str], str] = str
    else:
        source = Source.read(file)
        with account.open() as client, source.faults():
            difference = journeys.compare(client, journeys.loads(source.text), as_of=as_of)
            name = client.journey_name(difference.after.id)
        same_as, summary, where = "the document", "to apply", source.where
    if as_json:
        print(json.dumps(tree_of_difference(difference, name), indent=2, ensure_ascii=False))
    else:
        print_difference(difference, name, out, same_as=same_as, where=where)
        if not difference.is_empty:
            print(f"{summary}: {counts_text(difference)}", file=out.file)
    if exit_code and not difference.is_empty:
        raise typer.Exit(CHANGES_STATUS)


@grouped
def export(
    journey: JourneyName,
    file: Annotated[
        str, typer.Argument(help="File to write; `-` writes to standard output.")
    ] = STANDARD_STREAM,
    version: Annotated[
        int | None, typer.Option(help="Export this version instead of the current one.", min=1)
    ] = None,
    *,
    account: AccountOptions,
) -> None:
    """Export a journey, or a past version of it, as a file that `apply` reads."""
    with account.open() as client:
        text = journeys.dumps(journeys.read(client, journey, version=version))
    if file == STANDARD_STREAM:
        print(text, end="")
        return
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        refuse_file(file, error)


@grouped
def versions(
    journey: JourneyName,
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """List the versions of a journey that are kept, latest first. `diff --version` compares them."""
    with account.open() as client:
        show_many(
            client.list_journey_versions(journey),
            ["version", "since", "milestones", ""],
            _row,
            as_json=as_json,
            right=(0, 2),
        )


def _row(version: JourneyVersion) -> list[str]:
    return [
        names.last_id(version.name),
        f"{to_datetime(version.create_time):%Y-%m-%d %H:%M:%S}",
        number(version.milestone_count),
        CURRENT_MARK if version.current else "",
    ]
