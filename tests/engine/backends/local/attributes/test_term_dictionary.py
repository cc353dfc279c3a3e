"""Term dictionaries find exactly the strings that pass a test."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.local.attributes.term_dictionary import TermDictionaries, TermDictionary
from engine.backends.local.storage.matching import matching_lines
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
    return sorted(text.decode() for text in term_dictionary.passing(matcher, Unshared()))


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
        st.builds(Text, op=st.just("glob"), pattern=GLOBS, ignore_case=st.booleans()),
    ),
)
def test_an_expression_finds_among_joined_strings_those_that_it_matches_alone(
    first: list[str], later: list[str], test: Text
) -> None:
    matcher = matcher_of(test)
    term_dictionary = TermDictionary(text.encode() for text in first)
    term_dictionary.add(text.encode() for text in later)
    read = Unshared()
    found = sorted(text.decode() for text in term_dictionary.passing(matcher, read))
    assert found == sorted(filter(matcher.passes, first + later))
    assert read.looked_at == len(first + later) or not matcher.joined


@pytest.mark.parametrize("prefix", [b"", b"key\0", b"k\ny"])
def test_a_dictionary_of_keys_has_what_follows_their_prefix(prefix: bytes) -> None:
    texts = ["ann", "", "two\nlines", "key\0", "a\nkey\0b", "ümlaut"]
    blocks = [[prefix + text.encode() for text in texts[:1]], [prefix + text.encode() for text in texts[1:]]]
    found = TermDictionary.of_keys(blocks, prefix)
    assert sorted(found.texts()) == sorted(texts)
    assert found.count == len(texts)


@pytest.mark.parametrize("pattern", [r"\Aa", r"a\z", r"(?-m)^a", r"(?s-m:^a)", r"\Qa\E", r"\C"])
def test_an_expression_about_all_that_is_searched_tests_each_string(pattern: str) -> None:
    assert matcher_of(Text(op="matches", pattern=pattern)).joined is None


def test_a_search_looks_at_the_deadline_between_pieces() -> None:
    texts = [b"user %d" % number for number in range(20_000)]
    matcher = matcher_of(Text(op="matches", pattern=r"^user \d+7$"))
    assert matcher.joined is not None
    joined = b"\n" + b"\n".join(texts) + b"\n"
    looks: list[None] = []
    found = [line.text for line in matching_lines(matcher.joined, joined, lambda: looks.append(None))]
    assert found == [text for text in texts if text.endswith(b"7") and text != b"user 7"]
    # Pieces double in size while they are quick, so there are several of them whatever the machine.
    assert len(looks) >= 3


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
