"""Audiences as deep as allowed, each by criteria as deep as allowed, with a known answer."""

from __future__ import annotations

from engine.criteria.model import AllOf, AnyOf, Audience, Criterion, Event, Last, Not
from engine.limits import CRITERIA_DEPTH_MAX
from engine.plan.compile import compile_audiences
from engine.plan.model import Plan
from engine.plan.tree import Account, JourneyTree, TreeMilestone
from engine.values import MICROS_PER_DAY, Micros

SEEN, BUY = "seen", "buy"
_NEGATIONS = len(range(0, CRITERIA_DEPTH_MAX - 1, 3))


def deepest(audience: str | None) -> Criterion:
    """Criteria of `CRITERIA_DEPTH_MAX` levels about an audience; without one, about who bought in 30 days. No
    two levels are of one kind, so none can be merged.
    """
    made: Criterion = Event(name=BUY, window=Last(duration=30 * MICROS_PER_DAY))
    if audience is not None:
        made = Audience(name=audience)
    for level in range(CRITERIA_DEPTH_MAX - 1):
        match level % 3:
            case 0:
                made = Not(criterion=made)
            case 1:
                made = AllOf(criteria=(Event(name=SEEN), made))
            case _:
                made = AnyOf(criteria=(Event(name=f"none {level}"), made))
    return made


def are_buyers(levels: int) -> bool:
    """Whether an audience over so many levels is the buyers among those seen; else it is the others."""
    return _NEGATIONS * (levels + 1) % 2 == 0


def plan_of_deepest(levels: int, account: str = "accounts/a", input: str = "i", as_of: Micros = 0) -> Plan:
    """The plan of an audience over so many levels, as a check has it: no pass has made it shorter."""
    found: dict[str, tuple[JourneyTree, str]] = {}
    for level in range(levels + 1):
        below = f"m{level - 1}" if level else None
        milestone = TreeMilestone(id=f"m{level}", criterion=deepest(below))
        tree = JourneyTree(name=f"j{level}", inputs=(input,), milestones=(milestone,))
        found[f"m{level}"] = tree, f"m{level}"
    return compile_audiences(Account(account), [f"m{levels}"], as_of, found.__getitem__, passes=())
