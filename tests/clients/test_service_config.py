"""The published retry policy names every read of the contract, and nothing else of it."""

from __future__ import annotations

import json
from typing import Any

from milepost._channel import service_config
from tests.clients.fake import methods

READS = ("Get", "List", "Check", "BatchCheck", "Estimate", "Count", "Compare", "Preview", "Export", "Explain")
RESUMED_BY_THE_CLIENT = {"milepost.v1.AudienceService/WatchMembership"}
HEALTH = {"grpc.health.v1.Health/Check"}


def policies() -> list[dict[str, Any]]:
    configured: list[dict[str, Any]] = json.loads(service_config())["methodConfig"]
    return configured


def test_reads_are_retried_and_writes_are_not() -> None:
    named = {f"{name['service']}/{name['method']}" for policy in policies() for name in policy["name"]}
    reads = {
        f"{method.containing_service.full_name}/{method.name}"
        for method in methods()
        if method.name.startswith(READS)
    }
    assert named == reads | HEALTH
    assert not named & RESUMED_BY_THE_CLIENT


def test_only_unavailable_is_retried() -> None:
    assert [policy["retryPolicy"]["retryableStatusCodes"] for policy in policies()] == [["UNAVAILABLE"]]
