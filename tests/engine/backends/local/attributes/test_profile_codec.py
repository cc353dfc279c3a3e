"""Profiles round-trip, and equal profiles have equal bytes."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from engine.backends.local.attributes.profile_codec import PROFILE, ProfileData
from tests.engine.backends.local.events import drawing

TIME = 1_790_812_800_000_000
profiles = st.dictionaries(
    st.integers(1, 6),
    st.tuples(st.integers(-3, 3), st.integers(1, 3), st.none() | drawing.values),
    min_size=1,
)


@given(profiles, st.randoms(use_true_random=False))
def test_profile_round_trips_in_any_field_order(profile: ProfileData, random: Random) -> None:
    stored = PROFILE.encode(profile)
    assert stored is not None
    again = PROFILE.decode(memoryview(stored))
    assert again == profile
    assert {field: type(write[2]) for field, write in again.items()} == {
        field: type(write[2]) for field, write in profile.items()
    }
    fields = list(profile)
    random.shuffle(fields)
    assert PROFILE.encode({field: profile[field] for field in fields}) == stored


def test_an_empty_profile_is_not_stored() -> None:
    assert PROFILE.encode({}) is None


def test_fields_of_one_update_share_its_time() -> None:
    """A time takes 9 bytes, an arrival of seven digits 5."""
    one = PROFILE.encode({1: (TIME, 1_000_000, True)})
    five = PROFILE.encode(dict.fromkeys(range(1, 6), (TIME, 1000000, True)))
    others = PROFILE.encode({field: (TIME + field, 1_000_000, True) for field in range(1, 6)})
    assert one is not None
    assert five is not None
    assert others is not None
    assert [len(stored) for stored in (one, five, others)] == [19, 27, 91]
