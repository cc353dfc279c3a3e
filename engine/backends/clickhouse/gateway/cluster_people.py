"""The users of one account whose data are in a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from pyroaring import BitMap

from engine.backends.base import EventRecord, NameSpan, Record, UserRecord
from engine.backends.local.account.people import People
from engine.backends.local.account.readers import ANY_TIME, DataTimes, Reading, Touched
from engine.backends.local.account.updates import Item, Shown
from engine.backends.local.storage.name_table import FieldKind, workspace_of
from engine.backends.local.storage.user_ref import UserRef
from engine.backends.local.storage.write_ahead_log import FollowEntry
from engine.backends.local.users.directory import by_group
from engine.values import Micros


class ClusterPeople(People):
    """The users of one account. What else is known of them is in the cluster, so that they are only told
    apart here, and new names get numbers.
    """

    def _put(self, records: Sequence[Record], refs: Sequence[UserRef], sequence: int) -> None:
        for record in records:
            if type(record) is EventRecord:
                self.events.number(record.name)
                for name in record.attributes:
                    # The look-up numbers a new name.
                    self._attribute_numbers[name]
            elif type(record) is UserRecord:
                self._number_fields(record)

    def follow(self, input_name: str, entry: FollowEntry) -> Touched:
        """Applies what rows of a table of others say of their users. Returns the touched users. Names of
        these rows get no numbers: what of them there is, is asked of the table.
        """
        self.seen.begin()
        counts = list(self.directory.counts)
        refs = self.directory.refs([user.user_id for user in entry.users]).tolist()
        reading = None if self._readers.are_none else Reading(self._readers)
        number = self.inputs.number(input_name)
        for user, ref in zip(entry.users, refs, strict=True):
            self.seen.saw(number, ref, user.first)
            self.seen.saw(number, ref, user.last)
            if reading is not None:
                for kind in user.kinds:
                    reading.event_of(input_name, *entry.kinds[kind], ref)
        users = by_group(refs)
        self.watches.changed(users)
        last = {number: users} if self._readers.last_seen else {}
        times = [time for user in entry.users for time in (user.first, user.last)]
        spread = DataTimes(min(times), max(times)) if times else ANY_TIME
        return self._touched(reading, users, counts, spread, first={}, last=last)

    def users_of(self, input_name: str) -> dict[int, BitMap]:
        """The users that belong to an input, by group."""
        number = self.inputs.find(input_name)
        numbers = [] if number is None else [number]
        return {group: self.seen.users(numbers, group) for group in range(self.groups)}

    def _number_fields(self, record: UserRecord) -> None:
        workspace = workspace_of(record.input)
        for name in record.attributes:
            self._field(FieldKind.ATTRIBUTE, workspace, name)
        for kind in record.identities:
            self._field(FieldKind.IDENTITY, kind)
        for regulation, purpose in record.consents:
            self._field(FieldKind.CONSENT, regulation, purpose)

    def _take(self, ref: UserRef) -> Callable[[UserRef], None]:
        return lambda after: None

    def remove_events_of(self, users: Mapping[int, BitMap], yield_lock: Callable[[], None]) -> None:
        """A cut has removed them."""

    def remove_events(self, before: Micros, names: NameSpan | None, yield_lock: Callable[[], None]) -> None:
        """A removal has removed them."""

    # --- opted-in values ---

    @property
    def watched_items(self) -> frozenset[Item]:
        """The values whose changes are recorded for members of some audience."""
        return self._readers.updates.items

    def watched_members(self, records: Iterable[Record]) -> dict[UserRef, str]:
        """The members of watched audiences whose watched values some of these records write, by ref, with
        the ids of these users.
        """
        if not self.watched_items:
            return {}
        ids = dict.fromkeys(
            self.directory.canonical(record.user_id)
            for record in records
            if type(record) is UserRecord and self._writes_watched(record)
        )
        return self._members(ids)

    def watched_user(self, user_id: str) -> dict[UserRef, str]:
        """The ref of a user, with its id, when some values are watched. None when it has no data."""
        ref = self.directory.find(user_id) if self.watched_items else None
        return {} if ref is None else {ref: user_id}

    def _members(self, user_ids: Iterable[str]) -> dict[UserRef, str]:
        found = ((self.directory.find(user_id), user_id) for user_id in user_ids)
        is_member = self._readers.updates.is_member
        return {ref: user_id for ref, user_id in found if ref is not None and is_member(ref)}

    def notice(self, ref: UserRef, before: Shown, after: Shown) -> None:
        """The watched values of a user are different ones from now on."""
        items = {item for item in before.keys() | after.keys() if before.get(item) != after.get(item)}
        if items:
            self._readers.updates.changed(ref, items, self._readers.log_position())
