"""The questions of the criteria table at a small scale: the engine agrees with DuckDB."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from engine.backends.local.backend import LocalBackend
from tests.bench import synthetic
from tests.bench.criteria import ask_ours, fill
from tests.bench.peers.duckdb_peer import DuckdbPeer
from tests.bench.questions import Form, Turn, forms

SCALE = synthetic.Scale(users=2_000, events=40_000)
TURNS = (Turn(0), Turn(7))


@dataclass(frozen=True)
class Stores:
    ours: LocalBackend
    duckdb: DuckdbPeer


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    directory = tmp_path_factory.mktemp("criteria")
    users, events = synthetic.write_parquet(synthetic.draw(SCALE), directory)
    fill(directory / "ours", SCALE)
    stores = Stores(LocalBackend.open(directory / "ours"), DuckdbPeer(directory / "duckdb"))
    stores.duckdb.load(users, events)
    yield stores
    stores.ours.close()
    stores.duckdb.close()


@pytest.mark.parametrize(
    "form", [form for form in forms() if form.ask(TURNS[0]).duckdb], ids=lambda f: f.name
)
def test_answers_equal_duckdb(stores: Stores, form: Form) -> None:
    for turn in TURNS:
        question = form.ask(turn)
        answers = {way: stores.duckdb.number(sql) for way, sql in question.duckdb.items()}
        assert answers == dict.fromkeys(answers, ask_ours(stores.ours, question, turn))


def test_a_scale_gives_the_same_world_each_time() -> None:
    first, second = synthetic.draw(SCALE), synthetic.draw(SCALE)
    assert all(
        (getattr(first.events, name) == getattr(second.events, name)).all()
        for name in ("user", "time", "cents")
    )
    other = synthetic.draw(synthetic.Scale(users=SCALE.users, events=SCALE.events, seed=1))
    assert (first.events.user != other.events.user).any()
