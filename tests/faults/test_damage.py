"""A short form of the campaign of single-byte damage (`make damage`)."""

from __future__ import annotations

from pathlib import Path

from engine.backends.local.storage.keys import Family
from tests.faults.damage import Campaign, table
from tests.faults.damage_spans import families_met

SEED = 20261128
FLIPS = 30


def test_damaged_byte_never_causes_a_wrong_answer(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, SEED)
    # There are keys of every family, and bytes of every kind of page.
    assert families_met(campaign.spans) == {family.name for family in Family}
    ended = [campaign.play(flip) for flip in campaign.flips(FLIPS)]
    assert [each for each in ended if each.is_bad] == [], table(ended)
    assert "found" in {each.verdict for each in ended}
