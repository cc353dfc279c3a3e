"""A store damaged in one byte at a time, over all kinds of keys, values, pages, logs and headers.

    python -m tests.faults.damage --flips 300 --seed 7

For each flip the byte is changed in the file, and in a separate process 1. the store is verified; 2. it
is opened and asked everything that can be asked, backed up, written to, checkpointed, opened again and asked
   again. Every answer must be that of the undamaged store, or an expected error; a
   backup must be refused or have the same content.

So a flip ends as *refused* (the store does not open, with a message), *errors* (some calls are refused, all
others are right), *right* (all of them), *wrong* or *crashed*. Verification has to *find* the damage, or all
keys and values are what they were (*equal*). Exits with 1 when an answer was wrong, a process crashed, or
damage was missed that is not harmless.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pickle
import random
import secrets
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import lmdb

from engine.backends.base.upkeep import StoreFault
from engine.backends.local import offline
from engine.backends.local.backend import LocalBackend
from engine.errors import MilepostError
from tests.faults.damage_spans import Span, spans_by_kind
from tests.faults.damage_world import SETTINGS, Ask, make, questions, writes

SEED_BITS = 32
FLIPS = 300
PLACE_SECONDS_MAX = 120
PROGRESS_FLIPS = 25

FILES = ("index/data.mdb", "log/data.mdb", "lock")
OUTCOMES = ("refused", "errors", "right", "wrong", "crashed")
VERDICTS = ("found", "equal", "missed")


@dataclass(frozen=True)
class Flip:
    """A byte of a file, and what is added to it, modulo 256, by XOR."""

    kind: str
    file: str
    at: int
    bits: int


@dataclass
class Observed:
    """What a store answered: by step and question the text of the answer, or that it was refused."""

    answers: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    unmeant: dict[str, str] = field(default_factory=dict)
    """Unexpected errors."""
    found: str = ""
    """The first finding of the verification; "" when there is none."""
    is_equal: bool = False
    """Whether every key and value is unchanged."""


@dataclass(frozen=True)
class Ended:
    """How a flip ended, with details."""

    flip: Flip
    outcome: str
    verdict: str
    detail: str

    @property
    def is_bad(self) -> bool:
        """Whether this outcome is a failure."""
        return self.outcome in ("wrong", "crashed") or self.verdict == "missed"


class Campaign:
    """One store, damaged repeatedly."""

    def __init__(self, room: Path, seed: int) -> None:
        self._room = room
        self._source = random.Random(seed)
        make(room)
        self._content = content_of(room / "store")
        self._files = {file: (room / "store" / file).read_bytes() for file in FILES}
        self._kinds = spans_by_kind(room / "store")
        reference = self._observed(None)
        assert isinstance(reference, Observed), reference
        assert not reference.errors, reference.errors
        assert not reference.unmeant, reference.unmeant
        assert reference.is_equal
        assert not reference.found, reference.found
        self._reference = reference

    @property
    def spans(self) -> dict[str, list[Span]]:
        """All bytes, by kind."""
        return self._kinds

    def flips(self, count: int) -> Iterator[Flip]:
        """Flips of all kinds in turn, in an order that is drawn again each time."""
        kinds: list[str] = []
        for _ in range(count):
            kinds = kinds or self._source.sample(list(self._kinds), len(self._kinds))
            kind = kinds.pop()
            span: Span = self._source.choice(self._kinds[kind])
            yield Flip(
                kind, span.file, self._source.randrange(span.start, span.end), self._source.randrange(1, 256)
            )

    def play(self, flip: Flip) -> Ended:
        """Applies the flip and returns the outcome."""
        seen = self._observed(flip)
        if isinstance(seen, str):
            return Ended(flip, "crashed", "found", seen)
        wrong = {
            at: f"{answer[:200]} instead of {self._reference.answers[at][:200]}"
            for at, answer in seen.answers.items()
            if answer != self._reference.answers[at]
        }
        verdict = "found" if seen.found else "equal" if seen.is_equal else "missed"
        if wrong or seen.unmeant:
            at, what = next(iter({**wrong, **seen.unmeant}.items()))
            return Ended(flip, "wrong", verdict, f"{at}: {what}")
        outcome = "right" if not seen.errors else "refused" if "open" in seen.errors else "errors"
        detail = next(iter(seen.errors.values()), seen.found)
        return Ended(flip, outcome, verdict, detail)

    def _observed(self, flip: Flip | None) -> Observed | str:
        """The outcome of a separate process; a text when it did not finish."""
        for file, content in self._files.items():
            # Overwrite the files: the lock file tells a store from a copy.
            (self._room / "store" / file).write_bytes(content)
        read, write = os.pipe()
        process = os.fork()
        if not process:
            _as_child(read, write, lambda: observe(self._room, flip, self._content))
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            told = pipe.read()
        _, status = os.waitpid(process, 0)
        if not told:
            return f"ended with status {status}"
        seen: Observed = pickle.loads(told)
        return seen


def _as_child(read: int, write: int, work: object) -> None:
    """Does the work, reports the outcome, and ends this process."""
    os.close(read)
    signal.alarm(PLACE_SECONDS_MAX)
    try:
        seen = work()  # type: ignore[operator]
        with os.fdopen(write, "wb") as pipe:
            pipe.write(pickle.dumps(seen))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def observe(room: Path, flip: Flip | None, content: dict[str, dict[bytes, bytes]]) -> Observed:
    """Damages the store and runs all questions."""
    store = room / "store"
    seen = Observed()
    with tempfile.TemporaryDirectory(dir=room) as directory:
        if flip is not None:
            damage(store, flip)
        seen.found = verified(store)
        if not seen.found:
            seen.is_equal = content_of(store) == content
        first = _opened(seen, "open", store)
        if first is None:
            return seen
        _ask(seen, "first", first, questions())
        _back_up(seen, first, Path(directory) / "backup", content)
        _ask(seen, "written", first, writes())
        first.close()
        if any(at.startswith("written") for at in seen.errors):
            # What follows depends on what could be written.
            return seen
        again = _opened(seen, "open again", store)
        if again is not None:
            _ask(seen, "again", again, questions())
            again.close()
        return seen


def _opened(seen: Observed, at: str, directory: Path) -> LocalBackend | None:
    try:
        return LocalBackend.open(directory, settings=SETTINGS)
    except MilepostError as error:
        seen.errors[at] = error.message
    except Exception:
        seen.unmeant[at] = traceback.format_exc()
    return None


def _ask(seen: Observed, step: str, backend: LocalBackend, asked: dict[str, Ask]) -> None:
    for name, ask in asked.items():
        at = f"{step}: {name}"
        try:
            seen.answers[at] = repr(ask(backend))
        except MilepostError as error:
            seen.errors[at] = f"{error.reason} {error.message}"
        except Exception:
            seen.unmeant[at] = traceback.format_exc()


def _back_up(
    seen: Observed, backend: LocalBackend, directory: Path, content: dict[str, dict[bytes, bytes]]
) -> None:
    at = "backup"
    try:
        backend.snapshot(directory)
        seen.answers[at] = repr(content_of(directory) == content and not verified(directory))
    except MilepostError as error:
        seen.errors[at] = error.message
    except Exception:
        seen.unmeant[at] = traceback.format_exc()


def damage(directory: Path, flip: Flip) -> None:
    """Changes the byte in the file."""
    with (directory / flip.file / "data.mdb").open("r+b") as file:
        file.seek(flip.at)
        before = file.read(1)[0]
        file.seek(flip.at)
        file.write(bytes([before ^ flip.bits]))


def verified(directory: Path) -> str:
    """The first fault of a store; "" when there is none."""
    try:
        for finding in offline.verify_store(directory):
            if isinstance(finding, StoreFault):
                return f"{finding.family} {finding.key} {finding.description}"
    except MilepostError as error:
        return error.message
    return ""


def content_of(directory: Path) -> dict[str, dict[bytes, bytes]]:
    """Every key and value of a store, but for the number of the last commit, which differs in a copy."""
    content = {}
    for name in ("index", "log"):
        environment = lmdb.open(str(directory / name), readonly=True, lock=False)
        with environment.begin() as txn:
            content[name] = {
                bytes(key): bytes(value) for key, value in txn.cursor() if bytes(key) != b"\x01commit"
            }
        environment.close()
    return content


# --- the command --------------------------------------------------------------------------------------------


def table(ended: Sequence[Ended]) -> str:
    """How flips ended, by kind."""
    counts: dict[str, Counter[str]] = {}
    for each in ended:
        counts.setdefault(each.flip.kind, Counter()).update(("flips", each.outcome, each.verdict))
    columns = ("flips", *OUTCOMES, *VERDICTS)
    width = max(map(len, counts))
    lines = [f"{'kind':{width}}" + "".join(f"{column:>9}" for column in columns)]
    for kind, found in sorted(counts.items()):
        lines.append(f"{kind:{width}}" + "".join(f"{found[column] or '':>9}" for column in columns))
    total: Counter[str] = sum(counts.values(), Counter())
    lines.append(f"{'all':{width}}" + "".join(f"{total[column]:>9}" for column in columns))
    return "\n".join(lines)


def _play(job: tuple[Path, int, int]) -> list[Ended]:
    room, seed, count = job
    room.mkdir(parents=True, exist_ok=True)
    campaign = Campaign(room, seed)
    ended = []
    for number, flip in enumerate(campaign.flips(count), 1):
        ended.append(campaign.play(flip))
        if ended[-1].is_bad:
            print(f"BAD {ended[-1]}", flush=True)
        if number % PROGRESS_FLIPS == 0:
            print(f"seed {seed}: {number} flips of {count}", flush=True)
    return ended


def main() -> int:
    """Runs the campaign and prints its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--flips", type=int, default=FLIPS)
    parser.add_argument("--seed", type=int, default=secrets.randbits(SEED_BITS))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="where the stores are made, instead of below /tmp")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as room:
        each = -(-arguments.flips // arguments.jobs)
        jobs = [(Path(room) / str(at), arguments.seed + at, each) for at in range(arguments.jobs)]
        if len(jobs) == 1:
            found = [_play(jobs[0])]
        else:
            with multiprocessing.get_context("spawn").Pool(len(jobs)) as pool:
                found = pool.map(_play, jobs)
    ended = [each for of_job in found for each in of_job]
    print(table(ended))
    bad = [each for each in ended if each.is_bad]
    print(f"{len(ended)} flips, seed {arguments.seed}: {len(bad)} wrong, crashed or missed")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
