"""Which criteria are refused, and why: every fault at once, each with its path.

Paths read as in the proto messages, for example `criteria.all_of.criteria[1].event.window.range`. Names never
seen are no fault (they may come later) but are warned about.

`validate` walks the nodes; `events` knows conditions, windows, aggregates and sequences, `value_tests` the
tests on a value. To add an operator, give it a case in the file of its family.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.criteria.model import (
    BUILT_IN_ATTRIBUTES,
    AllOf,
    AnyOf,
    Audience,
    Bucket,
    Consent,
    Criterion,
    Event,
    Identity,
    Not,
    Sequence,
    UserAttribute,
)
from engine.criteria.validation.events import check_event, check_sequence
from engine.criteria.validation.faults import AudienceReference as AudienceReference
from engine.criteria.validation.faults import Context as Context
from engine.criteria.validation.faults import Faults
from engine.criteria.validation.faults import SeenNames as SeenNames
from engine.criteria.validation.value_tests import ANY_KIND, TIMES, check_test
from engine.errors import Violation, Warning
from engine.values import Kind

PERCENT_MAX = 100.0

_IDENTITY_KINDS = frozenset({Kind.STRING})


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found: faults, for which the criterion is refused, and warnings, which go with the answer."""

    violations: tuple[Violation, ...]
    warnings: tuple[Warning, ...]


def validate(criterion: Criterion, context: Context) -> Checked:
    """Everything that is wrong with the criterion, in the order in which a reader meets it."""
    faults = Faults(context)
    _check(faults, context.root, criterion, 1)
    nodes_max = context.limits.criteria_nodes_max
    if faults.node_count > nodes_max:
        faults.add(context.root, f"has {faults.node_count} nodes; at most {nodes_max} are allowed")
    return Checked(tuple(faults.violations), tuple(faults.warnings))


def _check(faults: Faults, path: str, criterion: Criterion, depth: int) -> None:
    if not faults.enter(path, depth):
        return
    faults.check_name(f"{path}.label", criterion.label, required=False)
    tag = criterion.__struct_config__.tag
    inner = f"{path}.{tag}"
    match criterion:
        case AllOf() | AnyOf():
            for index, child in enumerate(criterion.criteria):
                _check(faults, f"{inner}.criteria[{index}]", child, depth + 1)
        case Not():
            _check(faults, inner, criterion.criterion, depth + 1)
        case UserAttribute():
            _check_user_attribute(faults, inner, criterion)
        case Event():
            check_event(faults, inner, criterion, depth)
        case Sequence():
            check_sequence(faults, inner, criterion, depth)
        case Audience():
            _check_audience(faults, inner, criterion)
        case Consent():
            faults.check_name(f"{inner}.regulation", criterion.regulation)
            faults.check_name(f"{inner}.purpose", criterion.purpose)
        case Identity():
            faults.check_name(f"{inner}.type", criterion.type)
            check_test(faults, f"{inner}.test", criterion.test, _IDENTITY_KINDS)
        case Bucket():
            _check_bucket(faults, inner, criterion)


def _check_user_attribute(faults: Faults, path: str, criterion: UserAttribute) -> None:
    built_in = criterion.key in BUILT_IN_ATTRIBUTES
    faults.check_name(f"{path}.key", criterion.key)
    if not built_in:
        faults.warn_unseen(f"{path}.key", "user attribute", criterion.key, lambda seen: seen.user_attributes)
    check_test(faults, f"{path}.test", criterion.test, TIMES if built_in else ANY_KIND)


def _check_audience(faults: Faults, path: str, criterion: Audience) -> None:
    match faults.context.audience(criterion.name):
        case AudienceReference.UNKNOWN:
            faults.add(f"{path}.name", f"audience {criterion.name!r} does not exist")
        case AudienceReference.CYCLE:
            faults.add(f"{path}.name", f"audience {criterion.name!r} is itself made from this milestone")
        case AudienceReference.FOUND:
            pass


def _check_bucket(faults: Faults, path: str, criterion: Bucket) -> None:
    faults.check_name(f"{path}.salt", criterion.salt, required=False)
    ends = {"from_percent": criterion.from_percent, "to_percent": criterion.to_percent}
    outside = [name for name, percent in ends.items() if not 0 <= percent <= PERCENT_MAX]
    for name in outside:
        faults.add(f"{path}.{name}", "must lie between 0 and 100")
    if not outside and criterion.from_percent >= criterion.to_percent:
        faults.add(path, "is empty: from_percent must be less than to_percent")
