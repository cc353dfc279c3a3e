"""A synchronous client: the generated stubs with timeouts and typed errors, and helpers for common work.

from datetime import UTC, datetime

from milepost import Client, make_event
from milepost.criteria import event

with Client("localhost:7443", account="acme") as client:
    client.ensure_account()
    web = client.ensure_input("shop", "web")
    bought = make_event("ann", "buy", datetime.now(UTC), {"price": 9.5})
    client.ingest_events([bought], input=web.name)
    client.ensure_journey("winback", display_name="Win back")
    client.ensure_milestone("winback", "bought", criteria=event("buy").happened())
    print(client.estimate("winback/bought").size.users)
"""

from __future__ import annotations

from milepost.client.accounts import AccountMethods
from milepost.client.admin import AdminMethods
from milepost.client.audiences import AudienceMethods
from milepost.client.base import DEFAULT_TARGET
from milepost.client.catalog import CatalogMethods
from milepost.client.connections import ConnectionMethods
from milepost.client.ingest import IngestMethods
from milepost.client.journeys import JourneyMethods

__all__ = ["DEFAULT_TARGET", "Client"]


class Client(
    AccountMethods,
    IngestMethods,
    CatalogMethods,
    JourneyMethods,
    AudienceMethods,
    ConnectionMethods,
    AdminMethods,
):
    """A connection to a Milepost service, with a default account.

    The stubs `accounts`, `ingest`, `catalog`, `journeys`, `audiences`, `connections` and `admin` reach every
    method; calls through them get `timeout` (seconds) and the API key, and raise `milepost.errors`. Reads are
    retried while the service is unavailable; helpers that write use request ids and are retried too.

    Helpers accept ids in the client's account instead of names: "winback" for a journey,
    "winback/bought" for a milestone. Safe to use from several threads. Close it, or use it in a `with`.
    """
