"""Kills the service while it delivers, and checks what arrives.

    python -m tests.faults.delivery_campaign --kind webhook --changes 1000000 --kills 50 --seed 7

Users enter and leave an audience that a connection delivers to a receiver of the kind, on a real server.
While changes are on their way the service gets SIGKILL, and starts again on its store. Every change has to
arrive, in order, once or again within the batch that was under way; in the end the receiver's fold is the
membership. Then the connection is deactivated, and the service is killed while the exits of all members are
on their way. The seed chooses when the service is killed and what the receiver fails, but not where exactly a
process ends.
"""

from __future__ import annotations

import argparse
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from milepost import Client, make_user_update
from milepost.cli.service_process import ServiceProcess
from milepost.criteria import attribute
from milepost.v1.connection_pb2 import CONNECTION_STATE_ACTIVE, Batching
from milepost.values import to_duration
from tests.faults.delivery_ledger import DeliveryLedger
from tests.faults.delivery_receivers import RECEIVERS, UNREAD_CHANGES_MAX, Receiver

ACCOUNT_ID = "deliveries"
BATCH_CHANGES = 500
BATCH_AGE_S = 0.05
KILL_DELAY_S_MAX = 0.05
SEED_BITS = 32
CHANGES = 1_000_000
KILLS = 50
EXIT_KILLS_DIVISOR = 10
"""Kills while changes are delivered, for each further kill while exits are."""
POLL_S = 0.05
STALLED_S = 120.0
"""A guard: nothing takes that long to arrive."""
FLAGS = ("--log-level", "error", "--refresh-interval-ms", "20", "--retry-budget-s", "1d")
BACKLOG_BATCHES = 4
UNREAD_MAX = 20_000
"""Changes that wait to be read, unless the kind of receiver allows fewer."""
USER_BATCHES = 2 * BACKLOG_BATCHES
"""A user moves again once its last change has arrived, so every move is a change."""


class CampaignFailed(Exception):
    """Something was lost, out of order or repeated too late; the message has details."""


@dataclass(frozen=True)
class Outcome:
    """Figures of a campaign."""

    changes: int
    exits: int
    """Of the members at the end, once the connection was deactivated."""
    repeated: int
    kills: int
    seconds: float


class Campaign:
    """Moves users until `changes` changes were delivered, with `kills` kills in between."""

    def __init__(self, kind: str, directory: Path, *, changes: int, kills: int, seed: str) -> None:
        self._directory = directory
        self._kind = kind
        self._seed = seed
        self._source = random.Random(seed)
        # Small campaigns have small batches, so that kills meet deliveries.
        users_max = UNREAD_CHANGES_MAX.get(kind, UNREAD_MAX) // BACKLOG_BATCHES
        self._users = min(users_max, max(50, changes // 20))
        self._moves = -(-changes // self._users)
        self._kill_after = sorted(self._source.sample(range(1, changes), kills))
        self._batch_changes = min(BATCH_CHANGES, max(10, self._users // 4))
        self._ledger = DeliveryLedger(self._batch_changes)
        self._exit_kills = max(1, kills // EXIT_KILLS_DIVISOR)
        self._all = 0
        """Changes and exits."""

    def run(self) -> Outcome:
        """Raises CampaignFailed."""
        began = time.monotonic()
        source = random.Random(f"{self._seed} {self._kind}")
        kills = moved = changes = 0
        with RECEIVERS[self._kind](self._directory, self._ledger, source) as receiver:
            while True:
                flags = (*FLAGS, *receiver.flags)
                with (
                    ServiceProcess(self._directory / "store", flags=flags) as service,
                    Client(service.target, account=ACCOUNT_ID) as client,
                ):
                    if not changes:
                        moved = self._serve(client, receiver, moved)
                        if not self._kill_after:
                            self._compare(client, moved)
                            changes = self._ledger.arrived
                            self._deactivate(client)
                    if changes:
                        self._wait_for(self._kill_after[0] if self._kill_after else self._all)
                    if not self._kill_after:
                        self._expect_nothing_left(client)
                        break
                    self._kill_after.pop(0)
                    time.sleep(self._source.uniform(0, KILL_DELAY_S_MAX))
                    service.kill()
                    kills += 1
        exits = self._ledger.arrived - changes
        return Outcome(changes, exits, self._ledger.repeated, kills, time.monotonic() - began)

    def _serve(self, client: Client, receiver: Receiver, moved: int) -> int:
        """Moves users until the next kill is due, or all have moved and everything arrived. Returns how many
        batches of users have moved by now.
        """
        if not moved:
            _prepare(client, receiver, self._batch_changes)
        while not self._kill_after or self._ledger.arrived < self._kill_after[0]:
            behind = moved * self._users - self._ledger.arrived
            if moved < self._moves and behind < BACKLOG_BATCHES * self._users:
                self._move(client, moved)
                moved += 1
                continue
            if not behind:
                break
            due = self._kill_after[0] if self._kill_after else moved * self._users
            # A batch less than is behind, so that there is always something to deliver.
            self._wait_for(min(due, self._ledger.arrived + self._users, moved * self._users))
        return moved

    def _deactivate(self, client: Client) -> None:
        """From now on the exits of all members are on their way. Chooses when the service is killed."""
        first = self._ledger.arrived + 1
        self._all = self._ledger.arrived + len(self._ledger.members)
        self._kill_after = sorted(self._source.sample(range(first, self._all), self._exit_kills))
        client.deactivate_connection("sending")

    def _expect_nothing_left(self, client: Client) -> None:
        """Every member has exited, and the connection knows."""
        latest = time.monotonic() + STALLED_S
        while client.get_connection("sending").exiting:
            if time.monotonic() > latest:
                raise CampaignFailed(f"all exits arrived, and it is exiting {STALLED_S:g} s later")
            time.sleep(POLL_S)
        if self._ledger.members or self._ledger.arrived != self._all:
            raise CampaignFailed(f"{len(self._ledger.members)} members have not exited")

    def _move(self, client: Client, number: int) -> None:
        batch, turn = number % USER_BATCHES, number // USER_BATCHES
        tier = "silver" if turn % 2 else "gold"
        client.upsert_users(
            [
                make_user_update(f"user-{batch * self._users + index}", {"tier": tier})
                for index in range(self._users)
            ],
            input="shop/web",
        )

    def _wait_for(self, arrived: int) -> None:
        arrives = self._ledger.wait_for(arrived, STALLED_S)
        if self._ledger.faults:
            raise CampaignFailed("\n  ".join(["", *self._ledger.faults]))
        if not arrives:
            raise CampaignFailed(f"{self._ledger.arrived} changes arrived, then nothing for {STALLED_S:g} s")

    def _compare(self, client: Client, moved: int) -> None:
        members = set(client.export_members("tiers/gold"))
        connection = client.get_connection("sending")
        if (self._ledger.arrived, self._ledger.last) != (moved * self._users,) * 2:
            raise CampaignFailed(f"{self._ledger.arrived} changes arrived of {moved * self._users}")
        if members != self._ledger.members:
            differing = sorted(members ^ self._ledger.members)
            raise CampaignFailed(f"the membership differs in {len(differing)} users: {differing[:5]}")
        if connection.state != CONNECTION_STATE_ACTIVE:
            raise CampaignFailed(f"the connection is not active: {connection.fault}")


def _prepare(client: Client, receiver: Receiver, batch_changes: int) -> None:
    client.ensure_account()
    client.ensure_input("shop", "web")
    client.ensure_journey("tiers")
    client.ensure_milestone("tiers", "gold", criteria=attribute("tier").equals("gold"))
    output = client.ensure_output("receiver", receiver.output)
    batching = Batching(max_changes=batch_changes, max_age=to_duration(timedelta(seconds=BATCH_AGE_S)))
    client.ensure_connection(
        "sending",
        target="tiers/gold",
        output=output.name,
        batching=batching,
        exits_on_deactivation=True,
    )
    client.activate_connection("sending")


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="tests.faults.delivery_campaign", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--kind", choices=sorted(RECEIVERS), default="webhook", help="(default %(default)s)")
    parser.add_argument("--changes", type=int, default=CHANGES, help="how many (default %(default)s)")
    parser.add_argument("--kills", type=int, default=KILLS, help="how many (default %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="the seed (default: a new one, printed)")
    parser.add_argument("--directory", type=Path, default=None, help="where the store is made")
    options = parser.parse_args(arguments)
    seed = secrets.randbits(SEED_BITS) if options.seed is None else options.seed
    directory = options.directory or Path(tempfile.mkdtemp(prefix="milepost-deliveries-"))
    print(f"{options.changes} changes to {options.kind}, {options.kills} kills, --seed {seed}", flush=True)
    campaign = Campaign(options.kind, directory, changes=options.changes, kills=options.kills, seed=str(seed))
    try:
        outcome = campaign.run()
    except CampaignFailed as failure:
        print(f"--seed {seed} in {directory}: {failure}", flush=True)
        return 1
    shutil.rmtree(directory)
    print(
        f"{outcome.changes} changes and {outcome.exits} exits at the end arrived in order, none lost,"
        f" {outcome.repeated} again within their batch, {outcome.kills} kills,"
        f" {outcome.seconds:.0f} s, --seed {seed}",
        flush=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
