"""The Python client of Milepost.

`Client` talks to a service; `milepost.criteria` builds criteria; `milepost.errors` is what calls raise;
`milepost.v1` holds the generated messages and stubs.
"""

from __future__ import annotations

from milepost import criteria, errors, names
from milepost._batches import Rejected, Sent
from milepost._importing import Imported, RefusedRows
from milepost._watching import Watch
from milepost.client import DEFAULT_TARGET, Client
from milepost.data import make_event, make_user_update
from milepost.errors import MilepostError
from milepost.values import from_value, to_value

__all__ = [
    "DEFAULT_TARGET",
    "Client",
    "Imported",
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
