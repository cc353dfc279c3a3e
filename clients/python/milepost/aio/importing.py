"""Sends the requests of an import."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from milepost._concurrency import AsyncCall
from milepost._importing import Header, Imported, ImportRequests, Response, RowsSent, imported
from milepost.aio.retrying import with_retry


async def send_import(
    call: AsyncCall[Response],
    header: Header,
    batches: Iterable[Any],
    timeout: float,
    rows_sent: RowsSent | None,
) -> Imported:
    """Sends the record batches in one call; again while the service is out of reach, if that is safe: when
    there is a request id, and the batches are a sequence. Raises what the batches raise, and what calls do.
    """

    async def send() -> Imported:
        requests = ImportRequests(header, batches, rows_sent)
        try:
            return imported(await call(iter(requests), timeout=timeout))
        except Exception:
            # The transport tells only that the requests ended with an error, not with which.
            if requests.failure is not None:
                raise requests.failure from None
            raise

    if header.request_id and isinstance(batches, Sequence):
        return await with_retry(send, timeouts=True)
    return await send()
