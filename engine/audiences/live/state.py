"""What live refresh remembers of each journey between rounds. It is in memory only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

import xxhash

from engine.plan.expiry import ExpiryTemplate
from engine.plan.reads import Reads
from engine.plan.template import Template
from engine.values import Micros

_NONE: frozenset[str] = frozenset()

FIRST_SHARE_MIN = 0.25
_HASHES = 2**64


@dataclass(frozen=True)
class Compiled:
    """What the milestones of a journey ask, whatever they are called. Journeys that ask the same share it."""

    template: Template
    """A plan with a root for each of the milestones, as of any instant."""
    expiry: ExpiryTemplate
    reads: Reads
    """The data that can change a membership of one of the milestones."""


@dataclass(frozen=True, slots=True)
class Definition:
    """The calculated milestones of a journey (names) as currently defined, and the digest of each audience's
    definition, in the same order.
    """

    generation: int
    inputs: tuple[str, ...]
    """Those of the journey."""
    milestones: tuple[str, ...]
    digests: dict[str, str]
    audiences: tuple[str, ...]
    audience_digests: tuple[str, ...]
    """The keys and the values of `digests`."""
    milestone_of: dict[str, str]
    """By audience, in the same order."""
    compiled: Compiled
    zone: ZoneInfo
    """That of the account."""
    names: frozenset[str] = frozenset()
    """Other journeys whose audiences the milestones name, directly or through others."""

    @property
    def depends_on_time(self) -> bool:
        """Whether time can move anyone."""
        return self.compiled.expiry.depends_on_time


@dataclass(slots=True)
class JourneyState:
    """The state of a journey between rounds."""

    first_share: float = 1.0
    """The first horizon of each length is this share of it. It differs from journey to journey: horizons that
    begin together, as after a start, would all be renewed in one round.
    """
    lock: threading.Lock = field(default_factory=threading.Lock)
    definition: Definition | None = None
    defined_at: int | None = None
    """The version of the records that the definition is of."""
    digests: dict[str, str] = field(default_factory=dict)
    """By audience: the digest of the definition of its last refresh. Only audiences that are up to date."""
    needed_at: int | None = None
    """The version of the records by which nothing was left to drop."""
    needed: frozenset[str] | None = None
    """The audiences needed when memberships were last dropped; None before the first check after a start."""
    as_of: Micros = 0
    horizons: tuple[Micros, ...] = ()
    """The ends of the horizons that the backend has, the farthest first."""
    old_checked: Micros = 0
    """Time of the last search for old changes, by the server's clock."""
    failure: str = ""
    """The error of the last round; "" when it succeeded."""
    failed_at: float = 0.0
    failure_logged: float = 0.0
    """When it last failed, and when that was last logged: instants of `time.monotonic()`."""
    begun: float | None = None
    predicted_seconds: float = 0.0


def first_share_of(journey: str) -> float:
    """`first_share` of a journey."""
    hash_ = xxhash.xxh3_64_intdigest(journey.encode())
    return FIRST_SHARE_MIN + (1 - FIRST_SHARE_MIN) * hash_ / _HASHES


class JourneyStates:
    """The states of all journeys by name. Safe to call from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[str, JourneyState] = {}

    def find(self, journey: str) -> JourneyState | None:
        """The state of a journey; None when no round is known to cover it."""
        return self._states.get(journey)

    def of(self, journey: str) -> JourneyState:
        """The state of a journey, a new one when there is none."""
        known = self._states.get(journey)
        if known is not None:
            return known
        with self._lock:
            return self._states.setdefault(journey, JourneyState(first_share_of(journey)))

    def snapshot(self) -> list[JourneyState]:
        """The states of journeys with calculated audiences."""
        with self._lock:
            return [state for state in self._states.values() if state.definition is not None]

    def forget_deleted(self, exists: Callable[[str], bool]) -> None:
        """Forgets journeys that do not exist and need no audience any more."""
        with self._lock:
            for name in [name for name, state in self._states.items() if state.needed == _NONE]:
                if not exists(name):
                    del self._states[name]

    def in_use(self) -> list[str]:
        """Journeys that need an audience, or were not checked since the start."""
        with self._lock:
            return [name for name, state in self._states.items() if state.needed != _NONE]
