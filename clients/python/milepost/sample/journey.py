"""The sample journey: who received a Type A campaign, redeemed a coupon, and spent at least 5,000."""

from __future__ import annotations

from milepost import names
from milepost.client import Client
from milepost.criteria import event, event_attribute, labelled
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
    """Creates the journey and its five milestones; what is there already stays as it is."""
    account = client.account_id
    inputs = [
        names.input_(account, WORKSPACE_ID, input_id)
        for input_id in (STORE_INPUT_ID, CAMPAIGNS_INPUT_ID, PANEL_INPUT_ID)
    ]
    journey = client.ensure_journey(JOURNEY_ID, display_name="Coupon campaigns", inputs=inputs)
    received = client.ensure_milestone(
        JOURNEY_ID, RECEIVED_ID, display_name="Received a Type A campaign", criteria=received_criteria()
    )
    redeemed = client.ensure_milestone(
        JOURNEY_ID,
        REDEEMED_ID,
        display_name="Redeemed a coupon",
        criteria=redeemed_criteria(),
        parent_milestone=received.name,
    )
    client.ensure_milestone(
        JOURNEY_ID,
        SPENT_ID,
        display_name="Spent at least 5,000",
        criteria=spent_criteria(),
        parent_milestone=redeemed.name,
    )
    client.ensure_milestone(
        JOURNEY_ID, NOT_REDEEMED_ID, display_name="Remaining users", parent_milestone=received.name
    )
    client.ensure_milestone(JOURNEY_ID, OTHERS_ID, display_name="Remaining users")
    return journey
