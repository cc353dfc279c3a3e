"""Methods of CatalogService: what is in the data."""

from __future__ import annotations

from collections.abc import AsyncIterator

from milepost.aio.base import PAGE_SIZE, AsyncClientBase
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


class AsyncCatalogMethods(AsyncClientBase):
    """Reads names, kinds and values in the data."""

    async def list_event_names(self, *, prefix: str = "", input: str = "") -> AsyncIterator[EventName]:
        """Event names with their figures by input and type, through one input ("workspace/input") or all."""
        request = ListEventNamesRequest(
            parent=self.account_name,
            page_size=PAGE_SIZE,
            prefix=prefix,
            input=self.input_name(input) if input else "",
        )
        async for page in self.pages(self.catalog.ListEventNames, request):
            for each in page.event_names:
                yield each

    async def list_attributes(
        self, *, event_name: str = "", workspace: str = "", input: str = "", prefix: str = ""
    ) -> AsyncIterator[Attribute]:
        """Attributes of users, in one workspace or all; or of events of a name, of one input or all."""
        request = ListAttributesRequest(
            parent=self.account_name,
            page_size=PAGE_SIZE,
            prefix=prefix,
            event_name=event_name,
            workspace=self.workspace_name(workspace) if workspace else "",
            input=self.input_name(input) if input else "",
        )
        async for page in self.pages(self.catalog.ListAttributes, request):
            for each in page.attributes:
                yield each

    async def list_attribute_values(
        self,
        workspace: str,
        key: str,
        *,
        event_name: str = "",
        input: str = "",
        prefix: str = "",
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[ValueCount]:
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
        async for page in self.pages(self.catalog.ListAttributeValues, request):
            for each in page.values:
                yield each

    async def get_user(self, user_id: str) -> User:
        """Everything stored about a user except events. Raises NotFound when the user is unknown."""
        return (await self.catalog.GetUser(GetUserRequest(parent=self.account_name, user_id=user_id))).user
