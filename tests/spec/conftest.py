"""The two sides that answer questions about a world: the oracle and the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from engine.criteria.model import Criterion
from engine.values import Micros
from tests.oracle.engine_side import EngineSide
from tests.oracle.evaluate import Oracle
from tests.oracle.scene import ASKED, Scene
from tests.oracle.world import World


@dataclass(frozen=True)
class Ask:
    """Asks one of the two. Called with a scene and a criterion it gives the ids of the users in the set."""

    members: Callable[[World], dict[str, frozenset[str]]]

    def __call__(
        self,
        scene: Scene,
        criterion: Criterion,
        *,
        inputs: tuple[str, ...] = (),
        at: Micros | None = None,
    ) -> frozenset[str]:
        return self.members(scene.asking(criterion, inputs=inputs, at=at))[ASKED]


@pytest.fixture(scope="session")
def engine_side(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineSide]:
    """One store for all worlds of the session; every world has its own account."""
    side = EngineSide(tmp_path_factory.mktemp("worlds"))
    yield side
    side.close()


@pytest.fixture(params=["oracle", "engine"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """The oracle, then the engine: both must give the expected answer."""
    if request.param == "oracle":
        return Ask(lambda world: Oracle(world).all_members())
    side: EngineSide = request.getfixturevalue("engine_side")
    return Ask(side.all_members)
