"""What each method needs: a scope, and the fields that name what the call is about.

A method that is not listed is for operators only. A test holds the table against the contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.resources.records import Scope
from service.reflection import METHOD as REFLECTION_METHOD
from service.reflection import SERVICE_NAMES as REFLECTION_NAMES


@dataclass(frozen=True, slots=True)
class Rule:
    """What a method needs."""

    scope: Scope | None
    """None = any valid key."""
    names: tuple[str, ...] = ()
    """Paths of the fields of a request that name its account, or something in it. A name in another account
    than the caller's does not exist for it. Other fields name things in that account: the engine checks them.
    """
    without_name: Scope | None = None
    """The scope for a call without a name, where that means all accounts."""


OPERATORS_ONLY = Rule(Scope.OPERATOR)

_NAME = ("name",)
_PARENT = ("parent",)
_AUDIENCE_OR_DRAFT = ("name", "draft.journey")

_RULES: Mapping[str, Mapping[str, Rule]] = {
    "AccountService": {
        "CreateAccount": OPERATORS_ONLY,
        "GetAccount": Rule(Scope.READ, _NAME),
        "ListAccounts": OPERATORS_ONLY,
        "UpdateAccount": Rule(Scope.ADMIN, ("account.name",)),
        "DeleteAccount": Rule(Scope.OPERATOR, _NAME),
        "CreateWorkspace": Rule(Scope.MANAGE, _PARENT),
        "GetWorkspace": Rule(Scope.READ, _NAME),
        "ListWorkspaces": Rule(Scope.READ, _PARENT),
        "UpdateWorkspace": Rule(Scope.MANAGE, ("workspace.name",)),
        "DeleteWorkspace": Rule(Scope.MANAGE, _NAME),
        "CreateInput": Rule(Scope.MANAGE, _PARENT),
        "GetInput": Rule(Scope.READ, _NAME),
        "ListInputs": Rule(Scope.READ, _PARENT),
        "UpdateInput": Rule(Scope.MANAGE, ("input.name",)),
        "DeleteInput": Rule(Scope.MANAGE, _NAME),
        "CreateApiKey": Rule(Scope.ADMIN, _PARENT, without_name=Scope.OPERATOR),
        "GetApiKey": Rule(Scope.ADMIN, _NAME),
        "ListApiKeys": Rule(Scope.ADMIN, _PARENT, without_name=Scope.OPERATOR),
        "UpdateApiKey": Rule(Scope.ADMIN, ("api_key.name",)),
        "RotateApiKey": Rule(Scope.ADMIN, _NAME),
        "DeleteApiKey": Rule(Scope.ADMIN, _NAME),
    },
    "AdminService": {
        "GetServerInfo": OPERATORS_ONLY,
        "CreateBackup": OPERATORS_ONLY,
        "DeleteBackup": OPERATORS_ONLY,
        "GetStoreStats": OPERATORS_ONLY,
        "GetClock": OPERATORS_ONLY,
        "ListBackups": OPERATORS_ONLY,
        "ConfirmClock": OPERATORS_ONLY,
        "VerifyStore": OPERATORS_ONLY,
    },
    "AudienceService": {
        "GetAudience": Rule(Scope.READ, _NAME),
        "ListAudiences": Rule(Scope.READ, _PARENT),
        "UpdateAudience": Rule(Scope.MANAGE, ("audience.name",)),
        "EstimateAudience": Rule(Scope.READ, _AUDIENCE_OR_DRAFT),
        "CountAudience": Rule(Scope.READ, _NAME),
        "CompareAudiences": Rule(Scope.READ, ("audiences",)),
        "GetJourneyFunnel": Rule(Scope.READ, _NAME),
        "PreviewJourney": Rule(Scope.READ, _PARENT),
        "ListAudienceSizes": Rule(Scope.READ, _PARENT),
        "CheckMembership": Rule(Scope.READ, ("audience",)),
        "BatchCheckMembership": Rule(Scope.READ, _PARENT),
        "ListUserAudiences": Rule(Scope.READ, _PARENT),
        "ListMembers": Rule(Scope.READ, _PARENT),
        "ExportMembers": Rule(Scope.READ, _NAME),
        "WatchMembership": Rule(Scope.READ, ("audience", "audiences", "connection")),
        "ExplainMembership": Rule(Scope.READ, _NAME),
        "ExplainAudience": Rule(Scope.READ, _AUDIENCE_OR_DRAFT),
    },
    "CatalogService": {
        "ListEventNames": Rule(Scope.READ, _PARENT),
        "ListAttributes": Rule(Scope.READ, _PARENT),
        "ListAttributeValues": Rule(Scope.READ, _PARENT),
        "GetUser": Rule(Scope.READ, _PARENT),
    },
    "ConnectionService": {
        "CreateOutput": Rule(Scope.MANAGE, _PARENT),
        "GetOutput": Rule(Scope.READ, _NAME),
        "ListOutputs": Rule(Scope.READ, _PARENT),
        "UpdateOutput": Rule(Scope.MANAGE, ("output.name",)),
        "DeleteOutput": Rule(Scope.MANAGE, _NAME),
        "TestOutput": Rule(Scope.MANAGE, _NAME),
        "CreateConnection": Rule(Scope.MANAGE, _PARENT),
        "GetConnection": Rule(Scope.READ, _NAME),
        "ListConnections": Rule(Scope.READ, _PARENT),
        "UpdateConnection": Rule(Scope.MANAGE, ("connection.name",)),
        "DeleteConnection": Rule(Scope.MANAGE, _NAME),
        "ActivateConnection": Rule(Scope.MANAGE, _NAME),
        "DeactivateConnection": Rule(Scope.MANAGE, _NAME),
        "PauseConnection": Rule(Scope.MANAGE, _NAME),
        "ResumeConnection": Rule(Scope.MANAGE, _NAME),
        "ReplayConnection": Rule(Scope.MANAGE, _NAME),
        # A consumer that watches needs no more than to read.
        "AcknowledgeChanges": Rule(Scope.READ, _NAME),
    },
    "IngestService": {
        "IngestEvents": Rule(Scope.INGEST, _PARENT),
        "StreamEvents": Rule(Scope.INGEST, ("batch.parent",)),
        "ImportEvents": Rule(Scope.INGEST, ("header.parent",)),
        "ImportUsers": Rule(Scope.INGEST, ("header.parent",)),
        "UpsertUsers": Rule(Scope.INGEST, _PARENT),
        "AliasUser": Rule(Scope.INGEST, _PARENT),
        "DeleteUsers": Rule(Scope.INGEST, _PARENT),
    },
    "JourneyService": {
        "CreateJourney": Rule(Scope.MANAGE, _PARENT),
        "GetJourney": Rule(Scope.READ, _NAME),
        "ListJourneys": Rule(Scope.READ, _PARENT),
        "UpdateJourney": Rule(Scope.MANAGE, ("journey.name",)),
        "DeleteJourney": Rule(Scope.MANAGE, _NAME),
        "CreateMilestone": Rule(Scope.MANAGE, _PARENT),
        "GetMilestone": Rule(Scope.READ, _NAME),
        "ListMilestones": Rule(Scope.READ, _PARENT),
        "UpdateMilestone": Rule(Scope.MANAGE, ("milestone.name",)),
        "DeleteMilestone": Rule(Scope.MANAGE, _NAME),
        "MoveMilestone": Rule(Scope.MANAGE, _NAME),
        "CloneJourney": Rule(Scope.MANAGE, _NAME),
        "ApplyJourney": Rule(Scope.MANAGE, _PARENT),
        "PreviewEdit": Rule(Scope.READ, _NAME),
        "GetJourneyVersion": Rule(Scope.READ, _NAME),
        "ListJourneyVersions": Rule(Scope.READ, _PARENT),
    },
}

RULES: Mapping[str, Rule] = {
    **{
        f"/milepost.v1.{service}/{method}": rule
        for service, rules in _RULES.items()
        for method, rule in rules.items()
    },
    **{f"/{name}/{REFLECTION_METHOD}": Rule(None) for name in REFLECTION_NAMES},
}
"""Method → rule."""


def rule_of(method: str) -> Rule:
    """What the method needs."""
    return RULES.get(method, OPERATORS_ONLY)
