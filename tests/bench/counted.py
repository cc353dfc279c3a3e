"""What `tests.bench.instructions` counts: runs in Callgrind over a store that was filled before.

python -m tests.bench.counted STORE
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path

from engine import Engine, process_memory
from engine.audiences.model import SavedTarget
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.values import MICROS_PER_SECOND
from tests.bench import synthetic
from tests.bench.callgrind import Callgrind
from tests.bench.criteria import ask_ours
from tests.bench.instructions_world import DEEPEST, EVENTS_LATER, QUESTIONS, SCALE, late_events
from tests.bench.questions import Form, Turn, forms

WARM_TURNS = 3
"""Turns before the one that is counted as warm."""

MAP_BYTES = 1 << 30
"""Valgrind leaves no room for the default."""
NEVER_S = 86_400.0
"""Interval of what goes on beside, so that it is not counted."""


def main(store: Path) -> None:
    """Runs everything that is counted, once."""
    process_memory.POLL_SECONDS = NEVER_S
    callgrind = Callgrind()
    backend = LocalBackend.open(store, settings=LocalSettings(checkpoint_s=NEVER_S, map_bytes=MAP_BYTES))
    backend.wait_until_checked()
    engine = Engine(backend, clock=lambda: synthetic.NOW)
    gc.collect()
    gc.disable()
    for form in forms():
        if form.name in QUESTIONS:
            _count_question(callgrind, backend, form)
    _count(callgrind, "check of one user", lambda turn: engine.members.check(DEEPEST, f"u{turn * 977}"))
    _count(
        callgrind,
        "estimate of a milestone",
        lambda turn: engine.sizes.estimate(
            SavedTarget(DEEPEST), as_of=synthetic.NOW + turn * MICROS_PER_SECOND
        ),
    )
    world = synthetic.draw(SCALE)
    _count(
        callgrind,
        f"ingest of {EVENTS_LATER:,} events",
        lambda turn: backend.append_columns(synthetic.ACCOUNT, late_events(world, turn)),
    )
    backend.close()


def _count_question(callgrind: Callgrind, backend: LocalBackend, form: Form) -> None:
    """The first time, and when it is warm: each turn at another instant or with other operands."""
    for number in range(WARM_TURNS + 1):
        turn = Turn(number)
        question = form.ask(turn)
        if number in (0, WARM_TURNS):
            with callgrind.counting(f"{form.name}, {'warm' if number else 'first'}"):
                ask_ours(backend, question, turn)
        else:
            ask_ours(backend, question, turn)


def _count(callgrind: Callgrind, name: str, run: Callable[[int], object]) -> None:
    for turn in range(1, WARM_TURNS + 1):
        run(turn)
    with callgrind.counting(name):
        run(WARM_TURNS + 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
