"""The sample journey: who received a Type A campaign, redeemed a coupon, and spent at least 5,000."""

from __future__ import annotations

from contextlib import suppress

from milepost.client import Client
from milepost.criteria import event, event_attribute, labelled
from milepost.errors import AlreadyExists
from milepost.sample.dataset import (
    CAMPAIGN_RECEIVED,
    CAMPAIGNS_INPUT_ID,
    COUPON_REDEEMED,
    PANEL_INPUT_ID,
    PURCHASE,
    STORE_INPUT_ID,
    WORKSPACE_ID,
)
from milepost.v1.criteria_pb2 import Criteria
from milepost.v1.journey_pb2 import Journey

JOURNEY_ID = "coupon-campaigns"
RECEIVED_ID = "received-type-a"
REDEEMED_ID = "redeemed-coupon"
SPENT_ID = "spent-5000"
NOT_REDEEMED_ID = "not-redeemed"
OTHERS_ID = "others"

SPENT_AT_LEAST = 5_000


def received_criteria() -> Criteria:
    """Received a Type A campaign, ever."""
    type_a = event_attribute("campaign_type").equals("Type A")
    return labelled("Received a Type A campaign", event(CAMPAIGN_RECEIVED, where=type_a).count() >= 1)


def redeemed_criteria() -> Criteria:
    """Redeemed a coupon, ever."""
    return labelled("Redeemed a coupon", event(COUPON_REDEEMED).count() >= 1)


def spent_criteria() -> Criteria:
    """Spent at least 5,000 in purchases, ever."""
    return labelled("Spent at least 5,000", event(PURCHASE).sum("sales_value") >= SPENT_AT_LEAST)


def build(client: Client) -> Journey:
    """Creates the journey and its five milestones; existing ones stay unchanged."""
    inputs = [f"{WORKSPACE_ID}/{each}" for each in (STORE_INPUT_ID, CAMPAIGNS_INPUT_ID, PANEL_INPUT_ID)]
    with suppress(AlreadyExists):
        client.create_journey(JOURNEY_ID, display_name="Coupon campaigns", inputs=inputs)
    for milestone_id, display_name, criteria, parent_id in (
        (RECEIVED_ID, "Received a Type A campaign", received_criteria(), ""),
        (REDEEMED_ID, "Redeemed a coupon", redeemed_criteria(), RECEIVED_ID),
        (SPENT_ID, "Spent at least 5,000", spent_criteria(), REDEEMED_ID),
        (NOT_REDEEMED_ID, "", None, RECEIVED_ID),
        (OTHERS_ID, "", None, ""),
    ):
        with suppress(AlreadyExists):
            client.create_milestone(
                JOURNEY_ID,
                milestone_id,
                display_name=display_name,
                criteria=criteria,
                parent_milestone=f"{JOURNEY_ID}/{parent_id}" if parent_id else "",
            )
    return client.get_journey(JOURNEY_ID)
