"""Patterns are compiled within a budget, until the deadline, and with no lock that others need."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.audiences.model import Draft, PreviewMilestone
from engine.backends.local.storage.fair_lock import FairLock
from engine.criteria.compiling import compiling
from engine.criteria.faults import Finding
from engine.criteria.model import (
    AnyOf,
    Criterion,
    Event,
    Identity,
    Sequence,
    Step,
    Text,
    UserAttribute,
    WhereAny,
    WhereAttribute,
)
from engine.criteria.operators import text
from engine.criteria.patterns import findings
from engine.deadline import Deadline
from engine.errors import DeadlineExceeded, InvalidInput
from engine.limits import DEFAULT_LIMITS, Limits
from engine.resources.documents import JourneyDocument, MilestoneDocument
from engine.resources.records import Milestone
from tests.engine.site import ACCOUNT, JOURNEY, Site

PATTERNS = 480

FORMS: dict[str, Callable[[int], Text]] = {
    "refused": lambda n: Text("matches", rf"\pL{{20}}{n}"),
    "too large": lambda n: Text("matches", rf"((\pL{{10}}){{10}}){{10}}{n}"),
    "largest": lambda n: Text("matches", rf"a{{990}}b{{990}}c{{990}}d{{980}}{n}"),
    "classes": lambda n: Text("matches", r"\pL\PN" * 8 + str(n)),
    "too many classes": lambda n: Text("matches", r"\pL" * 300 + str(n)),
    "folded": lambda n: Text("matches", "k" * 1_000 + str(n), ignore_case=True),
    "no expression": lambda n: Text("matches", "(" * 1_000 + str(n)),
    "too long": lambda n: Text("matches", "a" * 1_100 + str(n)),
    "small": lambda n: Text("matches", f"^a{n}$"),
    "glob": lambda n: Text("glob", "*" + "a" * 960 + "?*" * 15 + str(n)),
    "small glob": lambda n: Text("glob", f"a{n}*"),
}

SHAPES: dict[str, Callable[[list[Text]], Criterion]] = {
    "attributes": lambda tests: AnyOf(criteria=tuple(UserAttribute(key="k", test=each) for each in tests)),
    "identities": lambda tests: AnyOf(criteria=tuple(Identity(type="t", test=each) for each in tests)),
    "events": lambda tests: Event(name="e", where=_any(tests)),
    "steps": lambda tests: Sequence(
        steps=tuple(Step(name="e", where=_any(tests[start::12])) for start in range(12))
    ),
}


def _any(tests: list[Text]) -> WhereAny[str, Text]:
    return WhereAny(conditions=tuple(WhereAttribute(key="k", test=each) for each in tests))


def criteria_of(form: str, shape: str = "attributes", first: int = 0) -> Criterion:
    """Criteria with as many patterns of a form as there may be."""
    return SHAPES[shape]([FORMS[form](first + n) for n in range(PATTERNS)])


class Compiled:
    """What RE2 has been given to compile."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patterns: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None
        compile_ = text._compiled

        def compiled(pattern: str, **options: bool) -> Any:
            self.patterns.append(pattern)
            self.meanwhile()
            return compile_(pattern, **options)

        patch.setattr(text, "_compiled", compiled)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Compiled:
    return Compiled(monkeypatch)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    opened = Site(tmp_path / "store")
    yield opened
    opened.engine.close()


# --- the budget ---------------------------------------------------------------------------------------------


def cost(test: Text) -> int:
    """What a pattern takes of the budget; a misshapen one nothing."""
    found = test.finding(DEFAULT_LIMITS)
    return 0 if found is None else found.instructions


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", FORMS)
def test_criteria_compile_no_more_than_their_budget(form: str, shape: str, compiled: Compiled) -> None:
    one = cost(FORMS[form](0))
    budget = DEFAULT_LIMITS.criteria_instructions_max
    compiled.patterns.clear()
    found = findings([criteria_of(form, shape)], DEFAULT_LIMITS)
    spent = sum(each.instructions for each in found.values())
    largest = max((each.instructions for each in found.values()), default=0)
    assert spent - largest <= budget
    if one == 0:
        assert (found, compiled.patterns) == ({}, [])
        return
    expected = PATTERNS if one * PATTERNS <= budget else budget // one + 1
    # Numbers of two and three digits make the patterns longer than the first one.
    assert expected * 0.9 <= len(found) <= expected
    assert len(compiled.patterns) == (len(found) if FORMS[form](0).op == "matches" else 0)


def test_cost_is_what_compiling_takes() -> None:
    assert cost(Text("matches", r"\pL{2}x")) == 2_397
    assert cost(Text("matches", r"[\pL\pN]")) >= 400
    assert cost(Text("matches", r"\\pL")) < 20
    assert cost(Text("matches", r"((\pL{10}){10}){10}")) == 1 << 16
    assert cost(Text("glob", "ab*c?")) == 5 + 2 * 12
    assert cost(Text("contains", "ab")) == 0


def test_wildcards_of_a_glob_count_for_what_they_compile_to() -> None:
    pattern = "é?*a" * 16
    size = text._compiled(text.glob_as_re2(pattern), ignore_case=False).programsize
    assert size <= cost(Text("glob", pattern))


def test_equal_patterns_are_compiled_once_and_count_each_time(compiled: Compiled) -> None:
    test = Text("matches", r"\pL{2}x")
    found = findings([SHAPES["attributes"]([test] * PATTERNS)], DEFAULT_LIMITS)
    assert found == {test: Finding(2_397)}
    assert compiled.patterns == [test.pattern]


def test_a_call_has_a_budget_for_all_of_its_criteria(compiled: Compiled) -> None:
    limits = Limits(call_instructions_max=30_000)
    documents = [criteria_of("small", first=n * PATTERNS) for n in range(100)]
    with pytest.raises(InvalidInput) as refused:
        findings(documents, limits, field="document")
    assert [str(each.field) for each in refused.value.violations] == ["document"]
    assert "more than 30,000 instructions together" in refused.value.violations[0].description
    assert 30_000 / 30 < len(compiled.patterns) < 30_000 / 6


def test_patterns_beyond_the_budget_are_one_fault_of_the_criteria(site: Site) -> None:
    with pytest.raises(InvalidInput) as refused:
        site.add("m", criteria_of("refused"))
    faults = refused.value.violations
    assert [each.field for each in faults if "23925 instructions" not in each.description] == [
        "milestone.criteria"
    ]
    assert faults[-1].description == (
        "has patterns that compile to more than 100,000 instructions together, the most allowed"
    )
    assert len(faults) == 6


def test_classes_are_counted_before_anything_is_compiled(site: Site, compiled: Compiled) -> None:
    with pytest.raises(InvalidInput, match="has 300 Unicode classes; at most 20 are allowed"):
        site.add("m", UserAttribute(key="k", test=FORMS["too many classes"](0)))
    assert compiled.patterns == []


# --- the deadline, and locks --------------------------------------------------------------------------------


def draft(site: Site, criteria: Criterion, deadline: float | None) -> None:
    """Asks for the size of a draft."""
    asked = Draft(journey=JOURNEY, criteria=criteria)
    site.engine.sizes.estimate(asked, deadline=deadline)


def document(criteria: Criterion) -> JourneyDocument:
    """A journey with one milestone."""
    return JourneyDocument(journey="main", milestones=(MilestoneDocument(id="m", criteria=criteria),))


def record(criteria: Criterion, name: str = "") -> Milestone:
    """A milestone to write."""
    return Milestone(name=name, audience="", criteria=criteria)


CALLS: dict[str, Callable[[Site, Criterion, float | None], object]] = {
    "estimate": draft,
    "preview": lambda site, criteria, deadline: site.engine.sizes.preview(
        ACCOUNT, (), [PreviewMilestone(id="m", criteria=criteria)], deadline=deadline
    ),
    "create": lambda site, criteria, deadline: site.engine.milestones.create_milestone(
        JOURNEY, "m", record(criteria), deadline=deadline
    ),
    "update": lambda site, criteria, deadline: site.engine.milestones.update_milestone(
        record(criteria, f"{JOURNEY}/milestones/known"), {"criteria"}, deadline=deadline
    ),
    "update, previewed": lambda site, criteria, deadline: site.engine.milestones.updated(
        record(criteria, f"{JOURNEY}/milestones/known"), {"criteria"}, deadline=deadline
    ),
    "apply": lambda site, criteria, deadline: site.engine.applying.apply(
        ACCOUNT, document(criteria), deadline=deadline
    ),
    "apply, previewed": lambda site, criteria, deadline: site.engine.applying.applied(
        ACCOUNT, document(criteria), deadline=deadline
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_cancelled_call_compiles_nothing_more(call: str, site: Site, compiled: Compiled) -> None:
    site.add("known", Event(name="e"))
    deadline = Deadline(time.monotonic() + 3_600, lambda: len(compiled.patterns) >= 3)
    with pytest.raises(DeadlineExceeded, match="cancelled"):
        CALLS[call](site, criteria_of("small"), deadline)
    assert len(compiled.patterns) == 3
    with pytest.raises(DeadlineExceeded, match="passed"):
        CALLS[call](site, criteria_of("small", first=PATTERNS), time.monotonic() - 1)
    assert len(compiled.patterns) == 3
    assert [
        each.name.rpartition("/")[2] for each in site.engine.milestones.list_milestones(JOURNEY).items
    ] == ["known"]


def test_patterns_of_a_plan_are_compiled_until_the_call_is_cancelled(site: Site, compiled: Compiled) -> None:
    site.update("ann", {"k": "x"})
    criteria = criteria_of("small")
    checked = len(findings([criteria], DEFAULT_LIMITS))
    compiled.patterns.clear()
    deadline = Deadline(time.monotonic() + 3_600, lambda: len(compiled.patterns) >= checked + 10)
    with pytest.raises(DeadlineExceeded, match="cancelled"):
        draft(site, criteria, deadline)
    # Compiling one matcher takes up to three forms of its expression.
    assert checked + 10 <= len(compiled.patterns) < checked + 13


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", FORMS)
def test_drafts_at_the_limits_end_with_little_compiled(
    form: str, shape: str, site: Site, compiled: Compiled
) -> None:
    site.update("ann", {"k": "x"})
    budget = DEFAULT_LIMITS.criteria_instructions_max
    with contextlib.suppress(DeadlineExceeded, InvalidInput):
        draft(site, criteria_of(form, shape), time.monotonic() + 0.2)
    # Each pattern is checked once, and compiled for its plan once, in three forms at most.
    assert sum(max(1, len(each)) for each in compiled.patterns) <= 4 * (budget + 2_000)
    assert len(compiled.patterns) <= 4 * PATTERNS


@pytest.mark.parametrize("call", CALLS)
def test_others_go_on_while_patterns_are_compiled(call: str, site: Site, compiled: Compiled) -> None:
    known = site.add("known", Event(name="e"))
    site.send([("ann", "e")])
    done: list[str] = []

    def others() -> None:
        site.send([("bob", "e")])
        with site.engine.journeys._repository.reading():
            done.append("read")
        with site.engine.journeys._repository.writing():
            done.append("written")
        site.engine.sizes.count(known.name)
        done.append("counted")

    def meanwhile() -> None:
        compiled.meanwhile = lambda: None
        thread = threading.Thread(target=others, daemon=True)
        thread.start()
        thread.join(60)

    compiled.meanwhile = meanwhile
    CALLS[call](site, UserAttribute(key="k", test=Text("matches", f"^{call}$")), None)
    assert done == ["read", "written", "counted"]


def test_a_plan_is_bound_with_its_patterns_compiled(site: Site, compiled: Compiled) -> None:
    """With the state lock held, nothing is compiled."""
    site.update("ann", {"k": "a3"})
    milestone = site.add("m", criteria_of("small"))
    compiled.patterns.clear()
    held: list[bool] = []
    lock: FairLock = vars(site.backend)["_state"]._lock
    compiled.meanwhile = lambda: held.append(lock._owner == threading.get_ident())
    assert site.engine.sizes.count(milestone.name).users == 1
    assert len(held) >= PATTERNS
    assert not any(held)


def test_waiting_for_a_turn_ends_with_the_deadline() -> None:
    cancelled = threading.Event()
    failures: list[str] = []

    def wait() -> None:
        try:
            with compiling(Deadline(time.monotonic() + 3_600, cancelled.is_set)):
                failures.append("had a turn")
        except DeadlineExceeded as error:
            failures.append(str(error))

    with compiling(None):
        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        cancelled.set()
        waiting.join(60)
        assert failures == ["the caller cancelled the call"]
