"""What readers answer from shared memory is what the evaluator answers, or nothing."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.audiences.live import STORED_AGE_MICROS_MAX
from engine.backends import registry
from engine.backends.base import MEMBER, NOT_MEMBER, UNDECIDED, ServingReader, ServingWriter
from engine.backends.local.serving.reader import LocalServingReader
from engine.criteria.model import AllOf, Criterion, Equals, Event, Last, UserAttribute
from engine.errors import DataLoss
from engine.resources.records import Journey, Milestone
from engine.values import MICROS_PER_HOUR, MICROS_PER_SECOND
from tests.engine.site import ACCOUNT, Site, did

STEPS = 120
USERS = tuple(f"user-{number}" for number in range(24))
GOLD = UserAttribute(key="plan", test=Equals("gold"))
BOUGHT_LATELY = Event(name="buy", window=Last(duration=10 * MICROS_PER_SECOND))


class Served(Site):
    """A site whose memberships are served, and a reader of them."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._serve()

    @classmethod
    def reopen(cls, site: Site) -> Served:
        """The store of a site that was closed, served."""
        again = cls.__new__(cls)
        vars(again).update(vars(site))
        again.open()
        again._serve()
        return again

    def _serve(self) -> None:
        tools = registry.registration("local").serving
        assert tools is not None
        self.writer: ServingWriter = tools.writer(self.backend)
        self.reader: ServingReader = tools.reader(os.dup(self.writer.descriptor), STORED_AGE_MICROS_MAX)
        self.engine.serve_with(self.writer)
        self.tick()

    def tick(self) -> None:
        self.writer.keep_time(self.clock.now)

    def refresh(self) -> None:
        self.engine.live.refresh_all()

    def member(self, milestone: Milestone, user_id: str) -> bool | None:
        """The reader's answer."""
        answer = self.reader.contains(milestone.audience, user_id)
        return None if answer is None else answer.member

    def flags(self, milestone: Milestone, user_ids: Sequence[str]) -> list[int]:
        """The reader's answers for many users."""
        many = self.reader.contains_many(ACCOUNT, [milestone.audience], user_ids)
        assert many is not None
        return many.flags[:, 0].tolist()  # type: ignore[no-any-return]

    def close(self) -> None:
        self.writer.close()
        self.engine.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    site = Served(tmp_path / "store")
    yield site
    site.close()


def reading(site: Served) -> ServingReader:
    """The reader, which has just been given the time: a slow machine makes it too old."""
    site.tick()
    return site.reader


def edit(site: Site, milestone: Milestone, criteria: Criterion) -> None:
    record = Milestone(name=milestone.name, audience="", criteria=criteria)
    site.engine.milestones.update_milestone(record, {"criteria"})


def agree(site: Served, milestones: list[Milestone]) -> int:
    """Checks every answer against the evaluator, and returns how many there were."""
    answered = 0
    names = [name for milestone in milestones for name in (milestone.audience, milestone.name)]
    for name in names:
        for user_id in USERS:
            # As the service does, however long this takes.
            site.tick()
            answer = site.reader.contains(name, user_id)
            if answer is not None:
                answered += 1
                truth = site.engine.members.check(name, user_id, as_of=answer.as_of)
                assert answer.member == truth.member, (name, user_id)
                assert answer.revision == site.backend.revision()
    for milestone in milestones:
        site.tick()
        many = site.reader.contains_many(ACCOUNT, [milestone.audience, milestone.name], USERS)
        if many is not None:
            for user_id, row in zip(USERS, many.flags.tolist(), strict=True):
                site.tick()
                alone = site.reader.contains(milestone.name, user_id)
                assert row == [UNDECIDED if alone is None else MEMBER if alone.member else NOT_MEMBER] * 2
    return answered


def test_every_answer_is_the_evaluators(served: Served) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    gold, lately = served.add("gold", GOLD), served.add("lately", BOUGHT_LATELY)
    both = served.add("both", AllOf(criteria=(GOLD, did("visit"))), parent=gold.name)
    milestones = [gold, lately, both]
    for milestone in milestones:
        served.connect(milestone, milestone.name.rpartition("/")[2])
    answered = 0
    for _ in range(STEPS):
        users = rng.sample(USERS, rng.randint(1, 4))
        match rng.randrange(10):
            case 0 | 1:
                served.send([(user, rng.choice(["buy", "visit"])) for user in users], time=served.clock.now)
            case 2 | 3:
                plan = rng.choice(["gold", "tin", None])
                served.update(users[0], {"plan": plan}, time=served.clock.now)
            case 4:
                served.backend.erase(ACCOUNT, users[:2])
            case 5 if len(users) > 1 and rng.random() < 0.1:
                served.backend.alias(ACCOUNT, f"alias-{rng.random()}", users[0])
            case 6 if rng.random() < 0.3:
                edit(served, gold, rng.choice([GOLD, did("visit"), AllOf(criteria=())]))
            case 7:
                served.clock.now += rng.choice([1, MICROS_PER_SECOND, 7 * MICROS_PER_SECOND])
                served.tick()
            case _:
                served.refresh()
        answered += agree(served, milestones)
    served.refresh()
    assert agree(served, milestones) >= len(USERS)
    assert answered > STEPS


def test_a_write_is_seen_before_the_next_refresh(served: Served) -> None:
    gold = served.add("gold", GOLD)
    served.update("ada", {"plan": "gold"})
    served.update("bob", {"plan": "tin"})
    served.connect(gold)
    served.refresh()
    assert served.member(gold, "ada") is True
    served.update("ada", {"plan": "tin"}, time=served.clock.now + 1)
    assert served.member(gold, "ada") is None
    assert served.member(gold, "bob") is False
    assert served.reader.revision() == served.backend.revision()
    served.refresh()
    assert served.member(gold, "ada") is False


def test_data_that_no_audience_reads_leave_a_user_undecided_for_one_round(served: Served) -> None:
    """Its journey has nothing to refresh, but readers see that the user was touched."""
    gold = served.add("gold", GOLD)
    served.update("ada", {"plan": "gold"})
    served.connect(gold)
    served.refresh()
    served.send([("ada", "unread")])
    assert served.backend.pending(gold.name.partition("/milestones/")[0]) == 0
    assert served.member(gold, "ada") is None
    served.refresh()
    assert served.member(gold, "ada") is True


def test_audiences_that_hold_for_different_instants_are_not_answered_together(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round fails for one of two journeys that depend on time: alone each answers, together they do not."""
    other = f"{ACCOUNT}/journeys/other"
    served.engine.journeys.create_journey(ACCOUNT, "other", Journey(name=""))
    milestones = [served.add("m", BOUGHT_LATELY), served.add("m", BOUGHT_LATELY, journey=other)]
    for number, milestone in enumerate(milestones):
        served.connect(milestone, f"c{number}")
    names = [milestone.audience for milestone in milestones]
    served.send([("ada", "buy")])
    served.refresh()
    assert served.reader.contains_many(ACCOUNT, names, ["ada"]) is not None
    served.send([("bob", "buy")])
    evaluate = served.backend._evaluate  # type: ignore[attr-defined]

    def failing(asked: Any, *rest: Any) -> None:
        if asked.scope == other:
            raise DataLoss("a value is corrupt")
        evaluate(asked, *rest)

    monkeypatch.setattr(served.backend, "_evaluate", failing)
    served.clock.now += MICROS_PER_SECOND
    served.tick()
    with pytest.raises(DataLoss):
        served.refresh()
    assert served.reader.contains_many(ACCOUNT, names, ["ada"]) is None
    assert [served.member(milestone, "ada") for milestone in milestones] == [True, True]
    checked = served.engine.members.batch_check(ACCOUNT, ["ada"], names)
    assert checked.as_of == served.clock.now


def test_an_unknown_user_is_in_no_audience_until_it_has_data(served: Served) -> None:
    gold = served.add("gold", GOLD)
    served.update("ada", {"plan": "gold"})
    served.connect(gold)
    served.refresh()
    assert served.member(gold, "stranger") is False
    served.update("stranger", {"plan": "gold"})
    assert served.member(gold, "stranger") is None
    served.refresh()
    assert served.member(gold, "stranger") is True


def test_an_edit_ends_the_answers_at_once(served: Served) -> None:
    gold = served.add("gold", GOLD)
    served.update("ada", {"plan": "gold"})
    served.connect(gold)
    served.refresh()
    many = served.reader.contains_many(ACCOUNT, [gold.audience], ["ada"])
    assert many is not None
    assert served.reader.is_current(many)
    edit(served, gold, did("visit"))
    assert served.member(gold, "ada") is None
    assert not served.reader.is_current(many)
    served.refresh()
    assert served.member(gold, "ada") is False


def test_nothing_is_answered_for_a_deactivated_audience(served: Served) -> None:
    gold = served.add("gold", GOLD)
    served.update("ada", {"plan": "gold"})
    connection = served.connect(gold)
    served.refresh()
    assert served.member(gold, "ada") is True
    served.engine.connections.deactivate(connection.name)
    served.refresh()
    assert served.member(gold, "ada") is None


def test_windows_are_answered_for_no_longer_than_they_are_fresh(served: Served) -> None:
    lately = served.add("lately", BOUGHT_LATELY)
    served.send([("ada", "buy")])
    served.connect(lately)
    served.refresh()
    assert served.member(lately, "ada") is True
    served.clock.now += STORED_AGE_MICROS_MAX + MICROS_PER_SECOND
    served.tick()
    assert served.member(lately, "ada") is None
    served.refresh()
    answer = served.reader.contains(lately.audience, "ada")
    assert answer is not None
    assert (answer.member, answer.as_of) == (True, served.clock.now)
    served.clock.now -= MICROS_PER_HOUR
    served.tick()
    assert served.member(lately, "ada") is None


def test_an_erased_user_that_comes_again_is_another(served: Served) -> None:
    gold = served.add("gold", GOLD)
    served.update("ada", {"plan": "gold"})
    served.connect(gold)
    served.refresh()
    served.backend.erase(ACCOUNT, ["ada"])
    assert served.member(gold, "ada") is False
    served.update("ada", {"plan": "gold"})
    assert served.member(gold, "ada") is None
    served.refresh()
    assert served.member(gold, "ada") is True


def test_an_alias_is_not_mistaken_for_an_unknown_user(served: Served) -> None:
    gold = served.add("gold", GOLD)
    served.update("ada", {"plan": "gold"})
    served.update("bob", {"plan": "tin"})
    served.connect(gold)
    served.refresh()
    assert served.member(gold, "also-ada") is False
    served.backend.alias(ACCOUNT, "also-ada", "ada")
    assert served.member(gold, "also-ada") in (None, True)
    served.refresh()
    assert served.member(gold, "also-ada") in (None, True)
    assert served.member(gold, "bob") is False


def test_many_users_make_the_tables_grow(served: Served) -> None:
    gold = served.add("gold", GOLD)
    served.update("ada", {"plan": "gold"})
    served.connect(gold)
    served.refresh()
    for start in range(0, 20_000, 5_000):
        served.send([(f"u{number}", "visit") for number in range(start, start + 5_000)])
        ids = [f"u{number}" for number in range(0, start + 5_000, 97)]
        *others, ada = served.flags(gold, [*ids, "ada"])
        assert ada == MEMBER
        assert set(others) <= {UNDECIDED, NOT_MEMBER}
        assert others[-1] == UNDECIDED
        served.refresh()
        *others, ada = served.flags(gold, [*ids, "ada"])
        assert (set(others), ada) == ({NOT_MEMBER}, MEMBER)


def test_users_from_before_the_start_are_found(tmp_path: Path) -> None:
    site = Site(tmp_path / "store")
    gold = site.add("gold", GOLD)
    site.update("ada", {"plan": "gold"})
    site.send([(f"u{number}", "visit") for number in range(5_000)])
    site.connect(gold)
    site.engine.close()
    again = Served.reopen(site)
    again.refresh()
    assert again.flags(gold, ["ada", "u17", "nobody"]) == [MEMBER, NOT_MEMBER, NOT_MEMBER]
    again.close()


def test_a_reader_keeps_members_only_of_what_is_served(served: Served) -> None:
    """Otherwise it would hold the members of every journey that there ever was."""
    assert isinstance(served.reader, LocalServingReader)
    kept = served.add("kept", GOLD)
    gone = served.add("gone", GOLD, parent=kept.name)
    served.update("ada", {"plan": "gold"})
    served.connect(kept, "kept")
    sending = served.connect(gone, "gone")
    served.refresh()
    assert (served.member(kept, "ada"), served.member(gone, "ada")) == (True, True)
    assert bitmaps(served.reader) == 2
    served.engine.connections.deactivate(sending.name)
    served.refresh()
    assert (served.member(kept, "ada"), served.member(gone, "ada")) == (True, None)
    assert bitmaps(served.reader) == 1
    served.engine.connections.deactivate(sending.name.replace("gone", "kept"))
    served.refresh()
    assert served.member(kept, "ada") is None
    assert bitmaps(served.reader) == 0


def bitmaps(reader: LocalServingReader) -> int:
    """Number of bitmaps that a reader keeps."""
    return sum(len(scope._bitmaps) for scope in reader._scopes)


def test_nothing_is_answered_once_the_writer_has_closed(tmp_path: Path) -> None:
    site = Served(tmp_path / "store")
    gold = site.add("gold", GOLD)
    site.update("ada", {"plan": "gold"})
    site.connect(gold)
    site.refresh()
    assert site.member(gold, "ada") is True
    site.close()
    assert site.member(gold, "ada") is None
    assert site.reader.contains_many(ACCOUNT, [gold.audience], ["ada"]) is None


def test_keys_are_read_as_put_last(served: Served) -> None:
    served.writer.put_keys(b"one")
    version, keys = served.reader.keys()
    assert (keys, served.reader.keys_version()) == (b"one", version)
    served.writer.put_keys(b"another")
    assert served.reader.keys_version() != version
    assert served.reader.keys()[1] == b"another"
