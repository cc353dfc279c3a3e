"""What a criterion is checked against, and where faults are noted."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from engine.errors import Violation, Warning
from engine.limits import DEFAULT_LIMITS, Limits
from engine.values import TIME_MAX_MICROS, TIME_MIN_MICROS, Value

CRITERIA_PATH = "criteria"
"""The field of a milestone that holds its criterion: where the paths of its nodes start."""


class AudienceReference(enum.Enum):
    """What a criterion would refer to by naming an audience."""

    FOUND = enum.auto()
    UNKNOWN = enum.auto()
    CYCLE = enum.auto()
    """Found, but its own criteria lead back to the milestone being written."""


@dataclass(frozen=True, slots=True)
class SeenNames:
    """Names seen in the account so far; others may be mistyped."""

    events: frozenset[str]
    user_attributes: frozenset[str]
    event_attributes: frozenset[str]


def _no_audience(_: str) -> AudienceReference:
    return AudienceReference.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a criterion is held against.

    `inputs` are all inputs of the account and `journey_inputs` those of the journey (resource names);
    `audience` says what an audience name refers to; `seen` None leaves warnings out; `root` is the path of
    the field that holds the criterion.
    """

    inputs: frozenset[str]
    journey_inputs: frozenset[str]
    audience: Callable[[str], AudienceReference] = _no_audience
    seen: SeenNames | None = None
    root: str = CRITERIA_PATH
    limits: Limits = DEFAULT_LIMITS


@dataclass(slots=True)
class Faults:
    """Collects violations and warnings, in the order in which a reader of the criterion meets them."""

    context: Context
    violations: list[Violation] = field(default_factory=list)
    warnings: list[Warning] = field(default_factory=list)
    node_count: int = 0

    @property
    def limits(self) -> Limits:
        """The limits in force."""
        return self.context.limits

    def add(self, path: str, description: str) -> None:
        """Notes a fault of the field at `path`."""
        self.violations.append(Violation(path, description))

    def enter(self, path: str, depth: int) -> bool:
        """Counts a node; False, with the fault noted, when it lies too deep to be looked into."""
        self.node_count += 1
        depth_max = self.limits.criteria_depth_max
        if depth <= depth_max:
            return True
        self.add(path, f"is nested deeper than {depth_max} levels")
        return False

    def check_name(self, path: str, name: str, *, required: bool = True) -> None:
        """A name may not be too long and, when required, not empty."""
        bytes_max = self.limits.name_bytes_max
        if required and not name:
            self.add(path, "must not be empty")
        if len(name.encode()) > bytes_max:
            self.add(path, f"is longer than {bytes_max} bytes")

    def warn_unseen(
        self, path: str, kind: str, name: str, seen: Callable[[SeenNames], frozenset[str]]
    ) -> None:
        """Notes a name that has not been seen so far. An empty one is none."""
        names = self.context.seen
        if names is not None and name and name not in seen(names):
            self.warnings.append(Warning(path, f"no {kind} named {name!r} has been seen so far"))

    def check_inputs(self, path: str, inputs: tuple[str, ...]) -> None:
        """Every input exists, and is one of the journey's."""
        for index, name in enumerate(inputs):
            if name not in self.context.inputs:
                self.add(f"{path}.inputs[{index}]", f"input {name!r} does not exist")
            elif name not in self.context.journey_inputs:
                self.add(f"{path}.inputs[{index}]", f"input {name!r} is not one of the journey's inputs")

    def check_value(self, path: str, value: Value) -> None:
        """A value has to be one that could be stored: finite, not too long, in range."""
        if type(value) is float:
            if not math.isfinite(value):
                self.add(path, "must be a finite number")
        elif type(value) is str:
            self.check_string(path, value)
        elif type(value) is int:
            self.check_instant(path, value)
        elif type(value) is tuple:
            if len(value) > self.limits.list_items_max:
                self.add(path, f"has more than {self.limits.list_items_max} items")
            elif any(len(item.encode()) > self.limits.list_item_bytes_max for item in value):
                self.add(path, f"has an item longer than {self.limits.list_item_bytes_max} bytes")

    def check_string(self, path: str, text: str) -> None:
        """A string may not be too long."""
        bytes_max = self.limits.string_bytes_max
        if len(text.encode()) > bytes_max:
            self.add(path, f"is longer than {bytes_max} bytes")

    def check_instant(self, path: str, instant: int) -> None:
        """An instant has to be one that a timestamp can name."""
        if not TIME_MIN_MICROS <= instant <= TIME_MAX_MICROS:
            self.add(path, "must lie in the years 1 to 9999")

    def check_positive(self, path: str, duration: int) -> None:
        """A duration has to be longer than zero."""
        if duration <= 0:
            self.add(path, "must be longer than zero")
