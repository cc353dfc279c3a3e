"""`milepost catalog`, against a fake server."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime
from textwrap import dedent
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from typer.testing import Result

from milepost.cli.app import app
from milepost.cli.text import show_table
from milepost.v1 import catalog_service_pb2 as pb
from milepost.v1.data_pb2 import EVENT_TYPE_CUSTOM, EVENT_TYPE_SCREEN_VIEW
from milepost.values import Plain, to_value
from tests.cli_runner import CliRunner
from tests.clients.fake import Fake, serving

SHOP = "accounts/demo/workspaces/shop"
MARCH = Timestamp(seconds=1_772_366_400)

EVENTS = [
    pb.EventName(
        name="buy",
        event_type=EVENT_TYPE_CUSTOM,
        input=f"{SHOP}/inputs/web",
        events=1_464_471,
        users=2_469,
        first_time=MARCH,
        last_time=Timestamp(seconds=MARCH.seconds + 3_600),
    ),
    pb.EventName(
        name="two\nlines",
        event_type=EVENT_TYPE_SCREEN_VIEW,
        input=f"{SHOP}/inputs/app",
        events=1,
        users=1,
        first_time=MARCH,
        last_time=MARCH,
    ),
]


def values(request: Any) -> pb.ListAttributeValuesResponse:
    held: list[tuple[Plain, int]] = [
        ("gold", 1_200),
        ("12", 30),
        (12, 29),
        (0.5, 3),
        (True, 2),
        (datetime(2026, 3, 1, 12, tzinfo=UTC), 1),
        ("\x1b[2J[bold]ü", 1),
    ]
    start = int(request.page_token or 0)
    page = held[start : start + request.page_size]
    following = start + len(page)
    counted = "events" if request.event_name else "users"
    return pb.ListAttributeValuesResponse(
        values=[pb.ValueCount(value=to_value(value), **{counted: number}) for value, number in page],
        next_page_token=str(following) if following < len(held) else "",
    )


def attributes(request: Any) -> pb.ListAttributesResponse:
    mixed = [pb.VALUE_KIND_STRING, pb.VALUE_KIND_NUMBER]
    if request.event_name:
        return pb.ListAttributesResponse(
            attributes=[
                pb.Attribute(
                    key="price",
                    event_name=request.event_name,
                    kinds=mixed,
                    first_time=MARCH,
                    last_time=Timestamp(seconds=MARCH.seconds + 86_400),
                )
            ]
        )
    plan = pb.Attribute(
        key="plan",
        workspace=SHOP,
        kinds=[pb.VALUE_KIND_LIST],
        users=1_000,
        first_time=MARCH,
        last_time=Timestamp(seconds=MARCH.seconds + 60),
    )
    age = pb.Attribute(key="age", workspace=SHOP, kinds=mixed, users=7, first_time=MARCH, last_time=MARCH)
    return pb.ListAttributesResponse(attributes=[age, plan])


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    service = Fake(
        {
            "ListEventNames": lambda _: pb.ListEventNamesResponse(event_names=EVENTS),
            "ListAttributes": attributes,
            "ListAttributeValues": values,
        }
    )
    with serving(service) as target:
        monkeypatch.setenv("MILEPOST_TARGET", target)
        yield service


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["catalog", *arguments])


def test_events(fake: Fake) -> None:
    assert run("events", "--prefix", "b", "--input", "shop/web").output == dedent(
        """\
        event       type         input        events  users  first             last
        buy         custom       shop/web  1,464,471  2,469  2026-03-01 12:00  2026-03-01 13:00
        two\\nlines  screen_view  shop/app          1      1  2026-03-01 12:00  2026-03-01 12:00
        """
    )
    [request] = fake.of("ListEventNames")
    assert (request.parent, request.prefix) == ("accounts/demo", "b")
    assert request.input == f"{SHOP}/inputs/web"


def test_attributes_of_users(fake: Fake) -> None:
    assert run("attributes", "--workspace", "shop").output == dedent(
        """\
        attribute  workspace  kinds           users  first             last
        age        shop       string, number      7  2026-03-01 12:00  2026-03-01 12:00
        plan       shop       list            1,000  2026-03-01 12:00  2026-03-01 12:01
        """
    )
    [request] = fake.of("ListAttributes")
    assert (request.workspace, request.event_name, request.input) == (SHOP, "", "")


def test_attributes_of_an_event(fake: Fake) -> None:
    assert run("attributes", "--event", "buy", "--input", "shop/web").output == dedent(
        """\
        attribute  kinds           first             last
        price      string, number  2026-03-01 12:00  2026-03-02 12:00
        """
    )
    [request] = fake.of("ListAttributes")
    assert (request.event_name, request.input) == ("buy", f"{SHOP}/inputs/web")


def test_values_distinguish_text_from_numbers(fake: Fake) -> None:
    assert run("values", "shop", "plan").output == dedent(
        """\
        users  value
        1,200  "gold"
           30  "12"
           29  12
            3  0.5
            2  true
            1  2026-03-01T12:00:00Z
            1  "\\u001b[2J[bold]ü"
        """
    )
    [request] = fake.of("ListAttributeValues")
    assert (request.parent, request.key, request.page_size) == (SHOP, "plan", 20)


def test_only_shown_values_are_counted(fake: Fake) -> None:
    assert run("values", "shop", "plan", "--limit", "2", "--prefix", "g").output == (
        'users  value\n1,200  "gold"\n   30  "12"\n'
    )
    [request] = fake.of("ListAttributeValues")
    assert (request.page_size, request.prefix) == (2, "g")


def test_values_of_an_event(fake: Fake) -> None:
    arguments = ("values", "--event", "buy", "price", "--input", "shop/web", "--limit", "2", "--prefix", "g")
    assert run(*arguments).output == 'events  value\n 1,200  "gold"\n    30  "12"\n'
    [request] = fake.of("ListAttributeValues")
    assert (request.parent, request.event_name, request.key) == ("accounts/demo", "buy", "price")
    assert (request.input, request.prefix, request.page_size) == (f"{SHOP}/inputs/web", "g", 2)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("plan",), "expected WORKSPACE ATTRIBUTE, or --event NAME ATTRIBUTE"),
        (("shop", "plan", "more"), "expected WORKSPACE ATTRIBUTE, or --event NAME ATTRIBUTE"),
        (("--event", "buy", "shop", "price"), "expected ATTRIBUTE alone, with --event"),
    ],
)
def test_too_many_or_too_few_names_are_refused(fake: Fake, arguments: tuple[str, ...], wanted: str) -> None:
    result = run("values", *arguments)
    assert result.exit_code == 2
    assert wanted in " ".join(result.output.replace("│", " ").split())
    assert fake.requests == []


def test_input_without_workspace_is_refused_before_the_call(fake: Fake) -> None:
    result = run("events", "--input", "web")
    assert result.exit_code == 2
    assert "'web' is not of the form WORKSPACE/INPUT" in result.output
    assert fake.requests == []


def test_markup_in_data_is_shown_verbatim() -> None:
    out = Console(file=io.StringIO(), force_terminal=True, width=60)
    show_table(out, ["value"], [["[red]gold[/red]"]])
    assert isinstance(out.file, io.StringIO)
    assert "[red]gold[/red]" in out.file.getvalue()
