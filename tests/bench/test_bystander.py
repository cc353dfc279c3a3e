"""The figures of the bystander table: medians over rounds, each beside the idle machine of its own round."""

from __future__ import annotations

import pytest

from tests.bench.bystander import IDLE, Latencies, Line, Quantiles, _line

BESIDE = "a loop of counts"


def of_round(idle: float, beside: float) -> dict[str, Latencies]:
    return {
        IDLE: Latencies(not_activated=[idle] * 2, activated=[idle] * 3),
        BESIDE: Latencies(not_activated=[beside] * 4, activated=[2 * beside] * 5),
    }


def test_a_round_is_compared_with_the_idle_machine_of_its_own() -> None:
    """In the second round everything takes ten times as long: that changes no ratio."""
    rounds = [of_round(1.0, 2.0), of_round(10.0, 20.0), of_round(1.5, 6.0)]
    assert _line(BESIDE, rounds) == Line(
        beside=BESIDE,
        not_activated=Quantiles(p50=6.0, p99=6.0, times_idle=2.0, checks=12),
        activated=Quantiles(p50=12.0, p99=12.0, times_idle=4.0, checks=15),
    )
    assert _line(IDLE, rounds).activated == Quantiles(p50=1.5, p99=1.5, times_idle=1.0, checks=9)


@pytest.mark.parametrize("times", [1.0, 3.0])
def test_one_round_is_its_own_median(times: float) -> None:
    assert _line(BESIDE, [of_round(1.0, times)]).not_activated.times_idle == times
