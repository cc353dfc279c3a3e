"""Plans over a cluster have the users that the oracle finds, over random worlds.

Every step of a plan is compared, and not only its roots. `make test-cluster` does so for more worlds, also
over two shards of two replicas.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.engine.backends.clickhouse.campaign import differences
from tests.engine.backends.clickhouse.gateway import Gateway
from tests.oracle.campaign import world_of

pytestmark = pytest.mark.oracle

WORLDS = 15
PREDICATES = {
    *("AttributeMatch", "BucketMatch", "ConsentMatch", "IdentityMatch", "SeenMatch", "SequenceMatch"),
    *("Universe", "UserIdMatch"),
}


def test_every_step_has_the_users_that_the_oracle_finds(gateway: Gateway) -> None:
    seed = random.randrange(2**32)
    kinds: Counter[str] = Counter()
    for number in range(WORLDS):
        found = differences(gateway, world_of(seed, number), random.Random(f"{seed} {number}"), kinds)
        again = (
            f"python -m tests.engine.backends.clickhouse.campaign --seed {seed} --first {number} --worlds 1"
        )
        assert found == [], again
    seen = {kind.partition(" ")[0] for kind in kinds}
    assert seen >= PREDICATES | {"EventMatch"}, "these worlds ask too little"
