"""A journey drawn as a tree: the exact text, plain and in a terminal."""

from __future__ import annotations

import io
from textwrap import dedent

import pytest
from rich.console import Console

from milepost.cli.mermaid import draw_mermaid
from milepost.cli.svg import draw_svg
from milepost.cli.tree import (
    Node,
    Picture,
    bar_of_eighths,
    bounds_text,
    draw_plain,
    draw_rich,
    size_note,
    size_text,
)
from milepost.v1.account_pb2 import Account
from milepost.v1.audience_pb2 import (
    SIZE_KIND_CALCULATING,
    SIZE_KIND_ESTIMATE,
    SIZE_KIND_REAL,
    SIZE_STATE_ESTIMATED,
    SIZE_STATE_EXACT,
    SIZE_STATE_FAILED,
    SIZE_STATE_PENDING,
    SIZE_STATE_TOO_SMALL,
    AudienceSize,
    Size,
)
from milepost.v1.journey_pb2 import Journey


def exact(users: int) -> AudienceSize:
    size = Size(state=SIZE_STATE_EXACT, users=users, lower=users, upper=users)
    return AudienceSize(kind=SIZE_KIND_ESTIMATE, size=size)


REAL = AudienceSize(
    kind=SIZE_KIND_REAL,
    size=Size(state=SIZE_STATE_EXACT, users=406),
    added_last_day=12,
    dropped_last_day=3,
)
ESTIMATED = AudienceSize(
    kind=SIZE_KIND_ESTIMATE,
    size=Size(state=SIZE_STATE_ESTIMATED, users=1_490, lower=1_402, upper=1_578),
)
TOO_SMALL = AudienceSize(
    kind=SIZE_KIND_ESTIMATE, size=Size(state=SIZE_STATE_TOO_SMALL, users=2, lower=0, upper=40)
)
FAILED = AudienceSize(kind=SIZE_KIND_ESTIMATE, size=Size(state=SIZE_STATE_FAILED, failure="no such audience"))
CALCULATING = AudienceSize(
    kind=SIZE_KIND_CALCULATING, size=Size(state=SIZE_STATE_PENDING, users=5), progress=0.4
)

FAILED_ROUND = AudienceSize(
    kind=SIZE_KIND_CALCULATING, size=Size(state=SIZE_STATE_FAILED, failure="the store is broken")
)


def picture(start: Node, *, inputs: tuple[str, ...] = ()) -> Picture:
    journey = Journey(name="accounts/demo/journeys/j", display_name="Coupons", inputs=inputs)
    return Picture(journey, start, Account(active_audience_count=1, active_audience_limit=100))


SAMPLE = Node(
    "Start",
    exact(2_469),
    children=[
        Node(
            "Received a Type A campaign",
            exact(1_490),
            children=[
                Node(
                    "Redeemed a coupon",
                    REAL,
                    is_activated=True,
                    children=[Node("Spent at least 5,000", exact(104))],
                ),
                Node("Remaining users", exact(1_084), is_remaining=True),
            ],
        ),
        Node("Remaining users", exact(979), is_remaining=True),
    ],
)


def test_plain_text() -> None:
    inputs = (
        "accounts/demo/workspaces/grocery/inputs/store",
        "accounts/demo/workspaces/grocery/inputs/panel",
    )
    assert draw_plain(picture(SAMPLE, inputs=inputs)) == dedent(
        """\
        Coupons (accounts/demo/journeys/j)
        inputs: grocery/store, grocery/panel

        milestone                         users  of parent
        Start                             2,469             ########################
        |-- Received a Type A campaign    1,490      60.3%  ###############
        |   |-- Redeemed a coupon           406      27.2%  ####                      active, +12 -3 in 24 h
        |   |   `-- Spent at least 5,000    104      25.6%  ##
        |   `-- Remaining users           1,084      72.8%  ###########
        `-- Remaining users                 979      39.7%  ##########

        1 of 100 activated audiences"""
    )


def test_every_kind_of_figure_looks_different_in_plain_text() -> None:
    start = Node(
        "Start",
        exact(10_000),
        children=[
            Node("Estimated", ESTIMATED, children=[Node("Of an estimate", exact(745))]),
            Node("Small", TOO_SMALL),
            Node("Broken", FAILED),
            Node("Coming", CALCULATING, is_activated=True, children=[Node("Below", exact(1))]),
            Node("Nobody", exact(0)),
        ],
    )
    assert draw_plain(picture(start)) == dedent(
        """\
        Coupons (accounts/demo/journeys/j)
        inputs: all inputs

        milestone                         users  of parent
        Start                            10,000             ########################
        |-- Estimated                    ~1,490      14.9%  ####                      between 1,402 and 1,578
        |   `-- Of an estimate              745      50.0%  ##
        |-- Small                             ~                                       at most 40
        |-- Broken                            !                                       no such audience
        |-- Coming              calculating 40%                                       active
        |   `-- Below                         1             #
        `-- Nobody                            0       0.0%

        1 of 100 activated audiences
        bounds hold the true size in 95 % of cases each, both together less often"""
    )


def test_bounds_text_states_single_and_joint_confidence() -> None:
    def sampled(count: int) -> Picture:
        children = [Node(f"Estimated {n}", ESTIMATED) for n in range(count)]
        return picture(Node("Start", exact(10_000), children=[*children, Node("Coming", CALCULATING)]))

    assert bounds_text(sampled(0)) == ""
    assert bounds_text(sampled(1)) == "bounds hold the true size in 95 % of cases"
    ten = "bounds hold the true size in 95 % of cases each, all 10 together less often"
    assert bounds_text(sampled(10)) == ten
    for drawn in (draw_plain(sampled(10)), draw_svg(sampled(10)), draw_mermaid(sampled(10))):
        assert drawn.count(ten) == 1
    out = Console(file=io.StringIO(), force_terminal=True, width=110, no_color=True, color_system=None)
    with out.capture() as captured:
        out.print(draw_rich(sampled(10)))
    assert ten in captured.get()


def test_a_terminal_gets_box_characters_and_bars_of_eighths() -> None:
    out = Console(file=io.StringIO(), force_terminal=True, width=110, color_system="truecolor")
    with out.capture() as captured:
        out.print(draw_rich(picture(SAMPLE)))
    coloured = captured.get()
    assert "\x1b[1;32m● \x1b[0mRedeemed a coupon" in coloured
    plain = Console(file=io.StringIO(), force_terminal=True, width=110, no_color=True, color_system=None)
    with plain.capture() as captured:
        plain.print(draw_rich(picture(SAMPLE)))
    assert [line.rstrip() for line in captured.get().splitlines()] == [
        "Coupons  accounts/demo/journeys/j",
        "inputs: all inputs",
        "",
        "milestone                        users  of parent",
        "● Start                          2,469             ████████████████████████",
        "├─ ● Received a Type A campaign  1,490      60.3%  ██████████████▌",
        "│  ├─ ● Redeemed a coupon          406      27.2%  ████                      active, +12 -3 in 24 h",
        "│  │  └─ ● Spent at least 5,000    104      25.6%  █▏",
        "│  └─ ○ Remaining users          1,084      72.8%  ██████████▋",
        "└─ ○ Remaining users               979      39.7%  █████████▋",
        "",
        "1 of 100 activated audiences",
    ]


def test_brackets_in_a_reason_are_not_markup() -> None:
    failed = AudienceSize(size=Size(state=SIZE_STATE_FAILED, failure="criteria[red] is corrupt"))
    out = Console(file=io.StringIO(), force_terminal=True, width=110, no_color=True, color_system=None)
    with out.capture() as captured:
        out.print(draw_rich(picture(Node("Start", exact(1), children=[Node("Broken", failed)]))))
    assert "criteria[red] is corrupt" in captured.get()


@pytest.mark.parametrize(
    ("size", "text", "note"),
    [
        (exact(1_490), "1,490", ""),
        (ESTIMATED, "~1,490", "between 1,402 and 1,578"),
        (TOO_SMALL, "~", "at most 40"),
        (FAILED, "⚠", "no such audience"),
        (CALCULATING, "calculating 40%", ""),
        (FAILED_ROUND, "⚠", "the store is broken"),
        (REAL, "406", "+12 -3 in 24 h"),
    ],
)
def test_size_text_and_note(size: AudienceSize, text: str, note: str) -> None:
    assert (size_text(size, plain=False), size_note(size)) == (text, note)


@pytest.mark.parametrize(
    ("share", "bar"), [(0.0, ""), (0.0001, "▏"), (0.5, "██"), (0.53, "██▏"), (1.0, "████")]
)
def test_a_bar_shows_the_least_share_and_fills_at_one(share: float, bar: str) -> None:
    assert bar_of_eighths(share, 4) == bar
