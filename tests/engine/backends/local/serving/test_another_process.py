"""Another process never answers from before a write that was acknowledged, whatever goes on beside it."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.resources.records import Milestone
from tests.engine.backends.local.serving.test_serving import GOLD, Served, edit
from tests.engine.site import ACCOUNT, did

WRITES = 200
USERS = 8
BATCH = 200
PAUSE_S = 0.005


class Asked:
    """A reader in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def member(self, milestone: Milestone, user_id: str) -> bool | None:
        """Its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{milestone.audience} {user_id}\n")
        self._process.stdin.flush()
        return {"True": True, "False": False, "None": None}[self._process.stdout.readline().strip()]


@contextmanager
def asking(site: Served) -> Iterator[Asked]:
    descriptor = site.writer.descriptor
    with subprocess.Popen(
        [sys.executable, "-m", "tests.engine.backends.local.serving.asking", str(descriptor)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[descriptor],
    ) as process:
        try:
            # Until then the time that the writer gives may become too old.
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield Asked(process)
        finally:
            process.kill()


@contextmanager
def meanwhile(*tasks: Callable[[], object]) -> Iterator[None]:
    """Repeats tasks in threads of their own; fails if one of them does."""
    over = threading.Event()
    failures: list[BaseException] = []

    def repeat(task: Callable[[], object]) -> None:
        while not over.wait(PAUSE_S):
            try:
                task()
            except BaseException as failure:
                failures.append(failure)
                raise

    threads = [threading.Thread(target=repeat, args=[task]) for task in tasks]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not failures


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path / "store")
    yield served
    served.close()


def test_no_answer_is_from_before_an_acknowledged_write(site: Served) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    gold = site.add("gold", GOLD)
    site.connect(gold)
    numbers, tick = itertools.count(), itertools.count(1)
    answers = {True: 0, False: 0, None: 0}

    def others_come() -> None:
        site.send([(f"other-{next(numbers)}", "visit") for _ in range(BATCH)])

    def others_go() -> None:
        known = next(numbers)
        site.backend.erase(ACCOUNT, [f"other-{known - BATCH}"])

    def refreshed() -> None:
        site.tick()
        site.refresh()

    with asking(site) as reader, meanwhile(refreshed, others_come, others_go):
        for _ in range(WRITES):
            user_id, is_gold = f"user-{rng.randrange(USERS)}", rng.random() < 0.5
            if rng.random() < 0.1:
                site.backend.erase(ACCOUNT, [user_id])
                is_gold = False
            else:
                plan = "gold" if is_gold else "tin"
                site.update(user_id, {"plan": plan}, time=site.clock.now - 10**9 + next(tick))
            for _ in range(rng.randint(1, 3)):
                answer = reader.member(gold, user_id)
                assert answer in (None, is_gold), (user_id, is_gold)
                answers[answer] += 1
    site.tick()
    site.refresh()
    with asking(site) as reader:
        for number in range(USERS):
            user_id = f"user-{number}"
            site.tick()
            assert reader.member(gold, user_id) == site.engine.members.check(gold.audience, user_id).member


def test_no_answer_is_of_a_definition_from_before_an_acknowledged_edit(site: Served) -> None:
    gold = site.add("gold", GOLD)
    site.update("ada", {"plan": "gold"})
    site.connect(gold)
    answered = 0

    def refreshed() -> None:
        site.tick()
        site.refresh()

    with asking(site) as reader, meanwhile(refreshed):
        for is_member in itertools.islice(itertools.cycle([False, True]), 60):
            edit(site, gold, GOLD if is_member else did("visit"))
            for _ in range(20):
                answer = reader.member(gold, "ada")
                assert answer in (None, is_member)
                answered += answer is not None
    assert answered
