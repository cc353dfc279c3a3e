"""A real service for tests: on a free port, without data, with a time that can be moved.

    from milepost import testing

    with testing.service(now="2026-11-01", seed="shop.yaml") as service:
        service.client.ensure_journey("winback")
        service.clock.advance("30d")  # windows slide, and changes reach watchers and outputs

pytest users have it as the fixtures `milepost_service` and `milepost_client`; docs/testing.md has both. It
runs the service in this process, so `milepost-server` has to be installed too.
"""

from __future__ import annotations

from milepost.testing.clock import Clock
from milepost.testing.rule_runs import run_rules
from milepost.testing.running import Service, ServiceNotInstalled, service

__all__ = ["Clock", "Service", "ServiceNotInstalled", "run_rules", "service"]
