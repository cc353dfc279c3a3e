"""Runs that fail, are killed, lose answers or use other settings, in any order: the counts are those of one
clean run.

A user is simulated who follows the messages, and never says --force. Whatever happened before, in the end
every good row is in the service once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from milepost import Client
from milepost.errors import MilepostError
from milepost.importing import CannotImport, CannotResume, Settings, import_file
from milepost.v1.catalog_service_pb2 import VALUE_KIND_NUMBER, VALUE_KIND_STRING
from tests.clients.importing.command import Target, write_csv

SEED = 20_261_128
WALKS = 15
STEPS = 6
SEGMENT_ROWS = 4

GOOD = Settings(input="w/i")
AS_TEXTS = Settings(input="w/i", kinds={"amount": VALUE_KIND_STRING})
AS_NUMBERS = Settings(input="w/i", kinds={"amount": VALUE_KIND_NUMBER})
FRUITLESS = {
    "time column": Settings(input="w/i", time_column="at"),
    "column": Settings(input="w/i", kinds={"amuont": VALUE_KIND_STRING}),
    "input": Settings(input="w/j"),
    "no time is one": Settings(input="w/i", time_column="name"),
}
FRUITFUL = (GOOD, AS_TEXTS, AS_NUMBERS)


class Killed(BaseException):
    """The end of the process, as far as the import can see."""


def sabotaged(client: Client, draw: random.Random) -> Callable[..., Any]:
    """`Client.import_events` that fails in one of the ways in which calls fail, from some call on."""
    real = client.import_events
    left = draw.randrange(4)
    way = draw.choice(("before", "begun", "answer lost", "killed"))

    def call(batches: Sequence[Any], **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left >= 0:
            return real(batches, **options)
        if way == "before":
            raise OSError("no route")
        list(batches)
        if way == "begun":
            raise Killed
        real(batches, **options)
        raise Killed if way == "killed" else ConnectionError("lost")

    return call


@pytest.mark.parametrize("walk", range(WALKS))
def test_every_row_counts_once_after_interrupted_runs(
    target: Target, tmp_path: Path, walk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(SEED + walk)
    print("seed", SEED + walk)
    has_ids = draw.random() < 0.5
    rows = draw.randrange(1, 24)
    file = write_csv(tmp_path / "e.csv", rows, event_ids=has_ids)
    bad = draw.randrange(3)
    file.write_text(file.read_text() + f",buy,2026-01-01,1{',x' * has_ids}\n" * bad)
    with target.client() as client:

        def attempt(settings: Settings, *, from_start: bool = False) -> bool:
            """Whether the run went through."""
            try:
                import_file(client, file, settings, from_start=from_start, segment_rows=SEGMENT_ROWS)
            except CannotResume as refusal:
                # The message gives a way; --force is what a careful user does not say.
                if refusal.options == ("--from-start",) and not from_start:
                    return attempt(settings, from_start=True)
                assert not has_ids
                return False
            except (CannotImport, MilepostError, OSError, Killed):
                return False
            return True

        for _ in range(draw.randrange(STEPS)):
            if draw.random() < 0.4:
                attempt(draw.choice(list(FRUITLESS.values())))
                continue
            with monkeypatch.context() as patched:
                if draw.random() < 0.7:
                    patched.setattr(client, "import_events", sabotaged(client, draw))
                attempt(draw.choice(FRUITFUL))
        # With the settings of one of the tries it goes through, whichever was taken first.
        went_through = [attempt(settings) for settings in FRUITFUL]
        assert True in went_through
        assert target.events() == rows
        # And with these it stays so.
        for settings in (*FRUITFUL, *FRUITLESS.values()):
            attempt(settings)
        assert target.events() == rows
