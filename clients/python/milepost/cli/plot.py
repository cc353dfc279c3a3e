"""`milepost journey plot`: a journey as a picture in a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from milepost.cli.connection import (
    DEFAULT_ACCOUNT,
    DEFAULT_TARGET,
    AccountId,
    ApiKey,
    Target,
    open_client,
)
from milepost.cli.mermaid import draw_mermaid
from milepost.cli.svg import draw_svg
from milepost.cli.tree import read_picture

_DRAWN_BY = {".svg": draw_svg, ".mmd": draw_mermaid}


def plot(
    journey: Annotated[str, typer.Argument(help="The journey's id or name.")],
    out: Annotated[Path, typer.Option(help="FILE.svg for SVG, FILE.mmd for Mermaid.")],
    target: Target = DEFAULT_TARGET,
    account: AccountId = DEFAULT_ACCOUNT,
    api_key: ApiKey = "",
) -> None:
    """Write a journey's tree with the size of each milestone as a picture."""
    draw = _DRAWN_BY.get(out.suffix.lower())
    if draw is None:
        print(f"milepost: {out}: must end in {' or '.join(_DRAWN_BY)}", file=sys.stderr)
        raise typer.Exit(1)
    with open_client(target, account, api_key) as client:
        text = draw(read_picture(client, journey))
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"milepost: {out}: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
