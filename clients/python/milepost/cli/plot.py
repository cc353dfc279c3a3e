"""`milepost journey plot`: a journey as a picture in a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from milepost.cli.asking import AsOf
from milepost.cli.calling import AccountOptions
from milepost.cli.documents import refuse_file
from milepost.cli.mermaid import draw_mermaid
from milepost.cli.option_groups import grouped
from milepost.cli.svg import draw_svg
from milepost.cli.tree import fail_if_any_size_failed, read_picture

_DRAWN_BY = {".svg": draw_svg, ".mmd": draw_mermaid}


@grouped
def plot(
    journey: Annotated[str, typer.Argument(help="The journey's id or name.")],
    out: Annotated[Path, typer.Option(help="FILE.svg for SVG, FILE.mmd for Mermaid.")],
    as_of: AsOf = None,
    *,
    account: AccountOptions,
) -> None:
    """Write a journey's tree with the size of each milestone as a picture. With --as-of, sizes are exact."""
    draw = _DRAWN_BY.get(out.suffix.lower())
    if draw is None:
        print(f"milepost: {out}: must end in {' or '.join(_DRAWN_BY)}", file=sys.stderr)
        raise typer.Exit(1)
    with account.open() as client:
        picture = read_picture(client, journey, as_of)
    try:
        out.write_text(draw(picture), encoding="utf-8")
    except OSError as error:
        refuse_file(out, error)
    fail_if_any_size_failed(picture)
