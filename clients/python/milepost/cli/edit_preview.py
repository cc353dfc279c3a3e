"""What an edit would do to activated audiences: the answer of --preview."""

from __future__ import annotations

from typing import Annotated

import typer

from milepost import names
from milepost.cli.answers import show_json
from milepost.cli.text import console, number, printable, show_table
from milepost.v1.journey_service_pb2 import EditedAudience, PreviewEditResponse

Preview = Annotated[
    bool,
    typer.Option(
        "--preview",
        help="Show how many users would enter and leave activated audiences, and change nothing.",
    ),
]

_HEADER = ("activated audience", "before", "entering", "leaving", "after", "")


def show_preview(preview: PreviewEditResponse, *, as_json: bool) -> None:
    """Prints the audiences that an edit concerns."""
    if as_json:
        show_json(preview)
        return
    out = console()
    if preview.audiences:
        show_table(out, _HEADER, list(map(_row, preview.audiences)), (1, 2, 3, 4))
    else:
        print("no activated audience would change", file=out.file)
    print("nothing was changed", file=out.file)


def _row(edited: EditedAudience) -> list[str]:
    return [
        printable(names.short_milestone(edited.milestone)),
        number(edited.users_before),
        number(edited.entering),
        number(edited.leaving),
        number(edited.users_after),
        "deleted" if edited.deleted else "",
    ]
