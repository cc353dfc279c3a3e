"""Documents of whole journeys, applied in one commit, and the versions that changes leave behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from engine.criteria.model import Audience, Criterion
from engine.errors import EtagMismatch, FailedPrecondition, InvalidInput, LimitExceeded, NotFound
from engine.limits import JOURNEY_LEVELS_MAX, JOURNEY_MILESTONES_MAX, JOURNEY_VERSIONS_MAX
from engine.resources import versions
from engine.resources.applying import Applied
from engine.resources.documents import JourneyDocument, MilestoneDocument
from engine.resources.records import Account, ConnectionState, Journey, Milestone, etag_of
from tests.engine.site import ACCOUNT, JOURNEY, WEB, Site, did


def milestone(
    milestone_id: str, criteria: Criterion | None, *children: MilestoneDocument, display_name: str = ""
) -> MilestoneDocument:
    return MilestoneDocument(
        id=milestone_id,
        display_name=display_name,
        criteria=criteria,
        remaining_users=criteria is None,
        children=children,
    )


def document(*milestones: MilestoneDocument, journey: str = "main") -> JourneyDocument:
    return JourneyDocument(journey=journey, milestones=milestones)


def apply(site: Site, wanted: JourneyDocument, etag: str = "", *, validate_only: bool = False) -> Applied:
    return site.engine.applying.apply(ACCOUNT, wanted, etag, validate_only=validate_only)


def changes(applied: Applied) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Name below the journey, action, path, fields."""
    return [
        (each.name.removeprefix(JOURNEY), each.action.name, each.field, each.changed_fields)
        for each in applied.changes
    ]


def state(site: Site) -> list[tuple[str, str, int, str]]:
    return [
        (each.name, each.audience, each.position, etag_of(each))
        for each in site.engine.milestones.list_milestones(JOURNEY).items
    ]


def versions_kept(site: Site) -> list[int]:
    listed, token = [], ""
    while True:
        page = site.engine.versions.list(JOURNEY, page_size=40, page_token=token)
        listed += [int(each.name.rpartition("/")[2]) for each in page.items]
        token = page.next_page_token
        if not token:
            return listed


FIRST = document(
    milestone("a", did("buy"), milestone("below", did("visit")), milestone("rest", None)),
    milestone("b", did("call")),
    milestone("c", did("mail")),
)


def test_every_kind_of_change_is_named(site: Site) -> None:
    created = apply(site, FIRST)
    assert changes(created) == [
        ("", "UPDATED", "document", ("display_name",)),
        ("/milestones/a", "CREATED", "document.milestones[0]", ()),
        ("/milestones/below", "CREATED", "document.milestones[0].children[0]", ()),
        ("/milestones/rest", "CREATED", "document.milestones[0].children[1]", ()),
        ("/milestones/b", "CREATED", "document.milestones[1]", ()),
        ("/milestones/c", "CREATED", "document.milestones[2]", ()),
    ]
    before = {name: audience for name, audience, *_ in state(site)}
    second = document(
        milestone("c", did("mail")),
        milestone("a", did("buy"), milestone("below", None), display_name="A"),
        milestone("b", did("visit")),
    )
    with pytest.raises(InvalidInput) as refused:
        apply(site, second)
    assert [each.field for each in refused.value.violations] == [
        "document.milestones[1].children[0].remaining_users"
    ]
    second = document(
        milestone("c", did("mail")),
        milestone("a", did("buy"), milestone("rest", did("x")), milestone("below", None), display_name="A"),
        milestone("b", did("visit")),
    )
    assert changes(apply(site, second)) == [
        ("/milestones/rest", "DELETED", "", ()),
        ("/milestones/below", "DELETED", "", ()),
        ("/milestones/c", "MOVED", "document.milestones[0]", ("position",)),
        ("/milestones/a", "UPDATED", "document.milestones[1]", ("display_name", "position")),
        ("/milestones/rest", "CREATED", "document.milestones[1].children[0]", ()),
        ("/milestones/below", "CREATED", "document.milestones[1].children[1]", ()),
        ("/milestones/b", "UPDATED", "document.milestones[2]", ("criteria", "position")),
    ]
    # What keeps id, kind and parent keeps its audience; the others have new ones.
    after = {name: audience for name, audience, *_ in state(site)}
    kept = {name.rpartition("/")[2] for name in before if before[name] == after.get(name)}
    assert (kept, len(after)) == ({"a", "b", "c"}, 5)
    assert [position for _, _, position, _ in state(site)] == [0, 1, 0, 1, 2]


def test_applying_again_changes_and_writes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(site, FIRST)
    before = state(site)
    commits = counted_commits(site, monkeypatch)
    assert changes(apply(site, FIRST)) == []
    assert (state(site), commits, versions_kept(site)) == (before, [], [2, 1])


def test_validate_only_answers_the_same_and_writes_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = counted_commits(site, monkeypatch)
    checked = apply(site, FIRST, validate_only=True)
    new = apply(site, document(milestone("a", did("buy")), journey="new"), validate_only=True)
    assert (commits, state(site), new.journey, len(new.changes)) == ([], [], None, 2)
    assert checked.changes == apply(site, FIRST).changes
    assert len(commits) == 1


def test_a_commit_that_fails_leaves_the_journey_as_it_was(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted, created, changed and moved milestones, audiences and the version are one commit."""
    apply(site, FIRST)
    before = state(site)

    def full(puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> None:
        raise LimitExceeded("the store is full")

    monkeypatch.setattr(site.backend.documents, "commit", full)
    with pytest.raises(LimitExceeded):
        apply(site, document(milestone("n", did("x")), milestone("a", did("y"))))
    monkeypatch.undo()
    assert (state(site), versions_kept(site)) == (before, [2, 1])
    site.engine.close()
    site.open()
    assert (state(site), versions_kept(site)) == (before, [2, 1])


def counted_commits(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one number, of documents written, with each commit."""
    commits: list[int] = []
    commit = site.backend.documents.commit

    def counted(puts: Mapping[str, bytes], deletes: Sequence[str] = ()) -> None:
        commits.append(len(puts))
        commit(puts, deletes)

    monkeypatch.setattr(site.backend.documents, "commit", counted)
    return commits


def test_every_fault_is_found_at_once_with_its_path(site: Site) -> None:
    wanted = JourneyDocument(
        journey="main",
        display_name="x" * 101,
        milestones=(
            milestone("r", None),
            milestone("A", did("buy")),
            milestone("b", did("buy"), milestone("b", did("call")), display_name="y" * 101),
            MilestoneDocument(id="c"),
            MilestoneDocument(id="d", criteria=did("x"), remaining_users=True),
        ),
    )
    with pytest.raises(InvalidInput) as refused:
        apply(site, wanted)
    assert [each.field for each in refused.value.violations] == [
        "document.display_name",
        "document.milestones[0].remaining_users",
        "document.milestones[1].id",
        "document.milestones[2].display_name",
        "document.milestones[2].children[0].id",
        "document.milestones[3]",
        "document.milestones[4]",
    ]
    with pytest.raises(InvalidInput) as refused:
        apply(site, JourneyDocument(journey="main", inputs=("shop/web", WEB, "shop/none")))
    assert [(each.field, each.description) for each in refused.value.violations] == [
        ("document.inputs[1]", f"input {WEB!r} is named twice"),
        ("document.inputs[2]", f"input '{ACCOUNT}/workspaces/shop/inputs/none' does not exist"),
    ]
    assert state(site) == []


def test_a_milestone_in_the_place_of_an_audience_is_told_its_audience(site: Site) -> None:
    apply(site, document(milestone("a", did("buy"))))
    name = f"{JOURNEY}/milestones/a"
    audience = site.engine.milestones.get_milestone(name).audience
    site.engine.accounts.create_account("other", Account(name=""))
    elsewhere = "accounts/other/journeys/j/milestones/a"
    short = name.removeprefix(f"{ACCOUNT}/journeys/").replace("/milestones/", "/")
    named = (name, short, f"{name}x", elsewhere)
    with pytest.raises(InvalidInput) as refused:
        apply(site, document(*(milestone(f"m{i}", Audience(name=each)) for i, each in enumerate(named))))
    found = {each.field: each.description for each in refused.value.violations}
    assert [found[f"document.milestones[{i}].criteria.audience.name"] for i in range(2)] == [
        f"{each!r} is a milestone; name its audience, {audience!r}" for each in (name, short)
    ]
    way_on = "GetMilestone and `milepost audience list` tell the names of audiences"
    assert [found[f"document.milestones[{i}].criteria.audience.name"] for i in (2, 3)] == [
        f"audience {each!r} does not exist; {way_on}" for each in (f"{name}x", elsewhere)
    ]


def test_criteria_are_checked_in_the_tree_as_it_will_be(site: Site) -> None:
    apply(site, document(milestone("a", did("buy")), milestone("b", did("call")), milestone("c", did("x"))))
    of_a, of_b, of_c = (
        Audience(name=site.engine.milestones.get_milestone(f"{JOURNEY}/milestones/{each}").audience)
        for each in "abc"
    )
    # 1. A circle of two, an audience that goes and one that does not exist, each with its own fault.
    unknown = Audience(name=f"{ACCOUNT}/audiences/none")
    wanted = document(
        milestone("n", unknown),
        milestone("a", of_b),
        milestone("b", of_a),
        milestone("m", of_c),
    )
    with pytest.raises(InvalidInput) as refused:
        apply(site, wanted)
    assert [
        (
            each.field.removeprefix("document.milestones")[:3],
            each.description.partition("' ")[2].partition(";")[0],
        )
        for each in refused.value.violations
    ] == [
        ("[0]", "does not exist"),
        ("[1]", "itself depends on this milestone"),
        ("[2]", "itself depends on this milestone"),
        ("[3]", "is deleted by this document"),
    ]
    assert refused.value.reason == "INVALID_CRITERIA"
    # 2. `b` comes to stand before `a` and is named by it, though as saved it stands behind it.
    apply(site, document(milestone("b", did("call")), milestone("a", of_b)))
    # 3. Another journey names `b`: it cannot be left out.
    site.engine.journeys.create_journey(ACCOUNT, "other", Journey(name=""))
    site.add("m", of_b, journey=f"{ACCOUNT}/journeys/other")
    before = state(site)
    with pytest.raises(FailedPrecondition) as kept:
        apply(site, document(milestone("a", did("buy"))))
    assert kept.value.reason == "AUDIENCE_IN_USE"
    assert kept.value.metadata == {"milestones": f"{ACCOUNT}/journeys/other/milestones/m"}
    assert state(site) == before


def test_the_etag_of_the_version_guards_the_whole_journey(site: Site) -> None:
    etag = site.engine.versions.list(JOURNEY).items[0].etag
    site.add("a", did("buy"))
    with pytest.raises(EtagMismatch):
        apply(site, FIRST, etag)
    with pytest.raises(EtagMismatch):
        apply(site, document(journey="new"), etag)
    apply(site, FIRST, site.engine.versions.list(JOURNEY).items[0].etag)


def test_a_replaced_milestone_closes_its_audience_and_its_connections(site: Site) -> None:
    apply(site, document(milestone("a", did("buy")), milestone("b", did("call"))))
    a = site.engine.milestones.get_milestone(f"{JOURNEY}/milestones/a")
    live, idle = site.connect(a, "live"), site.connect(a, "idle")
    site.engine.connections.deactivate(idle.name)
    apply(site, document(milestone("b", did("call"), milestone("a", did("buy")))))
    kept = site.engine.connections.list_connections(ACCOUNT).items
    assert [(each.name, each.state, each.audience) for each in kept] == [
        (live.name, ConnectionState.ACTIVE, live.audience)
    ]
    with pytest.raises(NotFound):
        site.engine.connections.get_connection(idle.name)
    with pytest.raises(NotFound):
        site.engine.audiences.get(live.audience)
    assert site.engine.milestones.get_milestone(f"{JOURNEY}/milestones/a").parent == f"{JOURNEY}/milestones/b"


def chain(levels: int) -> JourneyDocument:
    below: tuple[MilestoneDocument, ...] = ()
    for level in range(levels, 0, -1):
        below = (milestone(f"m{level}", did("buy"), *below),)
    return document(*below)


def test_the_numbers_of_levels_and_milestones_are_limited(site: Site) -> None:
    with pytest.raises(InvalidInput, match=f"children: is below the last of {JOURNEY_LEVELS_MAX} levels"):
        apply(site, chain(JOURNEY_LEVELS_MAX + 1))
    apply(site, chain(JOURNEY_LEVELS_MAX))
    with pytest.raises(LimitExceeded, match="20 levels"):
        site.add("deeper", did("x"), f"{JOURNEY}/milestones/m{JOURNEY_LEVELS_MAX}")
    wide = [milestone(f"w{index}", did("buy")) for index in range(JOURNEY_MILESTONES_MAX + 1)]
    with pytest.raises(InvalidInput, match="has 1001 milestones; at most 1000 are allowed"):
        apply(site, document(*wide))
    apply(site, document(*wide[:-1]))
    with pytest.raises(LimitExceeded, match="has 1000 milestones"):
        site.add("one-more", did("x"))


# --- versions ---


def test_every_change_makes_a_version_and_a_repetition_none(site: Site) -> None:
    one = site.add("one", did("buy"), display_name="One")
    site.add("two", did("call"))
    update = Milestone(name=one.name, audience="", display_name="Uno", criteria=did("x"))
    site.engine.milestones.update_milestone(update, {"display_name", "criteria"})
    site.engine.milestones.update_milestone(update, {"display_name", "criteria"})
    site.engine.milestones.move_milestone(one.name, 1)
    site.engine.milestones.move_milestone(one.name, 1)
    site.engine.journeys.update_journey(Journey(name=JOURNEY, inputs=(WEB,)), {"inputs"})
    site.engine.milestones.delete_milestone(one.name)
    assert versions_kept(site) == [7, 6, 5, 4, 3, 2, 1]
    assert site.engine.journeys.get_journey(JOURNEY).version == 7
    shown = {
        number: site.engine.versions.get(f"{JOURNEY}/versions/{number}").document for number in (1, 3, 4, 7)
    }
    two = milestone("two", did("call"))
    assert shown == {
        1: JourneyDocument(journey="main", display_name="Main"),
        3: JourneyDocument(
            journey="main",
            display_name="Main",
            milestones=(milestone("one", did("buy"), display_name="One"), two),
        ),
        4: JourneyDocument(
            journey="main",
            display_name="Main",
            milestones=(milestone("one", did("x"), display_name="Uno"), two),
        ),
        7: JourneyDocument(journey="main", display_name="Main", inputs=(WEB,), milestones=(two,)),
    }
    # They are durable, and a clone starts anew.
    site.engine.close()
    site.open()
    assert versions_kept(site) == [7, 6, 5, 4, 3, 2, 1]
    assert site.engine.journeys.clone_journey(JOURNEY, "copy").version == 1


def rename(site: Site, times: int) -> None:
    for number in range(times):
        site.engine.journeys.update_journey(
            Journey(name=JOURNEY, display_name=f"Name {number}"), {"display_name"}
        )


def test_the_oldest_versions_are_dropped(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    rename(site, JOURNEY_VERSIONS_MAX + 5)
    assert versions_kept(site) == list(range(106, 5, -1))
    with pytest.raises(NotFound):
        site.engine.versions.get(f"{JOURNEY}/versions/5")
    # Their size is limited too: a version of one name takes about 40 bytes.
    monkeypatch.setattr(versions, "JOURNEY_VERSION_BYTES_MAX", 150)
    rename(site, 1)
    assert 3 <= len(versions_kept(site)) <= 5
    assert versions_kept(site)[:3] == [107, 106, 105]


def test_a_deleted_journey_takes_its_versions_with_it(site: Site) -> None:
    rename(site, 3)
    site.engine.journeys.delete_journey(JOURNEY)
    with pytest.raises(NotFound):
        site.engine.versions.list(JOURNEY)
    site.engine.journeys.create_journey(ACCOUNT, "main", Journey(name="", display_name="Again"))
    assert versions_kept(site) == [1]
