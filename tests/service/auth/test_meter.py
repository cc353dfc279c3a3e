"""The token bucket and the count of running calls, with a clock of the test's own."""

from __future__ import annotations

import pytest

from service.auth.errors import RateLimited
from service.auth.meter import Meter


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def allowed(meter: Meter) -> int:
    """How many calls pass before one is refused."""
    for count in range(10_000):
        try:
            meter.count_call()
        except RateLimited:
            return count
    raise AssertionError("no call was refused")


def test_a_burst_of_one_second_passes_and_then_the_rate(clock: Clock) -> None:
    meter = Meter("k", 8, 1, clock)
    assert allowed(meter) == 8
    clock.seconds += 0.75
    assert allowed(meter) == 6
    clock.seconds += 60
    assert allowed(meter) == 8


def test_a_refusal_says_when_a_call_passes_again(clock: Clock) -> None:
    meter = Meter("accounts/a/apiKeys/k", 4, 1, clock)
    allowed(meter)
    with pytest.raises(RateLimited) as refused:
        meter.count_call()
    assert refused.value.metadata == {"resource": "accounts/a/apiKeys/k", "limit": "4"}
    assert refused.value.retry_after_s == pytest.approx(0.25)
    clock.seconds += 0.25
    meter.count_call()


def test_a_clock_that_stands_still_or_goes_back_gives_nothing(clock: Clock) -> None:
    meter = Meter("k", 2, 1, clock)
    assert allowed(meter) == 2
    clock.seconds -= 50
    assert allowed(meter) == 0
    clock.seconds += 1
    assert allowed(meter) == 2


def test_running_calls_are_counted_until_they_end(clock: Clock) -> None:
    meter = Meter("k", 1, 2, clock)
    meter.begin()
    meter.begin()
    with pytest.raises(RateLimited) as refused:
        meter.begin()
    assert refused.value.metadata["limit"] == "2"
    assert refused.value.retry_after_s
    meter.end()
    meter.begin()


def test_new_limits_count_at_once_and_running_calls_stay_counted(clock: Clock) -> None:
    meter = Meter("k", 100, 5, clock)
    for _ in range(3):
        meter.begin()
    meter.limit(2, 3)
    with pytest.raises(RateLimited):
        meter.begin()
    assert allowed(meter) == 2
