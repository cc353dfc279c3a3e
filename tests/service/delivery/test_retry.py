"""Waits between attempts grow up to a maximum and respect the receiver's request."""

from __future__ import annotations

import pytest

from service.delivery.retry import RetryPolicy

POLICY = RetryPolicy(first_wait_s=0.5, wait_s_max=8.0)


@pytest.mark.parametrize(
    ("failures", "full_s"), [(1, 0.5), (2, 1.0), (3, 2.0), (5, 8.0), (6, 8.0), (10_000, 8.0)]
)
def test_wait_doubles_up_to_its_maximum_with_jitter(failures: int, full_s: float) -> None:
    waits = [POLICY.wait_s(failures) for _ in range(200)]
    assert all(full_s / 2 <= wait <= full_s for wait in waits)
    assert len(set(waits)) > 1


def test_requested_wait_is_respected() -> None:
    assert POLICY.wait_s(1, retry_after_s=30.0) == 30.0
    assert POLICY.wait_s(1, retry_after_s=0.0) <= 0.5
