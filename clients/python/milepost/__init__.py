"""The Python client of Milepost.

`Client` connects to a service, and `AsyncClient` does so for asyncio; `milepost.criteria` builds criteria;
`milepost.errors` has the exceptions of calls; `milepost.v1` contains the generated messages and stubs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from milepost import criteria, errors, names
    from milepost._batches import Rejected, Sent
    from milepost._importing import Imported, RefusedRows
    from milepost._local import LocalAnswer, LocalStatus
    from milepost.aio import AsyncClient
    from milepost.aio.watching import AsyncWatch
    from milepost.client import DEFAULT_TARGET, Client
    from milepost.client.watching import Watch
    from milepost.data import make_event, make_user_update
    from milepost.errors import MilepostError
    from milepost.tls import TLS
    from milepost.values import from_value, to_value

__all__ = [
    "DEFAULT_TARGET",
    "TLS",
    "AsyncClient",
    "AsyncWatch",
    "Client",
    "Imported",
    "LocalAnswer",
    "LocalStatus",
    "MilepostError",
    "RefusedRows",
    "Rejected",
    "Sent",
    "Watch",
    "criteria",
    "errors",
    "from_value",
    "make_event",
    "make_user_update",
    "names",
    "to_value",
]

_MODULES = {
    "AsyncClient": "aio",
    "AsyncWatch": "aio.watching",
    "DEFAULT_TARGET": "client",
    "Client": "client",
    "Imported": "_importing",
    "LocalAnswer": "_local",
    "LocalStatus": "_local",
    "MilepostError": "errors",
    "RefusedRows": "_importing",
    "Rejected": "_batches",
    "Sent": "_batches",
    "TLS": "tls",
    "Watch": "client.watching",
    "from_value": "values",
    "make_event": "data",
    "make_user_update": "data",
    "to_value": "values",
}

if not TYPE_CHECKING:  # else type checkers would accept every name

    def __getattr__(name: str) -> object:
        """Imports a public name when it is first used: the service needs only `milepost.v1`."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"{__name__}.{_MODULES.get(name, name)}")
        found = getattr(module, name) if name in _MODULES else module
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        """The public names, also those that are not imported yet."""
        return sorted({*globals(), *__all__})
