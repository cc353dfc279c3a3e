"""Memory of the service after all questions; the last benchmark of the table."""

from __future__ import annotations

from tests.bench import footprint
from tests.bench.figures import Figure, Subject


def measure(subject: Subject) -> list[Figure]:
    """Resident memory after the questions, and after the sample was sent a second time."""
    return footprint.resident(subject, "after all questions")
