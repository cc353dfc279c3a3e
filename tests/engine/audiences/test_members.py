"""Who is in: single checks, batches, lists, exports, and reasons."""

from __future__ import annotations

import time

import pytest

from engine.audiences.model import MembershipStatus, SavedTarget
from engine.backends.base import UserRecord
from engine.criteria.model import (
    Aggregate,
    AllOf,
    AnyOf,
    Compare,
    Consent,
    ConsentState,
    Equals,
    Event,
    Exists,
    Identity,
    Not,
    UserAttribute,
)
from engine.errors import InvalidInput, NotFound, RevisionNotReached
from engine.resources.records import Account, Journey, Milestone
from engine.values import MICROS_PER_DAY
from tests.engine.site import ACCOUNT, JOURNEY, NOW, WEB, Site, did, event

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


def test_a_write_is_seen_at_once(split: tuple[Site, Milestone, Milestone]) -> None:
    site, doing, rest = split
    revision = site.send([("u5", "a"), ("u8", "a")]).revision
    for user_id in ("u5", "u8"):
        assert site.engine.members.check(doing.audience, user_id, at_least=revision).member
        assert not site.engine.members.check(rest.audience, user_id, at_least=revision).member
    site.engine.ingest.erase(ACCOUNT, ["u5"])
    assert not site.engine.members.check(doing.audience, "u5").member
    with pytest.raises(RevisionNotReached):
        site.engine.members.check(
            doing.audience, "u1", at_least=revision + 100, deadline=time.monotonic() + 0.01
        )


def test_a_batch_has_one_status_each(split: tuple[Site, Milestone, Milestone]) -> None:
    site, doing, rest = split
    none = f"{ACCOUNT}/audiences/none"
    site.send([("u6", "a")])
    answer = site.engine.members.batch_check(
        ACCOUNT, ["u0", "u6", "nobody", "u0"], [rest.audience, none, doing.audience, rest.audience]
    )
    assert [(user.user_id, user.statuses) for user in answer.users] == [
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


def test_every_answer_is_the_same(split: tuple[Site, Milestone, Milestone]) -> None:
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


def test_pages_of_one_walk_are_of_one_instant(site: Site) -> None:
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


def test_an_export_of_nobody_has_one_empty_page(site: Site) -> None:
    milestone = site.add("nobody", did("nothing"))
    pages = list(site.engine.members.export(milestone.audience, as_of=NOW - 1))
    assert [(page.user_ids, page.next_page_token, page.as_of) for page in pages] == [((), "", NOW - 1)]


def test_what_cannot_be_asked(site: Site) -> None:
    milestone = site.add("one", did("a"))
    members = site.engine.members
    with pytest.raises(NotFound):
        members.check(f"{ACCOUNT}/audiences/none", "u1")
    with pytest.raises(InvalidInput) as refused:
        members.check(milestone.name, "u1")
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
    assert answer.users[0].statuses == (UNKNOWN,)


# --- reasons ------------------------------------------------------------------------------------------------


def test_why_a_user_is_in_or_out(site: Site) -> None:
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


def test_what_was_seen(site: Site) -> None:
    amounts = [0.1, 0.2, 12.5, -3.0]
    site.engine.ingest.events(
        ACCOUNT, [event("u1", "buy", attributes={"amount": amount}) for amount in amounts]
    )
    record = UserRecord(
        "u1",
        WEB,
        NOW,
        attributes={"city": "Rome", "tags": ("a", "b"), "age": 7.0},
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
        (UserAttribute(key="city", test=Equals("Oslo")), "Rome"),
        (UserAttribute(key="tags", test=Equals("b")), "a, b"),
        (UserAttribute(key="age", test=Equals(7.0)), "7.0"),
        (UserAttribute(key="$first_seen", test=Exists()), "2024-10-04T12:00:00+00:00"),
        (UserAttribute(key="none", test=Equals(7.0)), ""),
        (Identity(type="email", test=Equals("x")), "u1@example.org"),
        (Consent(regulation="gdpr", purpose="ads", state=ConsentState.GIVEN), "denied"),
    ]
    milestone = site.add("all", AnyOf(criteria=tuple(criterion for criterion, _ in cases)))
    (verdict,) = site.engine.members.explain_membership(milestone.name, "u1").milestones
    assert verdict.criteria is not None
    assert [child.seen for child in verdict.criteria.children] == [seen for _, seen in cases]


def test_what_a_plan_does(site: Site) -> None:
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
