"""No long read holds the state lock for more than a bounded amount of work, whatever is asked.

Work is counted, not timed: pages looked up, strings searched, and rows of events read between taking the lock
and letting go of it, while someone always waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from engine.backends.base import Contains, Count, EventRecord, Members, UserRecord
from engine.backends.local.backend import LocalBackend
from engine.backends.local.events.part import Part
from engine.backends.local.events.tables import BRIEF_ROWS_MAX
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage import matching
from engine.backends.local.storage.fair_lock import FairLock
from engine.backends.local.storage.page_cache import PageCache
from engine.backends.local.storage.turns import PAUSE_PAGES
from engine.bounded_cache import BoundedCache
from engine.criteria.conditions import WhereAttribute
from engine.criteria.model import Aggregate, ConsentState, Equals, EventType, Exists, In, Text
from engine.criteria.operators import InstantRange
from engine.criteria.ranges import TimeRange
from engine.plan.model import (
    AttributeMatch,
    BucketMatch,
    ConsentMatch,
    Difference,
    EventMatch,
    EventSelection,
    IdentityMatch,
    Interval,
    NumberRange,
    Plan,
    SeenMatch,
    SequenceMatch,
    Step,
    Universe,
    UserIdMatch,
)
from engine.plan.visitor import StepVisitor
from engine.values import Value
from tests.conformance.site import ACCOUNT, AUDIENCE, JOURNEY, NOON, WEB

USERS = 12_000
SHOP = f"{ACCOUNT}/workspaces/shop"
PAGES_MAX = 2 * PAUSE_PAGES + 8
"""Pages looked up in one turn: those between two pauses, some with a text apart, and a step's presence."""
TESTED_MAX = 2 * matching.VALUES_PER_CHECK
"""Strings compared with the lock held."""


@dataclass
class Turn:
    """What was done in one hold of the lock."""

    pages: int = 0
    tested: int = 0
    searched: int = 0
    rows: int = 0


@dataclass
class Turns:
    """What was done in each hold by the reading thread."""

    largest: Turn = field(default_factory=Turn)
    current: Turn | None = None
    count: int = 0

    def begin(self) -> None:
        self.current = Turn()
        self.count += 1

    def end(self) -> None:
        done, self.current = self.current, None
        if done is not None:
            for what in ("pages", "tested", "searched", "rows"):
                setattr(self.largest, what, max(getattr(self.largest, what), getattr(done, what)))


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBackend]:
    settings = LocalSettings(groups=1, checkpoint_s=3_600.0)
    opened = LocalBackend.open(tmp_path_factory.mktemp("store"), settings=settings)
    for start in range(0, USERS, 2_000):
        users = range(start, start + 2_000)
        opened.append(ACCOUNT, [_user(number) for number in users])
        opened.append(
            ACCOUNT,
            [
                EventRecord(
                    f"user-{number}",
                    WEB,
                    "buy",
                    EventType.CUSTOM,
                    NOON - turn,
                    {"price": 1.5, "what": f"x{number}"},
                )
                for number in users
                for turn in range(2)
            ],
        )
        if start == 6_000:
            opened.checkpoint()
    yield opened
    opened.close()


def _user(number: int) -> UserRecord:
    return UserRecord(
        f"user-{number}",
        WEB,
        NOON,
        {
            "name": f"name {number}",
            "long": f"{number} " * 60,
            "score": float(number % 100),
            "born": NOON - number,
            "tags": (f"t{number % 3_000}", "all"),
        },
        {"email": f"{number}@example.org"},
        {("gdpr", "ads"): ConsentState.GIVEN},
    )


def _bought(number: int, turn: int) -> EventRecord:
    attributes: dict[str, Value] = {"price": 1.5, "what": f"x{number}"}
    return EventRecord(f"user-{number}", WEB, "buy", EventType.CUSTOM, NOON - turn, attributes)


def _attribute(key: str, test: Any) -> AttributeMatch:
    return AttributeMatch(workspaces=(SHOP,), key=key, test=test)


def _events(**selected: Any) -> EventSelection:
    return EventSelection(inputs=(WEB,), name="buy", **selected)


AUDIENCES = (AUDIENCE, f"{AUDIENCE}2")
SOME = Interval(low=1.0, high=50.0)
STEPS: dict[str, Step] = {
    "universe": Universe(inputs=(WEB,)),
    "lookup": _attribute("name", Equals("name 5")),
    "many lookups": _attribute("name", In(tuple(f"name {number}" for number in range(5_000)))),
    "exists": _attribute("name", Exists()),
    "contains": _attribute("name", Text(op="contains", pattern="7")),
    "expression": _attribute("name", Text(op="matches", pattern="7.*9")),
    "long strings": _attribute("long", Text(op="glob", pattern="*7?9*")),
    "elements": _attribute("tags", Text(op="glob", pattern="t*9")),
    "list": _attribute("tags", Equals(("t5", "all"))),
    "numbers": _attribute("score", NumberRange((SOME,))),
    "times": _attribute("born", InstantRange((TimeRange(NOON - 500, NOON),))),
    "seen": SeenMatch(inputs=(WEB,), last=False, test=InstantRange((TimeRange(NOON - 5, NOON),))),
    "identity": IdentityMatch(type="email", test=Text(op="ends_with", pattern="9@example.org")),
    "user id": UserIdMatch(test=Text(op="matches", pattern="9$")),
    "consent": ConsentMatch(regulation="gdpr", purpose="ads", state=ConsentState.GIVEN),
    "bucket": BucketMatch(salt="s", first=0, last=1 << 63),
    "count": EventMatch(selection=_events(), intervals=(SOME,)),
    "sum": EventMatch(selection=_events(), aggregate=Aggregate.SUM, of="price", intervals=(SOME,)),
    "where": EventMatch(
        selection=_events(where=WhereAttribute(key="what", test=Text(op="matches", pattern="7$"))),
        intervals=(SOME,),
    ),
    "sequence": SequenceMatch(steps=(_events(), _events()), within=None),
}


def _plan(step: Step) -> Plan:
    """The step, and everyone else."""
    steps = (Universe(inputs=(WEB,)), step, Difference(minuend=0, subtrahend=1))
    return Plan(account=ACCOUNT, as_of=NOON, steps=steps, roots=(1, 2))


QUESTIONS: dict[str, Callable[[LocalBackend, Plan], object]] = {
    "count": lambda backend, plan: backend.execute(plan, Count()),
    "a sample": lambda backend, plan: backend.execute(plan, Count(), partitions=range(64)),
    "members": lambda backend, plan: backend.execute(plan, Members()),
    "one user": lambda backend, plan: backend.execute(plan, Contains(("user-7",))),
    "many users": lambda backend, plan: backend.execute(
        plan, Contains(tuple(f"user-{number}" for number in range(0, USERS, 4)))
    ),
    "trace": lambda backend, plan: backend.trace(plan),
    "outlook": lambda backend, plan: backend.outlook(plan, (WEB,)),
    "universe": lambda backend, plan: backend.universe_size(ACCOUNT, (WEB,)),
    "refresh": lambda backend, plan: backend.refresh(
        ACCOUNT, JOURNEY, (AUDIENCE, f"{AUDIENCE}2"), plan, whole=True
    ),
}


def _count_work(turns: Turns, patch: pytest.MonkeyPatch) -> None:
    """Counts what is done with the lock held, and lets someone wait all the time."""

    def counting(kind: Any, name: str, what: str, amount: Callable[..., int]) -> None:
        method = getattr(kind, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            answer = method(*args, **kwargs)
            if turns.current is not None:
                setattr(turns.current, what, getattr(turns.current, what) + amount(*args))
            return answer

        patch.setattr(kind, name, call)

    acquire, release = FairLock.acquire, FairLock.release

    def begin(self: FairLock, *args: Any, **kwargs: Any) -> bool:
        is_mine = acquire(self, *args, **kwargs)
        if self is turns_lock and self._depth == 1:
            turns.begin()
        return is_mine

    def end(self: FairLock) -> None:
        if self is turns_lock and self._depth == 1:
            turns.end()
        release(self)

    patch.setattr(FairLock, "acquire", begin)
    patch.setattr(FairLock, "release", end)
    patch.setattr(FairLock, "is_wanted", property(lambda _: True))
    for name in ("find", "get", "read", "view"):
        counting(PageCache, name, "pages", lambda *_: 1)
    counting(Part, "row_users", "rows", lambda part: part.record.rows)
    counting(Part, "times", "rows", lambda part: part.record.rows)
    # `passing_values` is bound by name where it is used.
    for module in (
        "attributes.index",
        "attributes.term_dictionary",
        "events.columns",
        "query.predicates",
        "query.field_predicate",
    ):
        path = f"engine.backends.local.{module}.passing_values"
        patch.setattr(path, _counting_tests(turns))


turns_lock: FairLock | None = None


def _counting_tests(turns: Turns) -> Callable[..., Any]:
    def passing(matcher: Any, values: Any, check: Any) -> Any:
        if turns.current is not None:
            what = "searched" if matcher.program_bytes else "tested"
            setattr(turns.current, what, getattr(turns.current, what) + len(values))
        return matching.passing_values(matcher, values, check)

    return passing


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("step", STEPS)
def test_work_in_one_hold_is_bounded(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch, step: str, question: str
) -> None:
    global turns_lock
    for cache in BoundedCache.live:
        cache.clear()
    turns_lock = backend._state._lock
    turns = Turns()
    with monkeypatch.context() as patch:
        _count_work(turns, patch)
        QUESTIONS[question](backend, _plan(STEPS[step]))
    turns_lock = None
    assert turns.count > 0
    assert turns.largest.pages <= PAGES_MAX
    assert turns.largest.tested <= TESTED_MAX
    assert turns.largest.searched == 0
    assert turns.largest.rows <= BRIEF_ROWS_MAX


def test_every_kind_of_step_is_covered() -> None:
    """A new kind of step without operands needs a line in `STEPS`."""
    combining = {"empty", "intersection", "union", "difference", "visit"}
    kinds = {name for name in vars(StepVisitor) if not name.startswith("_")} - combining
    covered = {type(step).__name__.removesuffix("Match").lower() for step in STEPS.values()}
    assert {kind.replace("_", "") for kind in kinds} == covered
