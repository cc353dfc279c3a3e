"""Stored memberships of a gateway (`engine.backends.base.MembershipStore`)."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

from pyroaring import BitMap

from engine.backends.base import MemberPage, Members, OptedIn
from engine.backends.clickhouse.gateway.cluster_evaluator import ClusterEvaluation, ClusterPlan
from engine.backends.clickhouse.gateway.cluster_people import ClusterPeople
from engine.backends.clickhouse.gateway.member_order import decode_after, encode_after, partitions_after
from engine.backends.clickhouse.gateway.open_cluster import OpenCluster
from engine.backends.local.membership.dirty_users import Flight
from engine.backends.local.roles.memberships import Asked, Begun, StoredMemberships, Watched
from engine.backends.local.storage.turns import Read
from engine.errors import InvalidInput
from engine.plan.model import Plan

_NOBODY = BitMap()


class ClusterMemberships(StoredMemberships[ClusterPeople], OpenCluster):
    """Keeps stored memberships and their change logs. Only refreshes ask the cluster."""

    @functools.cached_property
    def _group_of(self) -> dict[int, int]:
        """The group of each partition."""
        of_group = self._store.partitions.of_group
        return {partition: group for group in range(self._store.groups) for partition in of_group(group)}

    def _evaluated(
        self,
        asked: Asked[ClusterPeople],
        flight: Flight,
        begun: Begun[ClusterPeople],
        watched: Watched,
        others: Iterable[Mapping[int, BitMap]] | None,
        read: Read,
    ) -> ClusterEvaluation:
        plan = ClusterPlan(self._plans, self._cluster_state, asked.refresh.plan, begun.account)
        asked.is_whole = begun.dirty is None
        for found in asked.ahead:
            found.clear()
        if begun.dirty is None:
            return plan.evaluate(None, read)
        users, looks_ahead = self._with_moved(asked, begun, read)
        evaluation = plan.evaluate(users, read)
        if looks_ahead and asked.refresh.ahead is not None:
            among: Mapping[int, BitMap] = users
            for found, ahead in zip(asked.ahead, asked.refresh.ahead.plans(), strict=True):
                # Whom time moves within a horizon it moves within those that are farther.
                some = {group: each for group, each in among.items() if each}
                among = {} if ahead is None else self._first_root(ahead, begun.account, some, read)
                found.update({group: (base, among.get(group, _NOBODY)) for group, base in users.items()})
        return evaluation

    def _first_root(
        self, plan: Plan, account: ClusterPeople, users: Mapping[int, BitMap] | None, read: Read
    ) -> dict[int, BitMap]:
        return ClusterPlan(self._plans, self._cluster_state, plan, account).first_root(users, read)

    def stored_members(self, audience: str, ask: Members) -> MemberPage:
        """Members of the stored membership, in the order of `execute`."""
        if ask.limit is not None and ask.limit < 1:
            raise InvalidInput.one("limit", "a page has at least one member")
        after = decode_after(ask.after)
        memberships = self._state.memberships
        with self._locked():
            name = memberships.get(audience).account
        found: list[str] = []
        with self._read(None, name) as (account, read):
            state = memberships.get(audience)
            if account is None:
                return MemberPage((), "", state.revision)
            for partition in partitions_after(ask.after):
                group = self._group_of[partition]
                users = memberships.members(state, group)
                users = users & account.directory.in_partitions(group, frozenset((partition,)))
                ids = sorted(filter(None, account.directory.user_ids(group, users)), key=str.encode)
                found += (user for user in ids if user.encode() > after.encode()) if after else ids
                after = ""
                if ask.limit is not None and len(found) > ask.limit:
                    page = tuple(found[: ask.limit])
                    return MemberPage(page, encode_after(page[-1]), state.revision)
                read.pause()
        return MemberPage(tuple(found), "", state.revision)

    def opt_in(self, audience: str, opted_in: OptedIn) -> None:
        """Records from now on when these values of a member change."""
        # While no entry is applied: one under way has looked at what was watched when it began.
        with self._writer.paused():
            super().opt_in(audience, opted_in)
