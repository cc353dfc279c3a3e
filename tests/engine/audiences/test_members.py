"""Membership answers: single checks, batches, lists, exports, explanations."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import cast

import pytest

from engine.audiences.model import MembershipStatus, SavedTarget
from engine.backends.base import UserRecord
from engine.backends.local.backend import LocalBackend
from engine.criteria.model import (
    Aggregate,
    AllOf,
    AnyOf,
    Between,
    Compare,
    Consent,
    ConsentState,
    Criterion,
    Equals,
    Event,
    Exists,
    Identity,
    In,
    Last,
    Near,
    Not,
    Semver,
    Sequence,
    Step,
    UserAttribute,
    ValueTest,
    WhereAll,
    WhereAttribute,
    WithinLast,
)
from engine.errors import InvalidInput, NotFound, RevisionNotReached
from engine.resources.records import Account, Input, Journey, Milestone, Workspace
from engine.values import MICROS_PER_DAY, Value
from tests.engine.site import ACCOUNT, JOURNEY, NOW, WEB, Site, did, event, statuses_of

DAY = MICROS_PER_DAY
IN = MembershipStatus.MEMBER
OUT = MembershipStatus.NOT_MEMBER
UNKNOWN = MembershipStatus.UNKNOWN_AUDIENCE


@pytest.fixture(params=["evaluated", "stored"])
def split(request: pytest.FixtureRequest, site: Site) -> tuple[Site, Milestone, Milestone]:
    """Users 0-3 did `a`, 2-6 did `b`; a split of those who did `a` and the others, calculated or not."""
    site.send([(f"u{n}", "a") for n in range(4)] + [(f"u{n}", "b") for n in range(2, 7)])
    doing, rest = site.add("doing", did("a")), site.add("rest", None)
    if request.param == "stored":
        site.connect(doing, "one")
        site.connect(rest, "two")
        site.engine.live.refresh_all()
    return site, doing, rest


def test_a_single_check(split: tuple[Site, Milestone, Milestone]) -> None:
    site, doing, rest = split
    members = site.engine.members
    assert [members.check(doing.audience, f"u{n}").member for n in range(8)] == [True] * 4 + [False] * 4
    assert [members.check(rest.audience, f"u{n}").member for n in range(8)] == [False] * 4 + [
        True,
        True,
        True,
        False,
    ]
    check = members.check(doing.audience, "u1", at_least=site.backend.revision())
    assert (check.as_of, check.revision) == (NOW, site.backend.revision())


def test_write_is_visible_immediately(split: tuple[Site, Milestone, Milestone]) -> None:
    site, doing, rest = split
    revision = site.send([("u5", "a"), ("u8", "a")]).revision
    for user_id in ("u5", "u8"):
        assert site.engine.members.check(doing.audience, user_id, at_least=revision).member
        assert not site.engine.members.check(rest.audience, user_id, at_least=revision).member
    site.engine.ingest.erase(ACCOUNT, ["u5"])
    assert not site.engine.members.check(doing.audience, "u5").member
    with pytest.raises(RevisionNotReached):
        site.engine.members.check(
            doing.audience, "u1", at_least=revision + 100, deadline=lambda: time.monotonic() + 0.01
        )


def test_name_is_checked_as_it_is_now_while_others_ask_for_it(site: Site) -> None:
    site.send([("u1", "a"), ("u2", "b")])
    name, is_over = f"{JOURNEY}/milestones/coming", threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            with suppress(NotFound):
                site.engine.members.check(name, "u1")

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    try:
        for turn in range(30):
            milestone = site.add("coming", did("ab"[turn % 2]))
            members = [site.engine.members.check(name, user).member for user in ("u1", "u2")]
            assert members == [turn % 2 == 0, turn % 2 == 1], turn
            site.engine.milestones.delete_milestone(milestone.name)
            with pytest.raises(NotFound):
                site.engine.members.check(name, "u1")
    finally:
        is_over.set()
        for thread in asking:
            thread.join()


def test_checks_of_calculated_audiences_wait_for_nobody(site: Site) -> None:
    """Neither for the store nor for the records, which others hold for as long as they like."""
    site.send([(f"u{n}", "a") for n in range(4)])
    doing, rest = site.add("doing", did("a", days=3)), site.add("rest", None)
    for milestone in (doing, rest):
        site.connect(milestone, milestone.name.rpartition("/")[2])
    site.engine.live.refresh_all()
    members, found = site.engine.members, list[object]()

    def ask() -> None:
        for audience in (doing.audience, rest.name):
            found.append([members.check(audience, f"u{n}").member for n in (0, 3, 9)])
        answer = members.batch_check(ACCOUNT, ["u1", "u9"], [rest.audience, doing.name])
        found.append(statuses_of(answer))

    repository = site.engine.members._repository
    with repository.writing(), repository.reading(), cast(LocalBackend, site.backend)._state.locked():
        asking = threading.Thread(target=ask)
        asking.start()
        asking.join(30.0)
        assert found == [
            [True, True, False],
            [False, False, False],
            [("u1", (OUT, IN)), ("u9", (OUT, OUT))],
        ]


def test_batch_returns_one_status_per_pair(split: tuple[Site, Milestone, Milestone]) -> None:
    site, doing, rest = split
    none = f"{ACCOUNT}/audiences/none"
    site.send([("u6", "a")])
    answer = site.engine.members.batch_check(
        ACCOUNT, ["u0", "u6", "nobody", "u0"], [rest.audience, none, doing.audience, rest.audience]
    )
    assert statuses_of(answer) == [
        ("u0", (OUT, UNKNOWN, IN, OUT)),
        ("u6", (OUT, UNKNOWN, IN, OUT)),
        ("nobody", (OUT, UNKNOWN, OUT, OUT)),
        ("u0", (OUT, UNKNOWN, IN, OUT)),
    ]


def test_the_audiences_of_a_user(split: tuple[Site, Milestone, Milestone]) -> None:
    site, doing, _ = split
    other = f"{ACCOUNT}/journeys/other"
    site.engine.journeys.create_journey(ACCOUNT, "other", Journey(name=""))
    names = sorted([doing.audience, site.add("b-doers", did("b"), journey=other).audience])
    site.add("c-doers", did("c"), journey=other)
    page = site.engine.members.user_audiences(ACCOUNT, "u2", page_size=1)
    assert [audience.name for audience in page.audiences] == names[:1]
    page = site.engine.members.user_audiences(ACCOUNT, "u2", page_size=1, page_token=page.next_page_token)
    assert [audience.name for audience in page.audiences] == names[1:]
    assert page.next_page_token == ""
    assert site.engine.members.user_audiences(ACCOUNT, "nobody").audiences == ()


def test_every_membership_call_gives_the_same_answer(split: tuple[Site, Milestone, Milestone]) -> None:
    site, *milestones = split
    users = [f"u{n}" for n in range(9)]
    for milestone in milestones:
        listed: list[str] = []
        token = ""
        for _ in range(4):
            page = site.engine.members.list_members(milestone.name, page_size=2, page_token=token)
            listed += page.user_ids
            token = page.next_page_token
            if not token:
                break
        checked = [user for user in users if site.engine.members.check(milestone.audience, user).member]
        assert sorted(listed) == checked == sorted(site.members(milestone))
        assert site.engine.sizes.count(milestone.name).users == len(checked)
        assert site.engine.sizes.estimate(SavedTarget(milestone.name)).size.users == len(checked)
        explained = [site.engine.members.explain_membership(milestone.name, user).member for user in users]
        assert [user for user, member in zip(users, explained, strict=True) if member] == checked


def test_pages_of_one_walk_share_an_instant(site: Site) -> None:
    site.send([(f"u{n}", "a") for n in range(5)], time=NOW - 29 * DAY)
    milestone = site.add("recent", did("a", days=30))
    first = site.engine.members.list_members(milestone.name, page_size=3)
    site.clock.now = NOW + 10 * DAY
    second = site.engine.members.list_members(milestone.name, page_size=3, page_token=first.next_page_token)
    assert len({*first.user_ids, *second.user_ids}) == 5
    assert (second.as_of, second.next_page_token) == (NOW, "")
    assert site.engine.members.list_members(milestone.name).user_ids == ()
    with pytest.raises(InvalidInput) as refused:
        site.engine.members.list_members(milestone.name, page_token=first.next_page_token, as_of=NOW)
    assert refused.value.reason == "INVALID_PAGE_TOKEN"


def test_empty_export_has_one_empty_page(site: Site) -> None:
    milestone = site.add("nobody", did("nothing"))
    pages = list(site.engine.members.export(milestone.audience, as_of=NOW - 1))
    assert [(page.user_ids, page.next_page_token, page.as_of) for page in pages] == [((), "", NOW - 1)]


def test_checks_take_milestones_and_an_instant(site: Site) -> None:
    """A window of two days, asked for three instants; also where the membership is stored."""
    lately = site.add("lately", did("buy", days=2))
    rest = site.add("rest", None)
    site.send([("u1", "buy")], time=NOW - DAY)
    site.send([("u2", "buy")], time=NOW - 3 * DAY)
    members = site.engine.members
    # "u1" is in from NOW - 1 d until NOW + 1 d, "u2" from NOW - 3 d until NOW - 1 d.
    instants = (NOW, NOW - 2 * DAY, NOW + DAY)
    expected = [(IN, OUT), (OUT, IN), (OUT, OUT)]
    for stored in (False, True):
        if stored:
            site.connect(lately)
            site.engine.live.refresh_all()
        for instant, (one, two) in zip(instants, expected, strict=True):
            asked = [lately.name, lately.audience, rest.name, f"{JOURNEY}/milestones/none"]
            answer = members.batch_check(ACCOUNT, ["u1", "u2"], asked, as_of=instant)
            opposite = {IN: OUT, OUT: IN}
            assert [statuses for _, statuses in statuses_of(answer)] == [
                (status, status, opposite[status], UNKNOWN) for status in (one, two)
            ]
            assert answer.as_of == instant
            check = members.check(lately.name, "u2", as_of=instant)
            assert (check.member, check.as_of) == (two is IN, instant)
            names = [each.name for each in members.user_audiences(ACCOUNT, "u2", as_of=instant).audiences]
            assert names == [lately.audience if two is IN else rest.audience]
        assert members.check(lately.name, "u1").member


def test_invalid_membership_requests_are_refused(site: Site) -> None:
    milestone = site.add("one", did("a"))
    members = site.engine.members
    with pytest.raises(NotFound):
        members.check(f"{ACCOUNT}/audiences/none", "u1")
    with pytest.raises(InvalidInput) as refused:
        members.check(JOURNEY, "u1")
    assert [v.field for v in refused.value.violations] == ["audience"]
    for user_id in ("", "x" * 257):
        with pytest.raises(InvalidInput) as refused:
            members.check(milestone.audience, user_id)
        assert [v.field for v in refused.value.violations] == ["user_id"]
    with pytest.raises(InvalidInput):
        members.batch_check(ACCOUNT, ["u"] * 101, [milestone.audience] * 100)
    with pytest.raises(NotFound):
        members.batch_check("accounts/none", ["u"], [milestone.audience])
    with pytest.raises(NotFound):
        members.export(f"{JOURNEY}/milestones/none")
    site.engine.accounts.create_account("rival", Account(name=""))
    answer = members.batch_check("accounts/rival", ["u1"], [milestone.audience])
    assert statuses_of(answer) == [("u1", (UNKNOWN,))]


# ---
# explanations---------------------------------------------------------------------------------------------


def test_explanation_of_membership(site: Site) -> None:
    site.send([("u1", "open"), ("u2", "open"), ("u2", "complain")])
    site.add("complaining", did("complain"))
    opening = site.add("opening", did("open"))
    criteria = AllOf(criteria=(did("buy", label="bought"), Not(criterion=did("return"))))
    buying = site.add("buying", criteria, opening.name)
    answer = site.engine.members.explain_membership(buying.audience, "u1")
    assert (answer.member, answer.in_journey) == (False, True)
    above, own = answer.milestones
    assert (above.milestone, above.member, above.taken_by) == (opening.name, True, "")
    assert own.criteria is not None
    bought, returned = own.criteria.children
    assert (bought.path, bought.label) == ("criteria.all_of.criteria[0]", "bought")
    assert (bought.true_for_user, bought.decisive, bought.seen) == (False, True, "0")
    assert (returned.true_for_user, returned.decisive) == (True, False)
    taken = site.engine.members.explain_membership(opening.name, "u2").milestones[0]
    assert taken.taken_by == f"{JOURNEY}/milestones/complaining"
    assert not taken.member
    stranger = site.engine.members.explain_membership(opening.name, "stranger")
    assert (stranger.member, stranger.in_journey) == (False, False)


def test_explanation_shows_observed_values(site: Site) -> None:
    amounts = [0.1, 0.2, 12.5, -3.0]
    site.engine.ingest.events(
        ACCOUNT, [event("u1", "buy", attributes={"amount": amount}) for amount in amounts]
    )
    record = UserRecord(
        "u1",
        WEB,
        NOW,
        attributes={"city": "Rome", "tags": ("a", "b"), "age": 7.0, "years": "7", "vip": True, "at": NOW},
        identities={"email": "u1@example.org"},
        consents={("gdpr", "ads"): ConsentState.DENIED},
    )
    site.engine.ingest.users(ACCOUNT, [record])

    def buying(aggregate: Aggregate, of: str = "amount") -> Event:
        return Event(name="buy", aggregate=aggregate, of=of, test=Compare("greater_than", 1e9))

    cases = [
        (did("buy"), "4"),
        (buying(Aggregate.SUM), "9.8"),
        (buying(Aggregate.MIN), "-3.0"),
        (buying(Aggregate.MAX), "12.5"),
        (buying(Aggregate.AVERAGE), "2.45"),
        (buying(Aggregate.DISTINCT), "4"),
        (buying(Aggregate.MIN, "weight"), ""),
        (buying(Aggregate.SUM, "weight"), "0.0"),
        (UserAttribute(key="city", test=Equals("Oslo")), '"Rome" (string)'),
        (UserAttribute(key="tags", test=Equals("b")), '["a", "b"] (list)'),
        (UserAttribute(key="tags", test=Equals("c")), '["a", "b"] (list)'),
        (UserAttribute(key="age", test=Equals(7.0)), "7 (number)"),
        (UserAttribute(key="$first_seen", test=Exists()), "2024-10-04T12:00:00Z (time)"),
        (UserAttribute(key="$user_id", test=Equals("u2")), '"u1" (string)'),
        (UserAttribute(key="none", test=Equals(7.0)), ""),
        (Identity(type="email", test=Equals("x")), '"u1@example.org" (string)'),
        (Consent(regulation="gdpr", purpose="ads", state=ConsentState.GIVEN), "denied"),
        # What cannot pass for its kind: "7" is not 7, a list is not a number, a text is no time or version.
        (UserAttribute(key="years", test=Equals(7.0)), '"7" (string); the test takes numbers'),
        (UserAttribute(key="years", test=Compare("less_than", NOW)), '"7" (string); the test takes times'),
        (UserAttribute(key="tags", test=Between(1.0, 2.0)), '["a", "b"] (list); the test takes numbers'),
        (UserAttribute(key="vip", test=Equals("true")), "true (boolean); the test takes strings"),
        (
            UserAttribute(key="at", test=In(("today", 1.0))),
            "2024-10-04T12:00:00Z (time); the test takes strings or numbers",
        ),
        (UserAttribute(key="city", test=Semver("equals", "1")), '"Rome" (string); the test takes versions'),
        (UserAttribute(key="tags", test=Near(0, 0, 1)), '["a", "b"] (list); the test takes places'),
        (UserAttribute(key="years", test=Semver("equals", "8")), '"7" (string)'),
        (Not(criterion=UserAttribute(key="years", test=Equals(7.0))), ""),
    ]
    assert seen_by(site, "u1", [criterion for criterion, _ in cases]) == [text for _, text in cases]
    # Values of all workspaces of the journey's inputs.
    site.engine.accounts.create_workspace(ACCOUNT, "crm", Workspace(name=""))
    crm = site.engine.accounts.create_input(f"{ACCOUNT}/workspaces/crm", "feed", Input(name="")).name
    site.engine.ingest.users(ACCOUNT, [UserRecord("u1", crm, NOW, {"years": True, "age": "7"})])
    both = [UserAttribute(key=key, test=Equals(8.0)) for key in ("years", "age")]
    assert seen_by(site, "u1", both) == [
        'true (boolean), "7" (string); the test takes numbers',
        '"7" (string), 7 (number)',
    ]


def seen_by(site: Site, user_id: str, criteria: Iterable[Criterion]) -> list[str]:
    """What is shown of the user for each criterion."""
    milestone = site.add("", AnyOf(criteria=tuple(criteria)))
    (verdict,) = site.engine.members.explain_membership(milestone.name, user_id).milestones
    assert verdict.criteria is not None
    site.engine.milestones.delete_milestone(milestone.name)
    return [child.seen for child in verdict.criteria.children]


def test_explanation_shows_kinds_of_event_attributes_that_cannot_pass(site: Site) -> None:
    rows: list[dict[str, Value]] = [
        {"price": "9.99", "size": 4.0, "at": "2024-10-04"},
        {"price": ("9", "99"), "size": True, "gift": True},
    ]
    site.engine.ingest.events(ACCOUNT, [event("u1", "buy", attributes=row) for row in rows])
    site.engine.ingest.events(ACCOUNT, [event("u1", "buy", time=NOW - 9 * DAY, attributes={"price": 1.0})])

    def where(*tests: tuple[str, ValueTest], days: int = 7) -> Event:
        conditions = tuple(WhereAttribute(key=key, test=test) for key, test in tests)
        return Event(name="buy", window=Last(duration=days * DAY), where=WhereAll(conditions=conditions))

    above = Compare("greater_than", 5.0)
    text = '"price" is a string or a list, the test takes numbers'
    cases: list[tuple[Criterion, str]] = [
        (where(("price", above)), f"0; {text}"),
        (where(("price", above), days=30), "0"),
        (where(("price", Equals("9"))), "1"),
        (where(("price", Equals("8"))), "0"),
        (where(("price", Exists()), ("gift", above)), '0; "gift" is a boolean, the test takes numbers'),
        (where(("size", Equals("4"))), '0; "size" is a number or a boolean, the test takes strings'),
        (where(("never", above)), "0"),
        (
            where(("price", above), ("at", WithinLast(DAY))),
            f'0; "at" is a string or a list, the test takes times; {text}',
        ),
        (
            Event(name="buy", window=Last(duration=DAY), aggregate=Aggregate.MAX, of="price", test=above),
            '"price" is a string or a list, the aggregate takes numbers',
        ),
        (
            Event(name="buy", window=Last(duration=DAY), aggregate=Aggregate.SUM, of="price", test=above),
            '0.0; "price" is a string or a list, the aggregate takes numbers',
        ),
        (
            Sequence(
                steps=(Step(name="buy", where=WhereAttribute(key="price", test=above)),),
                window=Last(duration=DAY),
            ),
            text,
        ),
        (Sequence(steps=(Step(name="buy"),)), ""),
    ]
    assert seen_by(site, "u1", [criterion for criterion, _ in cases]) == [text for _, text in cases]
    assert seen_by(site, "nobody", [where(("price", above))]) == [""]


def test_explanation_of_a_plan(site: Site) -> None:
    site.send([("u1", "a"), ("u2", "a"), ("u3", "b")])
    site.add("first", did("a"))
    second = site.add("second", did("b"))
    answer = site.engine.members.explain_audience(SavedTarget(second.name))
    assert answer.steps[answer.root].users == 1
    assert {step.users for step in answer.steps if step.operator == "universe"} == {3}
    assert all(operand < step.index for step in answer.steps for operand in step.operands)
    assert len(answer.plan_digest) == 32
    again = site.engine.members.explain_audience(SavedTarget(second.name))
    assert again.plan_digest == answer.plan_digest
