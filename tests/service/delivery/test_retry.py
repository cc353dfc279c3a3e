"""Waits between attempts are spread, grow up to a maximum and respect the receiver's request."""

from __future__ import annotations

import random

import pytest

from service.delivery.retry import RETRY_AFTER_S_MAX, RetryPolicy

POLICY = RetryPolicy(first_wait_s=0.5, wait_s_max=8.0)


@pytest.mark.parametrize(
    ("failures", "full_s"), [(1, 0.5), (2, 1.0), (3, 2.0), (5, 8.0), (6, 8.0), (10_000, 8.0)]
)
def test_wait_doubles_up_to_its_maximum_with_full_jitter(
    failures: int, full_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for share in (0.0, 0.25, 0.999):
        monkeypatch.setattr(random, "random", lambda share=share: share)
        assert POLICY.wait_s(failures) == full_s * share


def test_requested_wait_comes_before_the_jitter_and_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "random", lambda: 0.5)
    assert POLICY.wait_s(1, retry_after_s=30.0) == 30.25
    assert POLICY.wait_s(1, retry_after_s=0.0) == 0.25
    assert POLICY.wait_s(1, retry_after_s=-5.0) == 0.25
    assert POLICY.wait_s(1, retry_after_s=1e9) == RETRY_AFTER_S_MAX + 0.25
