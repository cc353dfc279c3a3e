"""Groups of options, as commands take them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import pytest
import typer

from milepost.cli.option_groups import grouped
from tests.cli_runner import CliRunner


@dataclass(frozen=True)
class Size:
    width: Annotated[int, typer.Option("--wide", help="In metres.", min=1)]
    names: Annotated[list[str], typer.Option()] = field(default_factory=list)


@dataclass(frozen=True)
class Colour:
    is_red: Annotated[bool, typer.Option("--red")] = False


app = typer.Typer()


@app.command()
@grouped
def paint(house: str, size: Size, floor: int = 0, *, colour: Colour) -> None:
    """Paint a house."""
    print(house, size, floor, colour)


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["h", "--wide", "2"], "h Size(width=2, names=[]) 0 Colour(is_red=False)"),
        (
            ["h", "--red", "--wide", "2", "--names", "a", "--names", "b", "--floor", "3"],
            "h Size(width=2, names=['a', 'b']) 3 Colour(is_red=True)",
        ),
    ],
)
def test_a_command_gets_its_groups(arguments: list[str], given: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.output) == (0, f"{given}\n")


@pytest.mark.parametrize("arguments", [["h"], ["h", "--wide", "0"], ["h", "--wide", "2", "--size", "3"]])
def test_an_option_of_a_group_is_checked_as_any_other(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_help_shows_the_options_in_the_place_of_their_group() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    places = [shown.index(each) for each in ("Paint a house.", "--wide", "--names", "--floor", "--red")]
    assert places == sorted(places)
    assert "In metres." in shown
