"""A process that refreshes an audience, changes its members and prints what a watcher is sent, until killed.

    python -m tests.faults.marking DIRECTORY

Each line is a mark (`M cursor reached`) or a change (`C sequence as_of`).
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from pathlib import Path

from engine import Engine
from engine.audiences.model import WatchChanges, WatchProgress, WatchStart
from engine.backends.base import EventRecord
from engine.backends.registry import open_backend
from engine.criteria.model import Event, EventType, Last
from engine.resources.records import Account, Connection, Input, Journey, Milestone, Output, Workspace
from engine.resources.targets import Watch
from engine.values import MICROS_PER_SECOND
from tests.engine.site import ACCOUNT, JOURNEY, WEB, WORKSPACE, items_of

MILESTONE = f"{JOURNEY}/milestones/m"
MARK_MICROS = MICROS_PER_SECOND // 10
ROUND_S = 0.03
WINDOW = Last(duration=MICROS_PER_SECOND)
"""Members leave after a second, without new events."""


def make(engine: Engine) -> None:
    """An account with one audience, which is activated."""
    engine.accounts.create_account("acme", Account(name=""))
    engine.accounts.create_workspace(ACCOUNT, "shop", Workspace(name=""))
    engine.accounts.create_input(WORKSPACE, "web", Input(name=""))
    engine.journeys.create_journey(ACCOUNT, "main", Journey(name=""))
    engine.connections.create_output(ACCOUNT, "watch", Output(name="", target=Watch()))
    record = Milestone(name="", audience="", criteria=Event(name="buy", window=WINDOW))
    milestone = engine.milestones.create_milestone(JOURNEY, "m", record).record
    connection = Connection(name="", audience=milestone.audience, output=f"{ACCOUNT}/outputs/watch")
    engine.connections.activate(engine.connections.create_connection(ACCOUNT, "c", connection).name)


def change(engine: Engine) -> None:
    """Users buy and are erased, with pauses in which nothing happens."""
    for number in itertools.count():
        user = f"u{number % 7}"
        now = time.time_ns() // 1_000
        engine.backend.append(ACCOUNT, [EventRecord(user, WEB, "buy", EventType.CUSTOM, now, {})])
        if number % 3 == 0:
            engine.backend.erase(ACCOUNT, [user])
        time.sleep(0.05 if number % 10 else 0.5)


def refresh(engine: Engine) -> None:
    """Rounds, as the service runs them."""
    while True:
        engine.live.refresh_all()
        time.sleep(ROUND_S)


def main(directory: Path) -> None:
    """Runs until killed."""
    is_new = not directory.exists()
    engine = Engine(open_backend(f"local:{directory}"))
    if is_new:
        make(engine)
    for job in (refresh, change):
        threading.Thread(target=job, args=(engine,), daemon=True).start()
    for item in items_of(engine, WatchStart(MILESTONE), MARK_MICROS):
        match item.update:
            case WatchProgress(cursor, as_of):
                print("M", cursor, as_of, flush=True)
            case WatchChanges(changes):
                for each in changes:
                    print("C", each.sequence, each.as_of, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
