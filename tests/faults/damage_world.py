"""A small store with keys of every family, and all questions about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engine.backends.base import (
    AttributeLookup,
    ConsentLookup,
    Contains,
    Count,
    EventLookup,
    EventRecord,
    IdentityLookup,
    Lookup,
    Members,
    Record,
    UserLookup,
    UserRecord,
)
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.criteria.model import Aggregate, ConsentState, Equals, EventType, Text
from engine.plan.model import (
    AttributeMatch,
    BucketMatch,
    ConsentMatch,
    EventMatch,
    EventSelection,
    IdentityMatch,
    InstantRange,
    Interval,
    NumberRange,
    Plan,
    SeenMatch,
    SequenceMatch,
    Step,
    TimeRange,
    Universe,
)
from engine.values import MICROS_PER_DAY
from tests.conformance.as_columns import columns_of
from tests.conformance.site import ACCOUNT, APP, AUDIENCE, JOURNEY, NOON, SHOP, WEB, event, plan_of, update

SETTINGS = LocalSettings(groups=2, checkpoint_s=3_600.0)
OTHER = "accounts/other"
OTHER_INPUT = f"{OTHER}/workspaces/main/inputs/web"
USERS = [f"user-{number}" for number in range(400)]
ASKED_USERS = (*USERS[:12], "user-399", "late", "nobody", "someone else")
EVERYONE = plan_of(Universe(inputs=(WEB,)))
ALL = 10_000


def records(round_: int) -> list[Record]:
    """Every kind of value, for users of whom some are in each round."""
    found: list[Record] = []
    for number, user_id in enumerate(USERS[round_ * 60 : round_ * 60 + 260]):
        day = NOON - (number % 40) * MICROS_PER_DAY
        found.append(event(user_id, event_id=f"{round_}/{number}", time=day, price=number / 4, colour="red"))
        found.append(
            event(user_id, "view", through=APP, time=day + 1, page=f"/{number % 9}", ok=number % 2 == 0)
        )
        note = f"{number % 3}" * 300
        tags = ("a", str(number % 50))
        found.append(
            update(
                user_id,
                time=day,
                plan="gold" if number % 3 else "free",
                age=float(number),
                tags=tags,
                note=note,
            )
        )
        if number % 5 == 0:
            identities: dict[str, str | None] = {"email": f"{user_id}@mail.example"}
            consents = {("gdpr", "ads"): ConsentState.GIVEN if number % 2 else ConsentState.DENIED}
            found.append(UserRecord(user_id, WEB, day, {}, identities, consents))
    return found


def make(directory: Path) -> None:
    """Creates the store, with some entries only in the log."""
    backend = LocalBackend.open(directory / "made", settings=SETTINGS)
    for round_ in range(3):
        backend.append(ACCOUNT, records(round_), request_id=f"request-{round_}")
        backend.append(OTHER, [EventRecord(f"o-{round_}", OTHER_INPUT, "buy", EventType.CUSTOM, NOON, {})])
        backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
        backend.checkpoint()
    backend.append_columns(ACCOUNT, columns_of([event(user_id, time=NOON - 7) for user_id in USERS[:300]]))
    backend.documents.commit({"a/document": b"content", "b/document": b"more"})
    backend.alias(ACCOUNT, "user-7", "user-8")
    backend.erase(ACCOUNT, ["user-9", "user-10"])
    backend.checkpoint()
    backend.append(ACCOUNT, records(1)[:200])
    backend.append(ACCOUNT, [event("late", event_id="late", price=3.0)])
    backend.alias(ACCOUNT, "someone else", "user-3")
    # What is only in the log stays there.
    backend._checkpoint = backend.revision  # type: ignore[method-assign]
    backend.close()
    (directory / "made").rename(directory / "store")


def _attribute(key: str, test: Equals | Text | NumberRange) -> Step:
    return AttributeMatch(workspaces=(SHOP,), key=key, test=test)


def _selection(days: int | None = None, name: str = "buy", *inputs: str) -> EventSelection:
    start = None if days is None else NOON - days * MICROS_PER_DAY
    return EventSelection(inputs=inputs or (WEB,), name=name, time=TimeRange(start, None))


GOLD = plan_of(_attribute("plan", Equals("gold")))

PLANS: dict[str, Plan] = {
    "everyone": EVERYONE,
    "in both inputs": plan_of(Universe(inputs=(APP, WEB))),
    "in the app": plan_of(Universe(inputs=(APP,))),
    "gold": GOLD,
    "free": plan_of(_attribute("plan", Equals("free"))),
    "a plan that nobody has": plan_of(_attribute("plan", Equals("silver"))),
    "a plan with an o": plan_of(_attribute("plan", Text("contains", "o"))),
    "long notes": plan_of(_attribute("note", Text("contains", "1"))),
    "tag 7": plan_of(_attribute("tags", Equals("7"))),
    "tag a": plan_of(_attribute("tags", Equals("a"))),
    "aged 40 and more": plan_of(_attribute("age", NumberRange((Interval(low=40.0),)))),
    "an attribute that is not there": plan_of(_attribute("size", NumberRange((Interval(low=40.0),)))),
    "email": plan_of(IdentityMatch(type="email", test=Text("contains", "@"))),
    "granted": plan_of(ConsentMatch(regulation="gdpr", purpose="ads", state=ConsentState.GIVEN)),
    "first seen": plan_of(
        SeenMatch(
            inputs=(WEB,), last=False, test=InstantRange((TimeRange(NOON - 20 * MICROS_PER_DAY, None),))
        )
    ),
    "last seen": plan_of(
        SeenMatch(inputs=(APP, WEB), last=True, test=InstantRange((TimeRange(None, NOON - MICROS_PER_DAY),)))
    ),
    "two buys": plan_of(EventMatch(selection=_selection(), intervals=(Interval(low=2.0),))),
    "a buy in 14 days": plan_of(EventMatch(selection=_selection(14), intervals=(Interval(low=1.0),))),
    "any event": plan_of(
        EventMatch(selection=_selection(None, "", WEB, APP), intervals=(Interval(low=1.0),))
    ),
    "bought for 50": plan_of(
        EventMatch(
            selection=_selection(), aggregate=Aggregate.SUM, of="price", intervals=(Interval(low=50.0),)
        )
    ),
    "pages": plan_of(
        EventMatch(
            selection=_selection(None, "view", APP),
            aggregate=Aggregate.DISTINCT,
            of="page",
            intervals=(Interval(low=2.0),),
        )
    ),
    "view then buy": plan_of(SequenceMatch(steps=(_selection(None, "view", APP), _selection()))),
    "bucket": plan_of(BucketMatch(salt="salt", first=0, last=2_499)),
    "the other account": plan_of(Universe(inputs=(OTHER_INPUT,)), account=OTHER),
}

NOTES = AttributeLookup(inputs=(WEB,), workspaces=(SHOP,), key="note")
PAGES = EventLookup(inputs=(APP,), name="view", key="page")
LOOKUPS: tuple[Lookup, ...] = (
    NOTES,
    PAGES,
    EventLookup(inputs=(WEB,)),
    EventLookup(inputs=(APP, WEB), key="price"),
    EventLookup(inputs=(APP,), name="buy"),
    AttributeLookup(inputs=(WEB,), workspaces=(SHOP,), key="age"),
    IdentityLookup(inputs=(WEB,), type="email"),
    ConsentLookup(inputs=(WEB,), regulation="gdpr", purpose="ads"),
    UserLookup(inputs=(WEB,), others=(APP,)),
)

Ask = Callable[[LocalBackend], object]


def questions() -> dict[str, Ask]:
    """Read-only questions, by name."""
    asked: dict[str, Ask] = {}
    for name, plan in PLANS.items():
        asked[f"size: {name}"] = lambda b, p=plan: b.execute(p, Count()).sizes  # type: ignore[misc]
        asked[f"members: {name}"] = lambda b, p=plan: sorted(b.execute(p, Members(limit=ALL)).user_ids)  # type: ignore[misc]
        asked[f"checks: {name}"] = lambda b, p=plan: b.execute(p, Contains(ASKED_USERS)).flags  # type: ignore[misc]
    for user_id in ASKED_USERS:
        asked[f"profile: {user_id}"] = lambda b, u=user_id: repr(b.profile(ACCOUNT, u))  # type: ignore[misc]
    asked |= {
        "revision": _revision,
        "statistics": _statistics,
        "universe": lambda b: b.universe_size(ACCOUNT, [WEB, APP]),
        "lookups": lambda b: [(each.is_there, sorted(each.kinds)) for each in b.look_up(ACCOUNT, LOOKUPS)],
        "notes looked at": lambda b: b.find_text(ACCOUNT, NOTES, lambda text: text.startswith("2")),
        "pages looked at": lambda b: b.find_text(ACCOUNT, PAGES, lambda text: text == "/9"),
        "event names": lambda b: b.event_names(ACCOUNT, limit=ALL),
        "user attributes": lambda b: b.user_attributes(ACCOUNT, limit=ALL),
        "event attributes": lambda b: b.event_attributes(ACCOUNT, "buy", limit=ALL),
        "plans": lambda b: b.attribute_values(ACCOUNT, SHOP, "plan", limit=ALL),
        "tags": lambda b: b.attribute_values(ACCOUNT, SHOP, "tags", limit=ALL),
        "ages": lambda b: b.attribute_values(ACCOUNT, SHOP, "age", limit=ALL),
        "notes": lambda b: b.attribute_values(ACCOUNT, SHOP, "note", limit=ALL),
        "prices": lambda b: b.event_attribute_values(ACCOUNT, "buy", "price", limit=ALL),
        "pages": lambda b: b.event_attribute_values(ACCOUNT, "view", "page", limit=ALL),
        "membership": lambda b: b.membership(AUDIENCE),
        "stored members": lambda b: sorted(b.stored_members(AUDIENCE, Members(limit=ALL)).user_ids),
        "changes": lambda b: b.changes(AUDIENCE, 0, ALL),
        "erased through": lambda b: b.erased_through(AUDIENCE, 1 << 62),
        "documents": lambda b: list(b.documents.scan("")),
    }
    return asked


def _revision(backend: LocalBackend) -> int:
    """The revision that the next write follows: none while the log could not be replayed to its end."""
    fault = backend.write_fault()
    if fault is not None and "applied_revision" in fault.metadata:
        raise fault
    return backend.revision()


def _checkpointed(backend: LocalBackend) -> int:
    backend.checkpoint()
    return _revision(backend)


def _statistics(backend: LocalBackend) -> tuple[int, int]:
    """Users and events at that revision."""
    _revision(backend)
    return backend.stats().users, backend.stats().events


def writes() -> dict[str, Ask]:
    """Writes, in this order; their answers reveal the earlier state."""
    again = records(1)[:300]
    return {
        "a request again": lambda b: b.append(ACCOUNT, records(2), request_id="request-2"),
        "events again": lambda b: b.append(ACCOUNT, again).duplicates,
        "events again, as columns": lambda b: (
            b.append_columns(
                ACCOUNT, columns_of([r for r in records(0) if isinstance(r, EventRecord)])
            ).duplicates
        ),
        "new and old users": lambda b: (
            b.append(
                ACCOUNT,
                [
                    update(f"user-{number}", time=NOON + 5, plan="gold", age=5.0)
                    for number in range(0, 500, 7)
                ],
            ).accepted
        ),
        "erase": lambda b: b.erase(ACCOUNT, ["user-20", "nobody"]).accepted,
        "refresh": lambda b: b.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD),
        "a document": lambda b: b.documents.commit({"c/document": b"new"}),
        "checkpoint": _checkpointed,
    }
