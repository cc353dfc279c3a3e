"""The asyncio client: `milepost.Client` with methods to await, and iterators for `async for`.

import asyncio

from milepost.aio import AsyncClient


async def main() -> None:
    async with AsyncClient("localhost:7443", account="acme") as client:
        print(await client.check("ann", "winback/bought"))
        async for milestone in client.list_milestones("winback"):
            print(milestone.display_name)


asyncio.run(main())

The modules of this package are the source of `milepost.client`, which `make client` generates from them.
"""

from __future__ import annotations

from milepost.aio.accounts import AsyncAccountMethods
from milepost.aio.admin import AsyncAdminMethods
from milepost.aio.audiences import AsyncAudienceMethods
from milepost.aio.base import DEFAULT_TARGET
from milepost.aio.catalog import AsyncCatalogMethods
from milepost.aio.connections import AsyncConnectionMethods
from milepost.aio.ingest import AsyncIngestMethods
from milepost.aio.journeys import AsyncJourneyMethods

__all__ = ["DEFAULT_TARGET", "AsyncClient"]


class AsyncClient(
    AsyncAccountMethods,
    AsyncIngestMethods,
    AsyncCatalogMethods,
    AsyncJourneyMethods,
    AsyncAudienceMethods,
    AsyncConnectionMethods,
    AsyncAdminMethods,
):
    """A connection to a Milepost service, with a default account. As `milepost.Client`: same methods, same
    arguments, same exceptions; only the stubs are those of `grpc.aio`.

    Belongs to the event loop that runs when it is made. Close it, or use it in an `async with`. Cancelling a
    task cancels its call, also on the service.
    """
