"""Groups and the sampling order are secret and fixed."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

import msgspec
import pytest

from engine.audiences.sampling import design_effects, estimated_size
from engine.backends.base import Count, Members, UserRecord
from engine.backends.local.backend import LocalBackend
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.header import read_header, write_header
from engine.backends.local.storage.partition_order import PartitionOrder
from engine.criteria.model import Equals
from engine.plan.model import AttributeMatch, Plan, Universe
from engine.values import PARTITION_COUNT, partition_of
from tests.engine.site import ACCOUNT, NOW, WEB, WORKSPACE

SEED = 20_261_128
USERS = 25_000
"""More users than are always counted."""
TENTH = PARTITION_COUNT // 10


@pytest.mark.parametrize("groups", [1, 4, 16, 64])
@pytest.mark.parametrize("drawn", [True, False])
def test_groups_are_read_one_after_the_other(groups: int, drawn: bool) -> None:
    order = PartitionOrder(groups, SEED, drawn_groups=drawn)
    assert sorted(order.order) == list(range(PARTITION_COUNT))
    assert sorted(order.groups) == list(range(groups))
    size = PARTITION_COUNT // groups
    for at, group in enumerate(order.groups):
        run = order.order[at * size : (at + 1) * size]
        assert order.of_group(group) == set(run)
        assert {int(order.group_of[partition]) for partition in run} == {group}
        assert [int(order.rank_in_group[partition]) for partition in run] == list(range(size))
        if not drawn:
            assert order.of_group(group) == set(range(group * size, (group + 1) * size))
    again = PartitionOrder(groups, SEED, drawn_groups=drawn)
    assert again.order == order.order


def test_seed_decides_the_order() -> None:
    orders = [PartitionOrder(16, seed, drawn_groups=True) for seed in (0, 1, 2**64 - 1)]
    assert len({order.order for order in orders}) == len({order.of_group(0) for order in orders}) == 3
    # Of a sixteenth of the partitions about a sixteenth are common to two orders, by chance.
    assert len(orders[0].of_group(0) & orders[1].of_group(0)) < 16
    kept = {PartitionOrder(16, seed, drawn_groups=False).groups for seed in range(20)}
    assert len(kept) == 20


# --- stores -------------------------------------------------------------------------------------------------


def made_before(directory: Path) -> None:
    """A store of the previous version, without users."""
    LocalBackend.open(directory).close()
    for part in ("log", "index"):
        environment = Environment(directory / part)
        with environment.writing() as txn:
            header = read_header(txn)
            assert header is not None
            assert header.drawn_groups
            write_header(txn, msgspec.structs.replace(header, drawn_groups=False))
        environment.close()


def fill(backend: LocalBackend) -> None:
    """Users with an attribute that follows the public hash of their ids: true in a tenth of the partitions,
    those with the lowest numbers.
    """
    for first in range(0, USERS, 5_000):
        ids = [f"user-{number}" for number in range(first, first + 5_000)]
        backend.append(ACCOUNT, [UserRecord(i, WEB, NOW, {"bucket": partition_of(i) < TENTH}) for i in ids])


def test_attribute_derived_from_the_id_hash_does_not_bias_the_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In numeric order the first partitions would contain only members."""
    monkeypatch.setattr(secrets, "randbits", lambda bits: SEED)
    backend = LocalBackend.open(tmp_path / "store")
    fill(backend)
    steps = (
        Universe(inputs=(WEB,)),
        AttributeMatch(workspaces=(WORKSPACE,), key="bucket", test=Equals(True)),
    )
    plan = Plan(account=ACCOUNT, as_of=NOW, steps=steps, roots=(1, 0))
    true = backend.execute(plan, Count()).sizes[0]
    for partitions in (64, 128, 256, 512):
        counts = backend.execute(plan, Count(), partitions=backend.sample_partitions(partitions))
        hits, sampled = counts.sizes
        (effect,) = design_effects(counts.blocks, 1)
        size = estimated_size(hits, sampled, USERS, effect)
        assert size.lower <= true <= size.upper
        # A partition counts as one user, about, of whom there are 24 in each.
        assert 12 < effect < 48
        assert size.upper - size.lower > 3 * (estimated_size(hits, sampled, USERS).upper - size.users)
    backend.close()


def test_older_store_keeps_its_groups(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made_before(tmp_path / "store")
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="engine.backends.local.roles.lifetime"):
        backend = LocalBackend.open(tmp_path / "store")
    assert "only the order in which they are sampled is drawn" in caplog.text
    fill(backend)
    for restarted in (False, True):
        if restarted:
            backend.close()
            backend = LocalBackend.open(tmp_path / "store")
        first = backend.sample_partitions(64)
        assert sorted(first) == list(range(min(first), min(first) + 64))
        plan = Plan(account=ACCOUNT, as_of=NOW, steps=(Universe(inputs=(WEB,)),), roots=(0,))
        members = backend.execute(plan, Members(), partitions=first).user_ids
        assert sorted(members) == sorted(
            user_id for user_id in map("user-{}".format, range(USERS)) if partition_of(user_id) in set(first)
        )
    backend.close()
