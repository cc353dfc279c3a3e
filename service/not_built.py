"""Methods and outputs that this build does not implement.

Calling one of them returns UNIMPLEMENTED with `ErrorInfo` NOT_BUILT. A test compares the README's list with
this one.
"""

from __future__ import annotations

from engine.resources.targets import TARGETS
from milepost.v1.connection_pb2 import Output
from service.delivery.sinks import SINKS

METHODS_NOT_BUILT: frozenset[str] = frozenset()

OUTPUT_KINDS = tuple(field.name for field in Output.DESCRIPTOR.oneofs_by_name["kind"].fields)
"""Every kind of output of the contract: fields of `Output`."""
OUTPUT_KINDS_NOT_BUILT = frozenset(
    kind for kind, target in TARGETS.items() if target.sends and target not in SINKS
)
"""Those that need a sink and have none. CreateOutput fails in the same way for them."""
