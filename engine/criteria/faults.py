"""The context in which a criterion is checked, and the collected faults."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.errors import Violation
from engine.limits import AUDIENCE_LEVELS_MAX, DEFAULT_LIMITS, Limits
from engine.values import TIME_MAX_MICROS, TIME_MIN_MICROS, Value

CRITERIA_PATH = "criteria"
"""The field of a milestone that holds its criterion, and the root of the paths of its nodes."""


NOT_POSITIVE = "must be longer than zero: a microsecond or more, finer digits are dropped"
"""The fault of a duration."""

INPUT_FORM = "accounts/{account}/workspaces/{workspace}/inputs/{input}"
AUDIENCE_FORM = "accounts/{account}/audiences/{audience}"
TOO_DEEP = (
    f"names audiences over {AUDIENCE_LEVELS_MAX} levels itself, the most allowed; repeat its criteria "
    "instead of naming it, or those of one of the audiences below it"
)
AUDIENCE_NAMES = "GetMilestone and `milepost audience list` tell the names of audiences"


class AudienceReference(enum.Enum):
    """The result of resolving an audience name."""

    FOUND = enum.auto()
    UNKNOWN = enum.auto()
    CYCLE = enum.auto()
    """It exists, but depends on the milestone being written."""
    TOO_DEEP = enum.auto()
    """It exists, but its own criteria name audiences over as many levels as are allowed."""
    DELETED = enum.auto()
    """It exists, but the same write deletes it."""


class Finding(NamedTuple):
    """What compiling a pattern has found: its cost in instructions, and its fault if it has one."""

    instructions: int
    fault: str | None = None


def _no_milestone(_: str) -> str:
    return ""


def _no_audience(_: str) -> AudienceReference:
    return AudienceReference.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The context in which a criterion is checked.

    `inputs` are all inputs of the account and `journey_inputs` those of the journey (resource names);
    `audience` resolves an audience name, `milestone_audience` gives the name of a milestone's audience, or ""
    when there is no such milestone; `root` is the path of the field that holds the criterion.

    `patterns` are the findings about its patterns, by test. Nothing is said about a pattern without one: it
    was checked before, or lies beyond the budget. None = `validate` compiles them.
    """

    inputs: frozenset[str]
    journey_inputs: frozenset[str]
    audience: Callable[[str], AudienceReference] = _no_audience
    milestone_audience: Callable[[str], str] = _no_milestone
    root: str = CRITERIA_PATH
    limits: Limits = DEFAULT_LIMITS
    patterns: Mapping[object, Finding] | None = None


def values_fault(most: int) -> str:
    """The fault of criteria with too many values."""
    return f"has more than {most:,} values in all its tests together, the most allowed"


def instructions_fault(most: int) -> str:
    """The fault of patterns that are too costly together."""
    return f"has patterns that compile to more than {most:,} instructions together, the most allowed"


@dataclass(slots=True)
class Faults:
    """Collects violations, in reading order."""

    context: Context
    violations: list[Violation] = field(default_factory=list)
    node_count: int = 0
    value_count: int = 0
    instruction_count: int = 0

    @property
    def limits(self) -> Limits:
        """The limits in force."""
        return self.context.limits

    def add(self, path: str, description: str) -> None:
        """Adds a fault of the field at `path`."""
        self.violations.append(Violation(path, description))

    def enter(self, path: str, depth: int) -> bool:
        """Counts a node. Returns False and adds a fault when it is nested too deeply."""
        self.node_count += 1
        depth_max = self.limits.criteria_depth_max
        if depth <= depth_max:
            return True
        self.add(path, f"is nested deeper than {depth_max} levels")
        return False

    def check_name(self, path: str, name: str, *, required: bool = True) -> None:
        """Checks that a name is not too long and, when required, not empty."""
        bytes_max = self.limits.name_bytes_max
        if required and not name:
            self.add(path, "must not be empty")
        if len(name.encode()) > bytes_max:
            self.add(path, f"is longer than {bytes_max} bytes")

    def missing_input(self, path: str, name: str) -> None:
        """Adds that an input is not known, with the form of such names when it is a short one."""
        self.add(path, f"input {name!r} does not exist{_full_names(name, INPUT_FORM)}")

    def missing_audience(self, path: str, name: str) -> None:
        """Adds that an audience is not known, and where its name is found: the server chose it."""
        audience = self.context.milestone_audience(name)
        if audience:
            self.add(path, f"{name!r} is a milestone; name its audience, {audience!r}")
            return
        shown = f"audience {name!r} does not exist{_full_names(name, AUDIENCE_FORM)}"
        self.add(path, f"{shown}; {AUDIENCE_NAMES}")

    def check_inputs(self, path: str, inputs: tuple[str, ...]) -> None:
        """Checks that every input exists and belongs to the journey."""
        for index, name in enumerate(inputs):
            if name not in self.context.inputs:
                self.missing_input(f"{path}.inputs[{index}]", name)
            elif name not in self.context.journey_inputs:
                self.add(f"{path}.inputs[{index}]", f"input {name!r} is not one of the journey's inputs")

    def count_values(self, count: int) -> None:
        """Counts operands. All of the criteria have a limit together."""
        before, most = self.value_count, self.limits.criteria_values_max
        self.value_count += count
        if before <= most < self.value_count:
            self.add(self.context.root, values_fault(most))

    def check_pattern(self, path: str, test: object) -> None:
        """Adds what was found about the pattern of a test. All of the criteria have a limit together."""
        found = (self.context.patterns or {}).get(test)
        if found is None:
            return
        if found.fault is not None:
            self.add(path, found.fault)
        before, most = self.instruction_count, self.limits.criteria_instructions_max
        self.instruction_count += found.instructions
        if before <= most < self.instruction_count:
            self.add(self.context.root, instructions_fault(most))

    def check_value(self, path: str, value: Value) -> None:
        """Checks that a value could be stored: finite, not too long, in range."""
        if type(value) is float:
            if not math.isfinite(value):
                self.add(path, "must be a finite number")
        elif type(value) is str:
            self.check_string(path, value)
        elif type(value) is int:
            self.check_instant(path, value)
        elif type(value) is tuple:
            self.count_values(len(value))
            if len(value) > self.limits.list_items_max:
                self.add(path, f"has more than {self.limits.list_items_max} items")
            elif any(len(item.encode()) > self.limits.list_item_bytes_max for item in value):
                self.add(path, f"has an item longer than {self.limits.list_item_bytes_max} bytes")

    def check_string(self, path: str, text: str) -> None:
        """Checks the length of a string."""
        bytes_max = self.limits.string_bytes_max
        if len(text.encode()) > bytes_max:
            self.add(path, f"is longer than {bytes_max} bytes")

    def check_instant(self, path: str, instant: int) -> None:
        """Checks that a timestamp can represent the instant."""
        if not TIME_MIN_MICROS <= instant <= TIME_MAX_MICROS:
            self.add(path, "must lie in the years 1 to 9999")

    def check_positive(self, path: str, duration: int) -> None:
        """Checks that a duration is longer than zero."""
        if duration <= 0:
            self.add(path, NOT_POSITIVE)


def _full_names(name: str, form: str) -> str:
    """What to say about the form of a name: nothing when it is a full one already."""
    return "" if name.startswith("accounts/") else f"; names are full: {form}"
