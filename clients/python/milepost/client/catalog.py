# Generated from milepost/aio/catalog.py: edit that file, then run `make client`.
"""Methods of CatalogService: what is in the data."""

from __future__ import annotations

from collections.abc import Iterator

from milepost.client.base import PAGE_SIZE, ClientBase
from milepost.v1.catalog_service_pb2 import (
    Attribute,
    EventName,
    GetUserRequest,
    ListAttributesRequest,
    ListAttributeValuesRequest,
    ListEventNamesRequest,
    User,
    ValueCount,
)


class CatalogMethods(ClientBase):
    """Reads names, kinds and values in the data."""

    def list_event_names(self, *, prefix: str = "", input: str = "") -> Iterator[EventName]:
        """Event names with their figures by input and type, through one input ("workspace/input") or all."""
        request = ListEventNamesRequest(
            parent=self.account_name,
            page_size=PAGE_SIZE,
            prefix=prefix,
            input=self.input_name(input) if input else "",
        )
        for page in self.pages(self.catalog.ListEventNames, request):
            yield from page.event_names

    def list_attributes(
        self, *, event_name: str = "", workspace: str = "", input: str = "", prefix: str = ""
    ) -> Iterator[Attribute]:
        """Attributes of users, in one workspace or all; or of events of a name, of one input or all."""
        request = ListAttributesRequest(
            parent=self.account_name,
            page_size=PAGE_SIZE,
            prefix=prefix,
            event_name=event_name,
            workspace=self.workspace_name(workspace) if workspace else "",
            input=self.input_name(input) if input else "",
        )
        for page in self.pages(self.catalog.ListAttributes, request):
            yield from page.attributes

    def list_attribute_values(
        self,
        workspace: str,
        key: str,
        *,
        event_name: str = "",
        input: str = "",
        prefix: str = "",
        page_size: int = PAGE_SIZE,
    ) -> Iterator[ValueCount]:
        """The values of an attribute, most frequent first; each page is counted when it is requested.

        Of the users of a workspace, with `users`; or, with an `event_name` and "" as the workspace, of the
        events of that name, of one input or all, with `events`.
        """
        request = ListAttributeValuesRequest(
            parent=self.workspace_name(workspace) if workspace or not event_name else self.account_name,
            key=key,
            event_name=event_name,
            input=self.input_name(input) if input else "",
            prefix=prefix,
            page_size=page_size,
        )
        for page in self.pages(self.catalog.ListAttributeValues, request):
            yield from page.values

    def get_user(self, user_id: str) -> User:
        """Everything stored about a user except events. Raises NotFound when the user is unknown."""
        return self.catalog.GetUser(GetUserRequest(parent=self.account_name, user_id=user_id)).user
