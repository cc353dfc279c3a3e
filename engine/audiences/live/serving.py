"""Hands the memberships of a journey to readers in other processes after each of its rounds."""

from __future__ import annotations

from engine.audiences.live.state import Definition, JourneyState
from engine.backends.base import ServedScope, ServingWriter
from engine.resources.records import account_of


class JourneyServing:
    """Serves journeys through a writer."""

    def __init__(self, writer: ServingWriter) -> None:
        self._writer = writer

    def serve(self, journey: str, state: JourneyState, definition: Definition | None) -> None:
        """Serves what the round has brought in step. Call within the round."""
        self._writer.serve(account_of(journey), journey, _served(state, definition))


def _served(state: JourneyState, definition: Definition | None) -> ServedScope:
    if definition is None:
        return ServedScope(generation=0, reached=state.as_of, depends_on_time=False)
    milestones = dict(zip(definition.digests, definition.milestones, strict=True))
    definitions = {
        audience: digest
        for audience, digest in definition.digests.items()
        if state.digests.get(audience) == digest
    }
    return ServedScope(
        generation=definition.generation,
        reached=state.as_of,
        depends_on_time=definition.depends_on_time,
        definitions=definitions,
        names={name: audience for audience in definitions for name in (audience, milestones[audience])},
    )
