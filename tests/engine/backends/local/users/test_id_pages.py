"""Pages of user ids, compared with a list of strings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.local.users.id_pages import IdPage

TEXTS = st.lists(st.text(max_size=5) | st.sampled_from(["u1", "müller", "🎉", "x" * 200]), max_size=30)
TEXTS |= st.integers(250, 260).map(lambda count: [f"u{number}" for number in range(count)])


@given(batches=st.lists(TEXTS, max_size=4), cleared=st.lists(st.integers(0, 50)), start=st.integers(0, 50))
def test_id_page_equals_a_list(batches: list[list[str]], cleared: list[int], start: int) -> None:
    page, expected = IdPage(), list[str]()
    for batch in batches:
        page.extend(batch)
        expected += batch
        assert len(page) == len(expected)
        assert [page[slot] for slot in range(len(page))] == expected
    for slot in cleared:
        if slot < len(expected):
            page.clear(slot)
            expected[slot] = ""
    for same in (page, IdPage.unpack(memoryview(page.pack()))):
        assert len(same) == len(expected)
        assert same.texts() == [same[slot] for slot in range(len(same))] == expected
        assert same.texts(min(start, len(expected))) == expected[start:]
        same.extend(["later"])
        assert same[len(expected)] == "later"


def test_text_of_the_wrong_length_is_refused() -> None:
    page, other = IdPage(), IdPage()
    page.extend(["one", "two"])
    other.extend(["three"])
    lengths = len(page.pack()) - len(b"\0onetwo")
    with pytest.raises(ValueError, match="5 bytes instead of 6"):
        IdPage.unpack(memoryview(page.pack()[:lengths] + other.pack()[-len(b"\0three") :]))
