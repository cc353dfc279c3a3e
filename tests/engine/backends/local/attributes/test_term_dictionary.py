"""Term dictionaries find exactly the strings that pass a test."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.backends.local.attributes.term_dictionary import TermDictionaries, TermDictionary
from engine.backends.local.storage.turns import Unshared
from engine.bounded_cache import BoundedCache
from engine.criteria.model import Text
from engine.criteria.operators import matcher_of
from engine.criteria.operators.base import STRINGS, Matcher

TEXTS = st.lists(st.text(alphabet="ab.é\0", max_size=5), max_size=30, unique=True)
LITERALS = st.text(alphabet="ab.é\0", max_size=3)


def containing(term_dictionary: TermDictionary, literal: str) -> list[str]:
    matcher = matcher_of(Text(op="contains", pattern=literal))
    return sorted(text.decode() for text in term_dictionary.passing(matcher, Unshared()))


@given(TEXTS, TEXTS, LITERALS, LITERALS)
def test_strings_that_pass_are_found(first: list[str], later: list[str], literal: str, other: str) -> None:
    term_dictionary = TermDictionary(text.encode() for text in first)
    # The results of one test are kept, and strings are added to them.
    for asked in (literal, literal, other):
        assert containing(term_dictionary, asked) == sorted(text for text in first if asked in text)
    term_dictionary.add(text.encode() for text in later)
    assert containing(term_dictionary, other) == sorted(text for text in first + later if other in text)


def test_each_joined_string_is_tested_once_by_the_same_test() -> None:
    tested: list[object] = []

    def passes(value: object) -> bool:
        tested.append(value)
        return value == "bob"

    matcher = Matcher(kinds=STRINGS, passes=passes)
    term_dictionary = TermDictionary([b"ann", b"bob"])
    assert term_dictionary.passing(matcher, Unshared()) == [b"bob"]
    assert term_dictionary.passing(matcher, Unshared()) == [b"bob"]
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
    term_dictionaries = TermDictionaries(BoundedCache("terms", 120))
    for prefix in (b"a", b"b"):
        term_dictionaries.put(prefix, TermDictionary([prefix * 50]), term_dictionaries.version)
    term_dictionaries.find(b"a")
    term_dictionaries.put(b"c", TermDictionary([b"c" * 50]), term_dictionaries.version)
    kept = [prefix for prefix in (b"a", b"b", b"c") if term_dictionaries.find(prefix) is not None]
    assert kept == [b"a", b"c"]
