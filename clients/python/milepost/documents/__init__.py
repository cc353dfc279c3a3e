"""Messages as texts that people write: YAML or JSON, in the proto3 JSON mapping.

Documents may write durations as `milepost.durations` reads them. What is sent is proto3 JSON (`2592000s`);
`dumps` of criteria and journeys writes whole days as people do (`30d`).

    from milepost import documents

    lapsed = documents.loads_criteria("not: {event: {name: buy, window: {last: 90d}}}")
    print(documents.dumps_criteria(lapsed))
"""

from __future__ import annotations

from milepost.documents.positions import Positions
from milepost.documents.reading import MessageReader
from milepost.documents.text import DocumentError, dump, load
from milepost.v1.criteria_pb2 import Criteria
from milepost.written_form import written

__all__ = ["DocumentError", "Positions", "dumps_criteria", "loads_criteria"]


def loads_criteria(text: str) -> Criteria:
    """The criteria in a YAML or JSON text. Raises DocumentError with every fault."""
    reader = MessageReader()
    criteria = reader.message(load(text), Criteria, "")
    reader.raise_if_any_fault()
    return criteria


def dumps_criteria(criteria: Criteria) -> str:
    """The YAML text of criteria; `loads_criteria` reads it back."""
    return dump(written(criteria, days=True))
