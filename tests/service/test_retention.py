"""An account's retention through a real server: immediate effect and removal from disk."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from milepost import Client
from milepost.criteria import event
from milepost.data import make_event
from milepost.v1.account_pb2 import Account
from milepost.v1.account_service_pb2 import UpdateAccountRequest
from tests.harness import ACCOUNT, INPUT, Serving, eventually, serving

DAY = timedelta(days=1)


def retain(service: Serving, days: int) -> None:
    retention = Duration(seconds=days * 86_400)
    service.accounts.UpdateAccount(
        UpdateAccountRequest(
            account=Account(name=ACCOUNT, event_retention=retention),
            update_mask=FieldMask(paths=["event_retention"]),
        )
    )


def test_new_retention_takes_effect_immediately_and_removes_events(tmp_path: Path) -> None:
    settings = {"access_log": "none", "retention_interval_s": 0.05, "checkpoint_s": 0.05}
    with (
        serving(tmp_path / "store", **settings) as service,
        Client(service.address, account="a") as client,
    ):
        service.create_inputs()
        now = datetime.now(UTC)
        client.ingest_events(
            [
                *(make_event(f"old-{n}", "buy", now - 20 * DAY) for n in range(40)),
                make_event("recent", "buy", now - 5 * DAY),
            ],
            input=INPUT,
        )
        client.ensure_journey("j")
        client.ensure_milestone("j", "bought", criteria=event("buy").count() > 0)

        def counted() -> tuple[int, int]:
            return client.count("j/bought").users, client.estimate("j/bought").size.users

        def stored() -> list[int]:
            return [found.events for found in client.list_event_names()]

        assert (counted(), stored()) == ((41, 41), [41])
        retain(service, 10)
        assert counted() == (1, 1)
        eventually(lambda: stored() == [1])
        # A longer retention brings nothing back.
        retain(service, 30)
        assert (counted(), stored()) == ((1, 1), [1])
