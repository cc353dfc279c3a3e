"""Enums, both ways: members of the engine's have the names of the contract's, without their prefix."""

from __future__ import annotations

import enum
import re
from typing import Any, Protocol, TypeVar

Member = TypeVar("Member", bound=enum.Enum)
Number_co = TypeVar("Number_co", bound=int, covariant=True)
Number = TypeVar("Number", bound=int)


class ContractEnum(Protocol[Number_co]):
    """An enum of the generated code."""

    @property
    def DESCRIPTOR(self) -> Any: ...

    def Value(self, name: str) -> Number_co: ...


def numbers_of(contract: ContractEnum[Number], engine: type[Member]) -> dict[Member, Number]:
    """Member → number: `MembershipStatus.NOT_MEMBER` is `MEMBERSHIP_STATUS_NOT_MEMBER`. Raises ValueError for
    a member that the contract does not have.
    """
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", contract.DESCRIPTOR.name).upper()
    return {member: contract.Value(f"{prefix}_{member.name}") for member in engine}


def members_of(contract: ContractEnum[Number], engine: type[Member]) -> dict[int, Member]:
    """Number → member. Numbers that the engine has no member for, such as UNSPECIFIED, are missing."""
    return {number: member for member, number in numbers_of(contract, engine).items()}
