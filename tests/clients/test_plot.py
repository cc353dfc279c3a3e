"""Journeys as pictures in files: the layout, and the exact Mermaid text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple
from xml.etree import ElementTree as ET

import pytest

from milepost.cli.app import app
from milepost.cli.mermaid import draw_mermaid
from milepost.cli.svg import CARD_HEIGHT, CARD_WIDTH, draw_svg
from milepost.cli.tree import Node
from tests.cli_runner import CliRunner
from tests.clients.fake import Fake, serving
from tests.clients.test_cli import ANSWERS
from tests.clients.test_tree import CALCULATING, ESTIMATED, FAILED, SAMPLE, TOO_SMALL, exact, picture

NAMESPACE = "{http://www.w3.org/2000/svg}"
EVERY_FIGURE = Node(
    "Start",
    exact(10_000),
    children=[
        Node("Estimated", ESTIMATED),
        Node("Small", TOO_SMALL),
        Node("Broken", FAILED),
        Node("Coming", CALCULATING, is_activated=True),
        Node("Nobody", exact(0)),
        Node("One", exact(1)),
        Node('Fish & <Chips> "with" quite a lot of salt, vinegar and a name that goes on and on', exact(5)),
        Node("Rest", exact(8_494), is_remaining=True, children=[Node("Below", exact(4_247))]),
    ],
)


class Card(NamedTuple):
    """A drawn milestone: its rectangle, texts, the lengths of its bar and of the bar's track."""

    x: float
    y: float
    texts: list[str]
    bar: float
    track: float
    is_dashed: bool
    border: str


def drawn(svg: str) -> Iterator[Card]:
    for group in ET.fromstring(svg).iter(f"{NAMESPACE}g"):
        outline, *others = group.findall(f"{NAMESPACE}rect")
        assert (float(outline.attrib["width"]), float(outline.attrib["height"])) == (CARD_WIDTH, CARD_HEIGHT)
        bars = [float(each.attrib["width"]) for each in others if each.attrib["height"] == "7"]
        yield Card(
            x=float(outline.attrib["x"]),
            y=float(outline.attrib["y"]),
            texts=[each.text or "" for each in group.findall(f"{NAMESPACE}text")],
            track=bars[0] if bars else 0.0,
            bar=bars[1] if len(bars) > 1 else 0.0,
            is_dashed="stroke-dasharray" in outline.attrib,
            border=outline.attrib["stroke"],
        )


def test_each_milestone_is_a_card_with_its_size_and_share() -> None:
    cards = list(drawn(draw_svg(picture(SAMPLE))))
    assert [card.texts for card in cards] == [
        ["Start", "2,469"],
        ["Received a Type A campaign", "1,490", "60.3% of parent"],
        ["Redeemed a coupon", "active", "406", "27.2% of parent", "+12 -3 in 24 h"],
        ["Spent at least 5,000", "104", "25.6% of parent"],
        ["Remaining users", "1,084", "72.8% of parent"],
        ["Remaining users", "979", "39.7% of parent"],
    ]
    assert [card.is_dashed for card in cards] == [False, False, False, False, True, True]
    activated = {card.border for card in cards if "active" in card.texts}
    assert len(activated) == 1
    assert activated.isdisjoint(card.border for card in cards if "active" not in card.texts)


def test_bars_are_in_proportion_to_the_start() -> None:
    cards = list(drawn(draw_svg(picture(SAMPLE))))
    sizes = [2_469, 1_490, 406, 104, 1_084, 979]
    assert [card.bar for card in cards] == pytest.approx(
        [size / 2_469 * cards[0].track for size in sizes], abs=0.05
    )


def test_siblings_are_aligned_and_the_first_is_level_with_its_parent() -> None:
    start, received, redeemed, spent, not_redeemed, others = drawn(draw_svg(picture(SAMPLE)))
    assert start.y == received.y == redeemed.y == spent.y
    assert start.x < received.x == others.x < redeemed.x == not_redeemed.x < spent.x
    assert redeemed.y < not_redeemed.y < others.y


@pytest.mark.parametrize("start", [SAMPLE, EVERY_FIGURE], ids=["sample", "every figure"])
def test_cards_do_not_overlap_or_leave_the_picture(start: Node) -> None:
    svg = draw_svg(picture(start))
    root = ET.fromstring(svg)
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    cards = list(drawn(svg))
    assert all(card.x + CARD_WIDTH < width and card.y + CARD_HEIGHT < height for card in cards)
    assert not [
        (one, other)
        for one, other in combinations(cards, 2)
        if abs(one.x - other.x) < CARD_WIDTH and abs(one.y - other.y) < CARD_HEIGHT
    ]


def test_every_kind_of_figure_looks_different() -> None:
    svg = draw_svg(picture(EVERY_FIGURE))
    cards = {card.texts[0]: card for card in drawn(svg)}
    assert cards["Estimated"].texts == ["Estimated", "~1,490", "14.9% of parent", "between 1,402 and 1,578"]
    assert cards["Small"].texts == ["Small", "~", "at most 40"]
    assert cards["Broken"].texts == ["Broken", "no such audience"]
    assert cards["Coming"].texts == ["Coming", "active", "calculating 40%"]
    assert [cards[name].track for name in ("Small", "Broken", "Coming")] == [0.0, 0.0, 0.0]
    assert cards["Nobody"].bar == 0.0
    assert cards["One"].bar == 2.0
    assert cards["Rest"].is_dashed
    long = next(card for name, card in cards.items() if name.startswith("Fish"))
    assert long.texts[1].endswith("…")
    assert 'Fish &amp; &lt;Chips&gt; "with"' in svg
    assert svg.count("1 of 100 activated audiences") == 1


def test_name_with_invalid_xml_characters_is_drawn() -> None:
    [_, card] = drawn(draw_svg(picture(Node("Start", exact(1), children=[Node("a\x01b\ud800c", exact(1))]))))
    assert card.texts[0] == "a\ufffdb\ufffdc"


def test_mermaid() -> None:
    start = Node(
        "Start",
        exact(10_000),
        children=[
            Node('Fish & <Chips> #1 "`x`"', ESTIMATED, children=[Node("Broken", FAILED)]),
            Node(
                "Rest", exact(8_494), is_remaining=True, children=[Node("Sent", exact(5), is_activated=True)]
            ),
        ],
    )
    text = draw_mermaid(picture(start))
    assert text.startswith(
        "flowchart LR\n    accTitle: Coupons\n    accDescr: 1 of 100 activated audiences;"
        " bounds hold the true size in 95 % of cases\n"
    )
    assert [line for line in text.splitlines() if '["' in line] == [
        '    n0["<b>Start</b><br/>10,000"]:::criteria',
        '    n0 --> n1["<b>Fish #38; #60;Chips#62; #35;1 #34;#96;x#96;#34;</b>'
        '<br/>~1,490 · 14.9% of parent<br/>between 1,402 and 1,578"]:::criteria',
        '    n1 --> n2["<b>Broken</b><br/>⚠<br/>no such audience"]:::criteria',
        '    n0 -.-> n3["<b>Rest</b><br/>8,494 · 84.9% of parent"]:::remaining',
        '    n3 --> n4["<b>Sent</b><br/>5 · 0.1% of parent<br/>active"]:::activated',
    ]


def test_file_extension_selects_the_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CliRunner()
    with serving(Fake(ANSWERS)) as target:
        monkeypatch.setenv("MILEPOST_TARGET", target)
        for name in ("j.svg", "j.mmd"):
            result = runner.invoke(app, ["journey", "plot", "j", "--out", str(tmp_path / name)])
            assert (result.exit_code, result.output) == (0, "")
        refused = runner.invoke(app, ["journey", "plot", "j", "--out", str(tmp_path / "j.png")])
    assert refused.exit_code == 1
    assert refused.stderr == f"milepost: {tmp_path / 'j.png'}: must end in .svg or .mmd\n"
    shown = [card.texts for card in drawn((tmp_path / "j.svg").read_text(encoding="utf-8"))]
    assert shown == [
        ["Start", "100"],
        ["Bought", "60", "60.0% of parent"],
        ["Others", "40", "40.0% of parent"],
    ]
    expected = dedent(
        """\
            n0["<b>Start</b><br/>100"]:::criteria
            n0 --> n1["<b>Bought</b><br/>60 · 60.0% of parent"]:::criteria
            n0 -.-> n2["<b>Others</b><br/>40 · 40.0% of parent"]:::remaining
        """
    )
    lines = (tmp_path / "j.mmd").read_text(encoding="utf-8").splitlines()
    assert [line.strip() for line in lines[-3:]] == expected.splitlines()
