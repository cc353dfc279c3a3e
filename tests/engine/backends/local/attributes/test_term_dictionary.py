"""Term dictionaries find exactly the strings that pass a test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from engine.backends.local.attributes.term_dictionary import (
    CHANGED_MIN,
    CHANGED_SHARE_MAX,
    TermDictionaries,
    TermDictionary,
)
from engine.backends.local.storage.matching import search_joined
from engine.backends.local.storage.page_cache import BITMAP, NO_ID
from engine.backends.local.storage.transactions import Pairs, checksum_of
from engine.backends.local.storage.turns import Unshared
from engine.bounded_cache import BoundedCache
from engine.criteria.model import Text
from engine.criteria.operators import matcher_of
from engine.criteria.operators.base import STRINGS, Matcher

TEXTS = st.lists(st.text(alphabet="aB.é\0\n", max_size=5), max_size=30, unique=True)
LITERALS = st.text(alphabet="aB.é\0\n", max_size=3)
CLASSES = (r"\pL", r"\PL", r"\C", "[^a]", "[^B].", r"[\n-a]", "[[:^alpha:]]", r"[^\S]", r"\s", r"\S", r"\W")
ATOMS = st.sampled_from(
    ("a", "B", "é", r"\.", ".", "^", "$", r"\b", r"\B", r"\A", r"\z", r"\n", r"\x0a", "()", *CLASSES)
)
FLAGS = st.sampled_from(("(?:", "(?i:", "(?s:", "(?m:", "(?-m:", "(?s-m:", "(?U:", "("))
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map("|".join),
        st.tuples(FLAGS, inner).map(lambda each: f"{each[0]}{each[1]})"),
        st.tuples(inner, st.sampled_from(("*", "+?", "?", "{2}"))).map(
            lambda each: f"(?:{each[0]}){each[1]}"
        ),
    ),
    max_leaves=8,
)
GLOBS = st.text(alphabet="aB.é\n*?", max_size=6)


def containing(term_dictionary: TermDictionary, literal: str) -> list[str]:
    matcher = matcher_of(Text(op="contains", pattern=literal))
    return sorted(text.decode() for text in term_dictionary.passing(matcher, Unshared()).texts)


def stored(texts: dict[bytes, list[int]], prefix: bytes = b"", size: int = 2) -> list[Pairs]:
    """The pairs of strings and their users, as a transaction reads them."""
    found = []
    keys = sorted(texts)
    for start in range(0, len(keys), size):
        some = keys[start : start + size]
        values = [BITMAP.encode(BitMap(texts[text])) or b"" for text in some]
        found.append(
            Pairs(
                [prefix + text for text in some],
                np.array([xxhash.xxh3_64_intdigest(prefix + text) for text in some], np.uint64),
                [checksum_of(prefix + text, value) + value for text, value in zip(some, values, strict=True)],
            )
        )
    return found


@given(TEXTS, TEXTS, LITERALS, LITERALS)
def test_strings_that_pass_are_found(first: list[str], later: list[str], literal: str, other: str) -> None:
    term_dictionary = TermDictionary(text.encode() for text in first)
    # The results of one test are kept, and strings are added to them.
    for asked in (literal, literal, other):
        assert containing(term_dictionary, asked) == sorted(text for text in first if asked in text)
    term_dictionary.add(text.encode() for text in later)
    assert containing(term_dictionary, other) == sorted(text for text in first + later if other in text)


@given(
    TEXTS,
    TEXTS,
    st.one_of(
        st.builds(Text, op=st.just("matches"), pattern=EXPRESSIONS, ignore_case=st.booleans()),
        st.builds(
            Text, op=st.just("matches"), pattern=EXPRESSIONS.map("^{}".format), ignore_case=st.booleans()
        ),
        st.builds(Text, op=st.just("glob"), pattern=GLOBS, ignore_case=st.booleans()),
        st.builds(Text, op=st.sampled_from(("starts_with", "ends_with")), pattern=LITERALS),
    ),
)
def test_an_expression_finds_among_joined_strings_those_that_it_matches_alone(
    first: list[str], later: list[str], test: Text
) -> None:
    matcher = matcher_of(test)
    term_dictionary = TermDictionary(text.encode() for text in first)
    term_dictionary.add(text.encode() for text in later)
    read = Unshared()
    found = sorted(text.decode() for text in term_dictionary.passing(matcher, read).texts)
    assert found == sorted(filter(matcher.passes, first + later))
    assert read.looked_at == len(first + later) or not matcher.joined or matcher.between


@pytest.mark.parametrize("prefix", [b"", b"key\0", b"k\ny"])
def test_a_dictionary_of_keys_has_what_follows_their_prefix(prefix: bytes) -> None:
    texts = ["ann", "", "two\nlines", "key\0", "a\nkey\0b", "ümlaut"]
    found = TermDictionary.of_pairs(stored({text.encode(): [1] for text in texts}, prefix), prefix)
    assert sorted(found.texts()) == sorted(texts)
    assert found.count == len(texts)


@given(
    st.dictionaries(
        st.text(alphabet="aB.é\0\n", max_size=5).map(str.encode),
        st.lists(st.integers(0, NO_ID - 1), min_size=1, max_size=3, unique=True),
        max_size=30,
    ),
    st.data(),
)
def test_users_come_with_their_strings_until_they_change(
    texts: dict[bytes, list[int]], data: st.DataObject
) -> None:
    some = st.sets(st.sampled_from(sorted(texts))) if texts else st.just(set[bytes]())
    before, after = data.draw(some), data.draw(some)
    found = TermDictionary.of_pairs(stored(texts, b"p"), b"p", {b"p" + text for text in before})
    for text in after:
        found.changes(text)
    found.settle(lambda: None)
    passing = found.passing(matcher_of(Text(op="contains", pattern="")), Unshared())
    # One user each, no line break, and unchanged: known. All others are to be looked up.
    known = {text for text, users in texts.items() if len(users) == 1 and b"\n" not in text} - before - after
    assert sorted(passing.users.tolist()) == sorted(texts[text][0] for text in known)
    assert sorted(passing.texts) == sorted(texts.keys() - known)


def test_a_damaged_value_is_left_to_be_looked_up() -> None:
    (pairs,) = stored({b"ann": [1], b"bob": [2]})
    pairs.values[0] = pairs.values[0][:-1] + b"\xff"
    found = TermDictionary.of_pairs([pairs], b"").passing(
        matcher_of(Text(op="contains", pattern="")), Unshared()
    )
    assert (found.users.tolist(), found.texts) == ([2], [b"ann"])


@pytest.mark.parametrize(
    "literal", ["@", "7@", "@host", "17@host", "user 17@host.example", "er 1", "e", "\n"]
)
def test_literals_with_and_without_a_rare_byte(literal: str) -> None:
    texts = [f"user {number}@host.example".encode() for number in range(3_000)]
    found = TermDictionary.of_pairs(stored({text: [at] for at, text in enumerate(texts)}, size=700), b"")
    for between in (False, True):
        matcher = matcher_of(Text(op="contains", pattern=literal))
        if between:
            matcher = replace(matcher, between=(texts[1_500], texts[1_501]))
        passing = found.passing(matcher, Unshared())
        expected = [at for at, text in enumerate(texts) if literal.encode() in text]
        if between:
            expected = [at for at in expected if texts[1_500] <= texts[at] <= texts[1_501]]
        assert sorted(passing.users.tolist()) == expected


@pytest.mark.parametrize("places_share", [1 << 30, 0.01])
def test_literals_anywhere_in_the_first_and_the_last_string(
    places_share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words of rare bytes are cut off at both ends of a dictionary. Here every byte is rare enough, and there
    is no room for any words, or for all.
    """
    monkeypatch.setattr("engine.backends.local.attributes.term_dictionary.RARE_SHARE", 1)
    monkeypatch.setattr("engine.backends.local.attributes.term_dictionary.PLACES_SHARE", places_share)
    texts = [b"0123456789abcdef", b"@abc", b"y0123456789abcdef", b"z@"]
    literals = {
        text[first:end] for text in texts for first in range(len(text)) for end in range(first + 1, 18)
    }
    for text in texts:
        # On its own it is the first and the last.
        for some in ([text], texts):
            found = TermDictionary(some)
            for literal in sorted(literals | {b"@0", b"89abcdefg", b"0z"}):
                expected = [each.decode() for each in some if literal in each]
                assert containing(found, literal.decode()) == sorted(expected)


def test_places_of_rare_bytes_take_half_of_the_memory_of_the_strings() -> None:
    texts = [b"%05d@host-%05d.example" % (number, number) for number in range(3_000)]
    found = TermDictionary(texts)
    before = found.nbytes
    for literal in ("@host", "0@host", ".exam", "x", "host-0", "99@", "0.example"):
        assert containing(found, literal) == sorted(t.decode() for t in texts if literal.encode() in t)
        assert before < found.nbytes <= before + len(b"".join(texts)) // 2 + 3_000


def test_many_changes_have_a_dictionary_built_anew() -> None:
    texts = [b"%d" % number for number in range(CHANGED_MIN * CHANGED_SHARE_MAX)]
    found = TermDictionary(texts)
    for text in texts[:CHANGED_MIN]:
        found.changes(text)
    assert not found.is_scattered
    found.changes(texts[-1])
    assert found.is_scattered


@pytest.mark.parametrize("pattern", [r"\Aa", r"a\z", r"(?-m)^a", r"(?s-m:^a)", r"\Qa\E", r"\C"])
def test_an_expression_about_all_that_is_searched_tests_each_string(pattern: str) -> None:
    assert matcher_of(Text(op="matches", pattern=pattern)).joined is None


def test_a_search_looks_at_the_deadline_between_pieces() -> None:
    texts = [b"user %d" % number for number in range(20_000)]
    matcher = matcher_of(Text(op="matches", pattern=r"^user \d+7$"))
    assert matcher.joined is not None
    joined = b"\n" + b"\n".join(texts) + b"\n"
    looks: list[None] = []
    found = search_joined(matcher.joined, joined, 1, len(joined) - 1, lambda: looks.append(None))
    assert not found.doubtful
    passing = [joined[at : joined.find(b"\n", at)] for at in found.passing]
    assert passing == [text for text in texts if text.endswith(b"7") and text != b"user 7"]
    # Pieces double in size while they are quick, so there are several of them whatever the machine.
    assert len(looks) >= 3


def test_each_joined_string_is_tested_once_by_the_same_test() -> None:
    tested: list[object] = []

    def passes(value: object) -> bool:
        tested.append(value)
        return value == "bob"

    matcher = Matcher(kinds=STRINGS, passes=passes)
    term_dictionary = TermDictionary([b"ann", b"bob"])
    assert term_dictionary.passing(matcher, Unshared()).texts == [b"bob"]
    assert term_dictionary.passing(matcher, Unshared()).texts == [b"bob"]
    assert tested == ["ann", "bob"]


def test_term_dictionaries_grow_until_they_are_scattered() -> None:
    term_dictionaries = TermDictionaries(BoundedCache("terms", 1 << 20))
    assert term_dictionaries.find(b"p") is None
    term_dictionaries.put(b"p", TermDictionary([b"ann", b"bob"]), term_dictionaries.version)
    term_dictionaries.add(b"p", [b"eve"])
    term_dictionaries.add(b"q", [b"nobody asked"])
    found = term_dictionaries.find(b"p")
    assert found is not None
    assert containing(found, "e") == ["eve"]
    term_dictionaries.add(b"p", [b"%d" % number for number in range(100)])
    assert term_dictionaries.find(b"p") is None


def test_a_dictionary_built_before_strings_were_added_is_not_kept() -> None:
    term_dictionaries = TermDictionaries(BoundedCache("terms", 1 << 20))
    version = term_dictionaries.version
    term_dictionaries.add(b"p", [b"eve"])
    term_dictionaries.put(b"p", TermDictionary([b"ann"]), version)
    assert term_dictionaries.find(b"p") is None


def test_the_least_recently_used_dictionary_is_evicted_over_the_budget() -> None:
    term_dictionaries = TermDictionaries(BoundedCache("terms", 180))
    for prefix in (b"a", b"b"):
        term_dictionaries.put(prefix, TermDictionary([prefix * 50]), term_dictionaries.version)
    term_dictionaries.find(b"a")
    term_dictionaries.put(b"c", TermDictionary([b"c" * 50]), term_dictionaries.version)
    kept = [prefix for prefix in (b"a", b"b", b"c") if term_dictionaries.find(prefix) is not None]
    assert kept == [b"a", b"c"]
