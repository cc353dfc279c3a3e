"""`milepost audience history`: plain numbers in a pipe, a drawing in a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from textwrap import dedent
from typing import Any

import pytest
from rich.console import Console

from milepost.cli.app import app
from milepost.cli.history import draw_rich, sparkline
from milepost.v1.account_pb2 import Account
from milepost.v1.account_service_pb2 import GetAccountResponse
from milepost.v1.audience_pb2 import Audience
from milepost.v1.audience_service_pb2 import (
    SIZE_INTERVAL_DAY,
    SIZE_INTERVAL_HOUR,
    AudienceSizePoint,
    GetAudienceResponse,
    ListAudienceSizesResponse,
)
from milepost.values import to_timestamp
from tests.cli_runner import CliRunner
from tests.clients.fake import Fake, serving
from tests.clients.test_cli import ANSWERS

AUDIENCE = "accounts/demo/audiences/a1"
# Midnight in New York, in winter.
FIRST_DAY = datetime(2026, 2, 1, 5, tzinfo=UTC)
POINTS = [
    AudienceSizePoint(
        start_time=to_timestamp(FIRST_DAY + timedelta(days=day)), users=users, added=added, dropped=dropped
    )
    for day, (users, added, dropped) in enumerate([(1_000, 0, 0), (1_500, 600, 100), (750, 0, 750)])
]


def list_sizes(request: Any) -> ListAudienceSizesResponse:
    """The points, latest first, two a page."""
    first = int(request.page_token or 0)
    following = "2" if first == 0 else ""
    return ListAudienceSizesResponse(
        audience_sizes=POINTS[::-1][first : first + 2], next_page_token=following
    )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    account = Account(time_zone="America/New_York")
    service = Fake(
        {
            **ANSWERS,
            "GetAudience": lambda _: GetAudienceResponse(
                audience=Audience(name=AUDIENCE, display_name="Bought")
            ),
            "GetAccount": lambda _: GetAccountResponse(account=account),
            "ListAudienceSizes": list_sizes,
        }
    )
    with serving(service) as target:
        monkeypatch.setenv("MILEPOST_TARGET", target)
        yield service


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["audience", "history", *arguments])
    assert result.exit_code == 0
    return result.output


def test_plain_numbers_oldest_first_in_the_account_s_time(fake: Fake) -> None:
    assert run("j/m1") == dedent(
        """\
        start                      users  added  dropped
        2026-02-01T00:00:00-05:00   1000      0        0
        2026-02-02T00:00:00-05:00   1500    600      100
        2026-02-03T00:00:00-05:00    750      0      750
        """
    )
    assert [(each.parent, each.interval) for each in fake.of("ListAudienceSizes")] == [
        (AUDIENCE, SIZE_INTERVAL_DAY)
    ] * 2


def test_the_latest_points_by_hour(fake: Fake) -> None:
    lines = run("j/m1", "--points", "2", "--interval", "hour").splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["1500", "750"]
    assert [each.interval for each in fake.of("ListAudienceSizes")] == [SIZE_INTERVAL_HOUR]


def test_empty_history_prints_no_lines_in_a_pipe_and_says_why(fake: Fake) -> None:
    fake.answers["ListAudienceSizes"] = lambda _: ListAudienceSizesResponse()
    result = CliRunner().invoke(app, ["audience", "history", "j/m1"])
    assert result.stdout.split() == ["start", "users", "added", "dropped"]
    assert result.stderr == "Bought: no history; none is recorded unless it, or one below, is activated\n"


def test_terminal_shows_a_sparkline_and_one_bar_per_point() -> None:
    out = Console(
        file=io.StringIO(),
        force_terminal=True,
        width=100,
        no_color=True,
        color_system=None,
        legacy_windows=False,
    )
    with out.capture() as captured:
        out.print(draw_rich("Bought, by day", POINTS, ["2026-02-01", "2026-02-02", "2026-02-03"]))
    assert [line.rstrip() for line in captured.get().splitlines()] == [
        "Bought, by day",
        "750 ▃█▁ 1,500",
        "",
        "start       users  added  dropped",
        "2026-02-01  1,000                  █████████████████████▍",
        "2026-02-02  1,500   +600     -100  ████████████████████████████████",
        "2026-02-03    750            -750  ████████████████",
    ]


@pytest.mark.parametrize(
    ("sizes", "drawn"),
    [([5], "▅"), ([3, 3], "▅▅"), ([0, 7], "▁█"), ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"), ([9, 0, 9], "█▁█")],
)
def test_a_sparkline_reaches_from_the_least_to_the_greatest(sizes: list[int], drawn: str) -> None:
    assert sparkline(sizes) == drawn
