"""A service killed while loading the sample and restarted, and the load repeated.

1. The sample is sent; once 40 % of the events are acknowledged the service is killed with SIGKILL.
2. The service starts again on the same store: every acknowledged event is there, and a part of the rest.
3. The whole sample is sent again under the same ids: stored events are recognised, the rest is accepted.
4. The figures equal those of an undisturbed load.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from milepost import Client
from milepost.cli.service_process import ServiceProcess
from milepost.errors import MilepostError
from milepost.sample import dataset, journey
from milepost.sample.load import load
from milepost.v1.admin_service_pb2 import GetServerInfoRequest
from tests.sample_figures import FIGURES, START, members

KILL_AT_EVENTS = int(0.4 * dataset.EVENTS)


class Killed(Exception):
    """The service was killed, as the test meant to."""


def load_and_kill(client: Client, service: ServiceProcess) -> int:
    """Sends the sample until the service is killed; the number of events acknowledged by then."""
    acknowledged = 0

    def kill_in_time(events: int) -> None:
        nonlocal acknowledged
        acknowledged = events
        if events >= KILL_AT_EVENTS:
            service.kill()
            raise Killed

    with pytest.raises((Killed, MilepostError)):
        load(client, kill_in_time)
    return acknowledged


def test_repeated_load_after_a_kill_gives_the_same_figures(tmp_path: Path) -> None:
    store = tmp_path / "store"
    # 1. Killed in the middle.
    with ServiceProcess(store) as service, Client(service.target, account=dataset.ACCOUNT_ID) as client:
        acknowledged = load_and_kill(client, service)
    assert KILL_AT_EVENTS <= acknowledged < dataset.EVENTS
    # 2. Nothing acknowledged is lost.
    with ServiceProcess(store) as service, Client(service.target, account=dataset.ACCOUNT_ID) as client:
        kept = client.admin.GetServerInfo(GetServerInfoRequest()).events
        assert acknowledged <= kept < dataset.EVENTS
        # 3. Sent again, what was kept is recognised.
        again = load(client)
        assert again.events + again.duplicates == dataset.EVENTS
        assert client.admin.GetServerInfo(GetServerInfoRequest()).events == dataset.EVENTS
        # 4. The same figures, and the same users.
        journey.build(client)
        expected = members()
        for milestone in FIGURES.keys() - {START}:
            name = f"{journey.JOURNEY_ID}/{milestone}"
            assert client.count(name).users == FIGURES[milestone]
            assert set(client.list_members(name)) == expected[milestone]
        assert client.estimate(f"{journey.JOURNEY_ID}/{journey.RECEIVED_ID}").population == FIGURES[START]
