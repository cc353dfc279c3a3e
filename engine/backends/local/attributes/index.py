"""User-level data: workspace attributes, identities and consents, all of them *fields*.

Each user has a profile: by field, the latest write as (time, sequence, value). Value None is an unset. It is
kept because an older write may still arrive. The index is by field, kind and group: a bitmap per value for
strings, bools and list elements; a column for numbers and times; and a bitmap of the users that have the
kind. The span of write times is kept per page (`write_times`).
"""

from __future__ import annotations

import array
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from pyroaring import BitMap

from engine.backends.local.attributes.profile_codec import (
    PROFILE,
    ProfileData,
    ProfileUpdate,
    decode_updates,
    encode_updates,
)
from engine.backends.local.attributes.profile_codec import Write as Write
from engine.backends.local.attributes.term_dictionary import TermDictionaries, TermDictionary
from engine.backends.local.attributes.write_times import PageSpans, Span, WriteTimes
from engine.backends.local.storage.bitmaps import bitmap_of, ids_of
from engine.backends.local.storage.flat_columns import FlatColumns, HeldColumns, Stored
from engine.backends.local.storage.keys import Family, key, parts_of
from engine.backends.local.storage.matching import passing_values
from engine.backends.local.storage.ordinals import Ordinals
from engine.backends.local.storage.page_cache import (
    ABSENT_NUMBER,
    ABSENT_TIME,
    BITMAP,
    NUMBERS,
    PAGE_BITS,
    PAGE_MASK,
    TIMES,
    CachedPage,
    ColumnCodec,
    MessageCodec,
    PageCache,
)
from engine.backends.local.storage.ranges import Ranges
from engine.backends.local.storage.step_cache import ReadKey
from engine.backends.local.storage.transactions import Pairs, missing_keys
from engine.backends.local.storage.turns import PAUSE_PAGES, TakesLong, Unshared
from engine.backends.local.storage.unwritten import Unwritten
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT, UserRef, UserRefs
from engine.bounded_cache import BoundedCache
from engine.criteria.operators import Matcher
from engine.values import Kind, Micros, Value, kind_of

TEXT_IN_KEY_BYTES_MAX = 256
"""Bytes; longer strings are keyed by their digest and the string is stored apart."""

EMPTY_LIST = 0
"""Index kind for users with an empty list; not a value of `Kind`."""

PLAIN_SUFFIX, DIGEST_SUFFIX = b"\0", b"\1"
"""First byte of the value part of a key: the value itself, or the digest of a long one."""
_NO_WRITE: Write = (-(1 << 63), 0, None)
"""Stands for "no write": any write is later."""
_PROFILE_KEY = np.dtype([("start", "V5"), ("group", ">u1"), ("dense", ">u4")])
_BOOLS = {False: b"\0", True: b"\1"}

_TEXT: MessageCodec[str] = MessageCodec(str, str)


class Properties:
    """The fields of one account's users. Call with the state lock held."""

    def __init__(
        self,
        page_cache: PageCache,
        account: int,
        terms: BoundedCache[bytes, TermDictionary],
        flat_columns: HeldColumns,
    ) -> None:
        self._page_cache = page_cache
        self._account = account
        self._new_values: Unwritten[bytes, set[bytes]] = Unwritten(set.union)
        """By prefix, keys of values that no stored user had."""
        self._term_dictionaries = TermDictionaries(terms)
        self.write_times = WriteTimes(page_cache, account, self.users_with, self._unkept_profile)
        self._flat = FlatColumns(flat_columns, ("fields", account))
        """Columns by (field, kind)."""
        self._open: dict[tuple[int, int, int], CachedPage[Any]] = {}
        """Pages of the current run of writes: columns by (field, kind, page), presence by (field, kind,
        ~group), and the users with a profile by (0, 0, ~group). Field numbers start at 1.
        """
        self.touched: set[ReadKey] = set()
        """Read keys that changed since the caller last took them."""

    # --- writing ---

    def begin(self) -> None:
        """Starts a run of writes. Pages found in one session may be evicted before the next."""
        self._open.clear()
        self.write_times.begin()

    def profile(self, ref: UserRef) -> ProfileData:
        """The latest writes of a user by field. Do not modify the result."""
        cached = self._page_cache.find(self._profile_key(ref), PROFILE)
        return (cached.value if cached is not None else None) or self._no_profile(ref)

    def profile_updates(self, profile_key: bytes) -> list[ProfileUpdate]:
        """The writes of a user by update. The caller may modify the result."""
        encoded = self._page_cache.encoded(profile_key)
        if encoded is None:
            _, group, dense = map(int, parts_of(profile_key))
            self._no_profile(group << GROUP_SHIFT | dense)
            return []
        return decode_updates(encoded)

    def put_first_profiles(self, profiles: Iterable[tuple[bytes, list[ProfileUpdate]]]) -> None:
        """Stores the writes of users that have none yet, by key."""
        self._page_cache.add_encoded(
            {profile_key: encode_updates(updates) for profile_key, updates in profiles}
        )

    def put_profile(self, profile_key: bytes, updates: list[ProfileUpdate]) -> None:
        """Replaces the writes of a user."""
        self._page_cache.put_encoded(profile_key, encode_updates(updates))

    def profile_keys(self, refs: UserRefs) -> list[bytes]:
        """Profile keys of users."""
        keys = np.zeros(len(refs), _PROFILE_KEY)
        keys["start"] = np.void(key(Family.PROFILE, self._account))
        keys["group"] = refs >> GROUP_SHIFT
        keys["dense"] = refs & DENSE_MASK
        found: list[bytes] = keys.view(f"V{_PROFILE_KEY.itemsize}").tolist()
        return found

    def _unkept_profile(self, ref: UserRef) -> ProfileData:
        return self._page_cache.read(self._profile_key(ref), PROFILE) or self._no_profile(ref)

    def _no_profile(self, ref: UserRef) -> ProfileData:
        """Raises DataLoss when the user has one."""
        if ref & DENSE_MASK in self._found(self._profiled_key(ref >> GROUP_SHIFT)):
            raise missing_keys(self._profile_key(ref))
        return {}

    def _profiled_key(self, group: int) -> bytes:
        return key(Family.PROFILED, self._account, group)

    def _changing_profile(self, ref: UserRef) -> CachedPage[ProfileData]:
        """The profile of a user, to be modified."""
        cached = self._page_cache.change(self._profile_key(ref), PROFILE)
        if not cached.value:
            self._no_profile(ref)
        return cached

    def _profile_key(self, ref: UserRef) -> bytes:
        return key(Family.PROFILE, self._account, ref >> GROUP_SHIFT, ref & DENSE_MASK)

    def write(self, ref: UserRef, writes: Iterable[tuple[int, Write]]) -> None:
        """Applies writes to a user's fields. A write is ignored when a later one exists."""
        profile = self._changing_profile(ref).value
        is_new = not profile
        spans = self.write_times.of_page(ref)
        for field, write in writes:
            before = profile.get(field, _NO_WRITE)
            if write[:2] >= before[:2]:
                profile[field] = write
                self._move(field, ref, before, write, spans)
        if is_new and profile:
            self._profiled(ref >> GROUP_SHIFT).add(ref & DENSE_MASK)

    def take(self, ref: UserRef) -> ProfileData:
        """Removes a user's fields and returns them."""
        self.begin()
        cached = self._changing_profile(ref)
        taken, cached.value = cached.value, {}
        self._profiled(ref >> GROUP_SHIFT).discard(ref & DENSE_MASK)
        spans = self.write_times.of_page(ref)
        for field, write in taken.items():
            self._move(field, ref, write, _NO_WRITE, spans)
        return taken

    def _move(self, field: int, ref: UserRef, old: Write, new: Write, spans: PageSpans) -> None:
        """Replaces one write by another in the index and in the span of the user's page."""
        was_at, _, before = old
        is_at, _, after = new
        if before is None and after is None:
            return
        span = spans.get(field)
        if span is not None:
            span.replace(None if before is None else was_at, None if after is None else is_at)
        elif after is not None:
            spans[field] = Span(is_at, is_at)
        if type(before) is type(after) and before == after:
            return
        group, dense = ref >> GROUP_SHIFT, ref & DENSE_MASK
        self.touched.add(("field", field, group))
        if before is not None:
            self._unindex(field, group, dense, before)
        if after is not None:
            self._index(field, group, dense, after)

    def _index(self, field: int, group: int, dense: int, value: Value) -> None:
        kind = kind_of(value)
        self.present_cell(field, EMPTY_LIST if value == () else kind, group).value.add(dense)
        if kind is Kind.NUMBER or kind is Kind.TIME:
            self.column_cell(field, kind, group, dense).value[dense & PAGE_MASK] = value
            return
        for stored_value in stored_values(value):
            self._value_bitmap(field, kind, group, stored_value).value.add(dense)

    def _unindex(self, field: int, group: int, dense: int, value: Value) -> None:
        kind = kind_of(value)
        self.present_cell(field, EMPTY_LIST if value == () else kind, group).value.discard(dense)
        if kind is Kind.NUMBER or kind is Kind.TIME:
            self.unset_column(field, kind, group, dense)
            return
        for stored_value in stored_values(value):
            self.discard_from_value(field, kind, group, stored_value, (dense,))

    def add_to_value(
        self, field: int, kind: Kind, group: int, stored_value: bytes, users: npt.NDArray[np.uint32]
    ) -> None:
        """Indexes users that have a value. Users are ascending."""
        cached = self._value_bitmap(field, kind, group, stored_value)
        if len(users) == 1:
            cached.value.add(int(users[0]))
        else:
            cached.value |= bitmap_of(users)

    def discard_from_value(
        self, field: int, kind: Kind, group: int, stored_value: bytes, users: Iterable[int]
    ) -> None:
        """Removes users that no longer have a value."""
        cached = self._value_bitmap(field, kind, group, stored_value)
        for user in users:
            cached.value.discard(user)
        if not cached.value and len(stored_value) > TEXT_IN_KEY_BYTES_MAX:
            self._set_text(cached.key, "")

    def have_profiles(self, refs: UserRefs) -> None:
        """Records that these users have a profile."""
        groups = refs >> GROUP_SHIFT
        for group in np.unique(groups).tolist():
            cached = self._profiled_cell(group)
            cached.value |= bitmap_of((refs[groups == group] & DENSE_MASK).astype(np.uint32))

    def _profiled(self, group: int) -> BitMap:
        """The bitmap of users with a profile, to be modified."""
        return self._profiled_cell(group).value

    def _profiled_cell(self, group: int) -> CachedPage[BitMap]:
        cached = self._open.get((0, 0, ~group))
        if cached is None:
            cached = self._page_cache.change(self._profiled_key(group), BITMAP)
            self._open[0, 0, ~group] = cached
        return cached

    def present_cell(self, field: int, kind: int, group: int) -> CachedPage[BitMap]:
        """The bitmap of users with a value of the kind, to be modified."""
        cached = self._open.get((field, kind, ~group))
        if cached is None:
            cached = self._page_cache.change(
                key(Family.FIELD_PRESENT, self._account, field, kind, group), BITMAP
            )
            self._open[field, kind, ~group] = cached
        return cached

    def unset_column(self, field: int, kind: Kind, group: int, dense: int) -> None:
        """Removes a user's number or time."""
        page = self.column_cell(field, kind, group, dense).value
        page[dense & PAGE_MASK] = _absent(kind)

    def column_cell(self, field: int, kind: Kind, group: int, dense: int) -> CachedPage[array.array[Any]]:
        """The user's page of numbers or times, to be modified at once."""
        self._flat.wrote((field, kind), group, dense)
        page = (group << GROUP_SHIFT | dense) >> PAGE_BITS
        cached = self._open.get((field, kind, page))
        if cached is None:
            cached = self._page_cache.change(self._column_key(field, kind, group, dense), column_codec(kind))
            self._open[field, kind, page] = cached
        return cached

    def _column_key(self, field: int, kind: Kind, group: int, dense: int) -> bytes:
        return key(Family.FIELD_COLUMN, self._account, field, kind, group, dense >> PAGE_BITS)

    def _value_bitmap(self, field: int, kind: Kind, group: int, stored_value: bytes) -> CachedPage[BitMap]:
        """The bitmap of a value, to be modified."""
        prefix = key(Family.FIELD_VALUE, self._account, field, kind, group)
        suffix = value_key_suffix(stored_value)
        cached = self._page_cache.change(prefix + suffix, BITMAP)
        if cached.value:
            self._term_dictionaries.changes(prefix + suffix[:1], suffix[1:])
        else:
            # Empty bitmaps are not stored, so enumeration has to find this one in memory.
            self._new_values.fresh.setdefault(prefix, set()).add(cached.key)
            if len(stored_value) > TEXT_IN_KEY_BYTES_MAX:
                self._set_text(cached.key, stored_value.decode())
        return cached

    def _set_text(self, value_key: bytes, text: str) -> None:
        self._page_cache.change(text_key(value_key), _TEXT).value = text

    def prepare(self) -> None:
        """Prepares a checkpoint, before the dirty pages are collected."""
        while self.settle_next():
            pass
        self._new_values.prepare()

    def settle_next(self) -> bool:
        """Finishes a piece of a checkpoint that has committed. False: nothing is left."""
        if not self._new_values.writing:
            return False
        prefix, values = next(iter(self._new_values.writing.items()))
        plain = prefix + PLAIN_SUFFIX
        self._term_dictionaries.add(plain, [v[len(plain) :] for v in values if v.startswith(plain)])
        self._new_values.settle(prefix)
        return True

    def rollback(self) -> None:
        """Takes back a checkpoint that did not commit."""
        self._new_values.rollback()

    # --- answers ---

    def present(self, field: int, kind: int, group: int) -> BitMap:
        """Users whose field has the kind. Do not modify the result."""
        # Kept when it is empty too, as for most kinds of a field: to know that a key is absent takes longer
        # than to find one.
        return self._page_cache.get(
            key(Family.FIELD_PRESENT, self._account, field, kind, group), BITMAP
        ).value

    def users_with(self, field: int, group: int) -> BitMap:
        """Users that have the field, of any kind."""
        kinds = (self.present(field, kind, group) for kind in (*Kind, EMPTY_LIST))
        return BitMap.union(*kinds)

    def first_and_last(self, field: int, groups: int) -> tuple[Micros, Micros] | None:
        """First and last time of the current writes to the field, which must have users. None: ask again
        (`WriteTimes.first_and_last`).
        """
        return self.write_times.first_and_last(field, groups)

    def with_value(self, field: int, kind: Kind, group: int, value: str | bool) -> BitMap:
        """Users whose field is this string or bool, or a list with this element. Do not modify the result."""
        prefix = key(Family.FIELD_VALUE, self._account, field, kind, group)
        return self._found(prefix + value_suffix(value))

    def with_value_by_group(
        self, field: int, kind: Kind, groups: int, value: str | bool, pause: Callable[[], None]
    ) -> Iterator[tuple[int, BitMap | bytes]]:
        """As `with_value`, for each group, possibly serialised. Pages are not cached: the caller keeps what
        it makes of them.
        """
        prefix, suffix = key(Family.FIELD_VALUE, self._account, field, kind), value_suffix(value)
        for first in range(0, groups, PAUSE_PAGES):
            pause()
            some = range(first, min(first + PAUSE_PAGES, groups))
            keys = [prefix + bytes((group,)) + suffix for group in some]
            for group, users in zip(some, self._page_cache.serialised(keys), strict=True):
                if users is not None:
                    yield group, users

    def _found(self, stored_key: bytes) -> BitMap:
        cached = self._page_cache.find(stored_key, BITMAP)
        return BitMap() if cached is None else cached.value

    def with_texts(self, field: int, kind: Kind, group: int, matcher: Matcher, read: Unshared) -> BitMap:
        """Users with a string, or an element of a list, that passes a test on strings."""
        prefix = key(Family.FIELD_VALUE, self._account, field, kind, group)
        plain = prefix + PLAIN_SUFFIX
        # Reads all keys of the range the first time, without the lock.
        self._terms(plain, read)
        fresh = self._new_values.fresh.get(prefix, set()) | self._new_values.writing.get(prefix, set())
        # Everything that is there now: what comes while others go first concerns users that change.
        apart = [*map(bytes, self._page_cache.reading().keys(prefix + DIGEST_SUFFIX)), *sorted(fresh)]
        terms = self._terms(plain, read)
        terms.settle(read.pause)
        with read.released():
            passing = terms.passing(matcher, read)
        self._term_dictionaries.grown(plain)
        users = self._with_any(plain, passing.texts, read)
        # Ids in order go into the set faster.
        users |= bitmap_of(np.sort(passing.users))
        for start in range(0, len(apart), PAUSE_PAGES):
            read.pause()
            users |= self._with_apart(apart[start : start + PAUSE_PAGES], prefix, matcher, read)
        return users

    def _with_any(self, prefix: bytes, values: Sequence[bytes], read: Unshared) -> BitMap:
        """Users of the values with these key parts. They may be many, of a single user each, that nobody asks
        for again: only sets are kept in the page cache.
        """
        page_cache = self._page_cache
        users = BitMap(optimize=False)
        singles = array.array("I")
        for start in range(0, len(values), PAUSE_PAGES):
            if start:
                read.pause()
            keys = [prefix + value for value in values[start : start + PAUSE_PAGES]]
            for stored_key, single in zip(keys, page_cache.singles(keys), strict=True):
                if single is None:
                    users |= self._found(stored_key)
                else:
                    singles.append(single)
        # Ids in order go into the set faster.
        users |= bitmap_of(np.sort(np.frombuffer(singles, np.uint32)))
        return users

    def _with_apart(
        self, value_keys: Sequence[bytes], prefix: bytes, matcher: Matcher, read: Unshared
    ) -> BitMap:
        """Users of those values that pass. They are not in the term dictionary: long ones and new ones."""
        read.looked_at += len(value_keys)
        # A value that lost its last user may be gone.
        texts = {self._text_of(each, prefix): each for each in value_keys if self._found(each)}
        with read.released(is_brief=True):
            passed = passing_values(matcher, list(texts), read.check)
        users = BitMap(optimize=False)
        for each, passes in zip(texts.values(), passed.tolist(), strict=True):
            if passes:
                users |= self._found(each)
        return users

    def _terms(self, plain: bytes, read: Unshared) -> TermDictionary:
        """The term dictionary of the short strings that are stored under a prefix."""
        dictionaries = self._term_dictionaries
        found = dictionaries.find(plain)
        if found is None:
            version = dictionaries.version
            # Stored users of what is dirty, or becomes so meanwhile, are not those of now.
            dirty = self._page_cache.unstored_keys()
            with dictionaries.building(plain) as changed, self._page_cache.newest() as txn:
                with read.released():
                    mine = frozenset(each for each in dirty if each.startswith(plain))
                    found = TermDictionary.of_pairs(_checked(txn.pair_blocks(plain), read), plain, mine)
                for text in changed:
                    found.changes(text)
            dictionaries.put(plain, found, version)
        return found

    def few_texts(
        self, field: int, kind: Kind, group: int, texts_max: int, read: Unshared
    ) -> list[str] | None:
        """Every string, or element of a list, in no order; None: there may be more than `texts_max`. Some may
        have no users left.
        """
        prefix = key(Family.FIELD_VALUE, self._account, field, kind, group)
        terms = self._terms(prefix + PLAIN_SUFFIX, read)
        fresh = self._new_values.fresh.get(prefix, set()) | self._new_values.writing.get(prefix, set())
        if terms.count + len(fresh) > texts_max:
            return None
        long_ = itertools.islice(self._page_cache.reading().keys(prefix + DIGEST_SUFFIX), texts_max)
        apart = [*fresh, *long_]
        if terms.count + len(apart) >= texts_max:
            return None
        # A long value that lost its last user may be gone.
        return terms.texts() + [self._text_of(each, prefix) for each in apart if self._found(each)]

    def texts_in_order(
        self, field: int, kind: Kind, group: int
    ) -> Iterator[tuple[str, Callable[[], BitMap]]]:
        """As `texts`, read one by one, for those who need only a few. Some may have no users left."""
        prefix = key(Family.FIELD_VALUE, self._account, field, kind, group)
        fresh = self._new_values.fresh.get(prefix, set()) | self._new_values.writing.get(prefix, set())
        for value_key in itertools.chain(sorted(fresh), self._page_cache.reading().keys(prefix)):
            yield self._text_of(value_key, prefix), functools.partial(self._found, value_key)

    def _text_of(self, value_key: bytes, prefix: bytes) -> str:
        suffix = value_key[len(prefix) :]
        return suffix[1:].decode() if suffix[:1] == PLAIN_SUFFIX else self._text(value_key)

    def _text(self, value_key: bytes) -> str:
        """A string that is too long for its key; "" when no user has it any more."""
        cached = self._page_cache.find(text_key(value_key), _TEXT)
        if cached is None:
            raise missing_keys(text_key(value_key))
        return cached.value

    def match_column(
        self,
        field: int,
        kind: Kind,
        group: int,
        ranges: Ranges,
        counts: Sequence[int],
        pause: Callable[[], None],
    ) -> BitMap:
        """Users of the group whose number or time lies in the ranges. `counts`: the ids of each group."""
        return self._flat.of_group(self._column(field, kind), group, counts, ranges, pause)

    def match_column_of_all(
        self,
        field: int,
        kind: Kind,
        ordinals: Ordinals,
        ranges: Ranges,
        counts: Sequence[int],
        pause: Callable[[], None],
    ) -> BitMap:
        """As `match_column`, the ordinals of users of all groups."""
        return self._flat.of_all(self._column(field, kind), ordinals, counts, ranges, pause)

    def _column(self, field: int, kind: Kind) -> Stored:
        """The numbers or times of users."""
        codec = column_codec(kind)

        def page_of(group: int, page: int) -> npt.NDArray[Any] | None:
            return self._page_cache.view(self._column_key(field, kind, group, page << PAGE_BITS), codec)

        return Stored((field, kind), _absent(kind), page_of)

    def match_users(
        self, fields: Sequence[int], group: int, users: BitMap, matcher: Matcher, read: Unshared
    ) -> BitMap:
        """The users, out of a few, for which some field passes; read from their profiles."""
        passing = BitMap(optimize=False)
        dense = ids_of(users).tolist()
        for start in range(0, len(dense), PAUSE_PAGES):
            if start:
                read.pause()
            found = [
                (each, write[2])
                for each in dense[start : start + PAUSE_PAGES]
                for write in self._writes(group << GROUP_SHIFT | each, fields)
                if write[2] is not None
            ]
            # Searching a string may take longer than others should wait; everything else is quickly tested.
            with read.released(is_brief=True) if matcher.program_bytes else nullcontext():
                passed = passing_values(matcher, [value for _, value in found], read.check)
            passing.update(each for (each, _), passes in zip(found, passed.tolist(), strict=True) if passes)
        return passing

    def passes(
        self, fields: Sequence[int], ref: UserRef, matcher: Matcher, text_max: int | None = None
    ) -> bool:
        """Whether some field of one user passes; read from the profile. Raises TakesLong for strings of more
        characters than `text_max`.
        """
        profile = self.profile(ref)
        for field in fields:
            value = profile.get(field, _NO_WRITE)[2]
            if value is None:
                continue
            if text_max is not None and _characters(value) > text_max:
                raise TakesLong
            if matcher.passes(value):
                return True
        return False

    def _writes(self, ref: UserRef, fields: Sequence[int]) -> Iterator[Write]:
        """The user's writes to some fields."""
        profile = self.profile(ref)
        return (write for field in fields if (write := profile.get(field)) is not None)


def _checked(blocks: Iterable[Pairs], read: Unshared) -> Iterator[Pairs]:
    """The same pairs. Looks at the deadline from time to time."""
    for block in blocks:
        read.check()
        yield block


def column_codec(kind: Kind) -> ColumnCodec:
    """The codec of a column's pages."""
    return NUMBERS if kind is Kind.NUMBER else TIMES


def _characters(value: Value) -> int:
    """The length of a string, or of all strings of a list."""
    if type(value) is str:
        return len(value)
    return sum(map(len, value)) if type(value) is tuple else 0


def _absent(kind: Kind) -> float:
    """Stands for no value in a column of numbers or times."""
    return ABSENT_NUMBER if kind is Kind.NUMBER else ABSENT_TIME


def stored_values(value: Value) -> tuple[bytes, ...]:
    """The key bytes of an indexed string, bool or list element."""
    if type(value) is tuple:
        return tuple({element.encode() for element in value})
    if type(value) is str:
        return (value.encode(),)
    return (_BOOLS[bool(value)],)


def value_suffix(value: str | bool) -> bytes:
    """The key part of a string or a bool."""
    return value_key_suffix(stored_values(value)[0])


def value_key_suffix(stored_value: bytes) -> bytes:
    """The key part of an indexed value."""
    if len(stored_value) <= TEXT_IN_KEY_BYTES_MAX:
        return PLAIN_SUFFIX + stored_value
    return DIGEST_SUFFIX + xxhash.xxh3_128_digest(stored_value)


def text_key(value_key: bytes) -> bytes:
    """The key of the string behind a digest."""
    return key(Family.FIELD_TEXT) + value_key[1:]


def decode_text(stored: memoryview) -> str:
    """The string stored there."""
    return _TEXT.decode(stored)
