"""A synchronous client: the generated stubs with timeouts and typed errors, and helpers for common work.

from datetime import UTC, datetime

from milepost import Client, make_event
from milepost.criteria import event

with Client("localhost:7443", account="acme") as client:
    client.ensure_account()
    web = client.ensure_input("shop", "web")
    bought = make_event("ann", "buy", datetime.now(UTC), {"price": 9.5})
    client.ingest_events([bought], input=web.name)
    client.ensure_journey("winback", display_name="Win back")
    client.ensure_milestone("winback", "bought", criteria=event("buy").happened())
    print(client.estimate("winback/bought").size.users)
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

import grpc

from milepost import names
from milepost._batches import BATCH_ROWS_MAX, Progress, Sent
from milepost._channel import CallSettings, FriendlyChannel, open_channel
from milepost._health import is_serving
from milepost._importing import IMPORT_TIMEOUT_SECONDS, Imported, RowsSent, send_import
from milepost._sending import events_sender, users_sender
from milepost._watching import Watch
from milepost.errors import AlreadyExists, NotFound
from milepost.v1.account_pb2 import Account, Input, Workspace
from milepost.v1.account_service_pb2 import (
    CreateAccountRequest,
    CreateInputRequest,
    CreateWorkspaceRequest,
    GetAccountRequest,
    GetInputRequest,
    GetWorkspaceRequest,
)
from milepost.v1.account_service_pb2_grpc import AccountServiceStub
from milepost.v1.admin_service_pb2_grpc import AdminServiceStub
from milepost.v1.audience_pb2 import Audience
from milepost.v1.audience_service_pb2 import (
    MEMBERSHIP_STATUS_MEMBER,
    SIZE_INTERVAL_DAY,
    AudienceSizePoint,
    BatchCheckMembershipRequest,
    CheckMembershipRequest,
    CountAudienceRequest,
    CountAudienceResponse,
    EstimateAudienceRequest,
    EstimateAudienceResponse,
    GetAudienceRequest,
    ListAudienceSizesRequest,
    ListMembersRequest,
    MilestoneDraft,
    SizeInterval,
    WatchMembershipRequest,
)
from milepost.v1.audience_service_pb2_grpc import AudienceServiceStub
from milepost.v1.catalog_service_pb2 import (
    Attribute,
    EventName,
    ListAttributesRequest,
    ListAttributeValuesRequest,
    ListEventNamesRequest,
    ValueCount,
)
from milepost.v1.catalog_service_pb2_grpc import CatalogServiceStub
from milepost.v1.connection_pb2 import Connection, FileOutput, Output
from milepost.v1.connection_service_pb2 import (
    ActivateConnectionRequest,
    CreateConnectionRequest,
    CreateOutputRequest,
    DeactivateConnectionRequest,
    GetConnectionRequest,
    GetOutputRequest,
)
from milepost.v1.connection_service_pb2_grpc import ConnectionServiceStub
from milepost.v1.criteria_pb2 import Criteria
from milepost.v1.data_pb2 import Event, UserUpdate
from milepost.v1.ingest_service_pb2 import ImportHeader, ImportUsersHeader
from milepost.v1.ingest_service_pb2_grpc import IngestServiceStub
from milepost.v1.journey_pb2 import (
    MILESTONE_KIND_CRITERIA,
    MILESTONE_KIND_REMAINING_USERS,
    Journey,
    Milestone,
)
from milepost.v1.journey_service_pb2 import (
    CreateJourneyRequest,
    CreateMilestoneRequest,
    GetJourneyRequest,
    GetMilestoneRequest,
    ListJourneysRequest,
    ListMilestonesRequest,
)
from milepost.v1.journey_service_pb2_grpc import JourneyServiceStub
from milepost.values import to_duration, to_timestamp

DEFAULT_TARGET = "localhost:7443"
TIMEOUT_SECONDS = 60.0
PAGE_SIZE = 1_000
SEND_CONCURRENCY = 4
WATCH_ATTEMPTS_MAX = 10
HEALTH_POLL_SECONDS = 0.1
HEALTH_CALL_SECONDS = 2.0

Made = TypeVar("Made")


class Client:
    """A connection to a Milepost service, with a default account.

    The stubs `accounts`, `ingest`, `catalog`, `journeys`, `audiences`, `connections` and `admin` reach every
    method; calls through them get `timeout` (seconds) and the API key, and raise `milepost.errors`. Reads are
    retried while the service is unavailable; helpers that write use request ids and are retried too.

    Wherever a helper takes a name it takes an id too, in the client's account: "winback" for a journey,
    "winback/bought" for a milestone. Safe to use from several threads. Close it, or use it in a `with`.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        account: str = "",
        timeout: float = TIMEOUT_SECONDS,
        api_key: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self.target = target
        self._account_id = names.last_id(account)
        self._plain_channel = open_channel(target, credentials, options)
        self.channel = FriendlyChannel(self._plain_channel, CallSettings(timeout, api_key))
        self.accounts = AccountServiceStub(self.channel)
        self.ingest = IngestServiceStub(self.channel)
        self.catalog = CatalogServiceStub(self.channel)
        self.journeys = JourneyServiceStub(self.channel)
        self.audiences = AudienceServiceStub(self.channel)
        self.connections = ConnectionServiceStub(self.channel)
        self.admin = AdminServiceStub(self.channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection and cancels running calls."""
        self.channel.close()

    # --- names ---

    @property
    def account_id(self) -> str:
        """The account's id; ValueError when the client was made without one."""
        if not self._account_id:
            raise ValueError("this needs an account: Client(target, account=...)")
        return self._account_id

    @property
    def account_name(self) -> str:
        """`accounts/{a}`."""
        return names.account(self.account_id)

    def workspace_name(self, workspace: str) -> str:
        """The full name of a workspace given by name or id."""
        return workspace if "/" in workspace else names.workspace(self.account_id, workspace)

    def input_name(self, input: str) -> str:
        """The full name of an input given by name or as "workspace/input"; ValueError for anything else."""
        if input.startswith("accounts/"):
            return input
        workspace, slash, input_id = input.partition("/")
        if not slash:
            raise ValueError(f"{input!r} names no input: workspace/input")
        return names.input_(self.account_id, workspace, input_id)

    def journey_name(self, journey: str) -> str:
        """The full name of a journey given by name or id."""
        return journey if "/" in journey else names.journey(self.account_id, journey)

    def target_name(self, target: str) -> str:
        """The full name of a milestone ("journey/milestone") or of an audience (an id)."""
        if target.startswith("accounts/"):
            return target
        journey, slash, milestone = target.partition("/")
        if slash:
            return names.milestone(self.account_id, journey, milestone)
        return names.audience(self.account_id, target)

    def audience_name(self, target: str) -> str:
        """The name of an audience given by name, id, or its milestone; asks the service about a milestone."""
        name = self.target_name(target)
        return self.get_milestone(name).audience if "/milestones/" in name else name

    # --- readiness ---

    def is_serving(self, timeout: float = HEALTH_CALL_SECONDS) -> bool:
        """Whether the service reports SERVING within `timeout` seconds."""
        return is_serving(self._plain_channel, timeout)

    def wait_until_serving(self, timeout: float) -> bool:
        """Waits until the service is SERVING. False after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while (remaining := deadline - time.monotonic()) > 0:
            if self.is_serving(min(remaining, HEALTH_CALL_SECONDS)):
                return True
            time.sleep(HEALTH_POLL_SECONDS)
        return False

    # --- data ---

    def ingest_events(
        self,
        events: Iterable[Event],
        *,
        input: str = "",
        request_id: str = "",
        batch_rows: int = BATCH_ROWS_MAX,
        concurrency: int = SEND_CONCURRENCY,
        progress: Progress | None = None,
    ) -> Sent:
        """Sends events in batches below the service's limits. `input` applies to events without one.

        Each batch has a request id, `request_id` and its number, and is sent again under it while the service
        is out of reach, so it is applied once. Give a `request_id` of your own to repeat a whole import after
        a crash. Refused events are in the answer; any other refusal is raised.
        """
        send = events_sender(self.ingest.IngestEvents, self.account_name, input)
        return send(events, request_id or str(uuid.uuid4()), batch_rows, concurrency, progress)

    def upsert_users(
        self,
        users: Iterable[UserUpdate],
        *,
        input: str = "",
        request_id: str = "",
        batch_rows: int = BATCH_ROWS_MAX,
        concurrency: int = SEND_CONCURRENCY,
        progress: Progress | None = None,
    ) -> Sent:
        """Creates users or updates their data, in batches as in `ingest_events`."""
        send = users_sender(self.ingest.UpsertUsers, self.account_name, input)
        return send(users, request_id or str(uuid.uuid4()), batch_rows, concurrency, progress)

    def import_events(
        self,
        batches: Iterable[Any],
        *,
        input: str = "",
        columns: ImportHeader | None = None,
        request_id: str = "",
        timeout: float = IMPORT_TIMEOUT_SECONDS,
        rows_sent: RowsSent | None = None,
    ) -> Imported:
        """Sends events as pyarrow record batches of one schema, in one call; `input` is that of rows that
        name none ("workspace/input"), `columns` says what the columns mean (see `ImportHeader`).

        Sequences of batches with a `request_id` are sent again while the service is out of reach, and applied
        once. Refused rows are in the answer; any other refusal is raised. At least one batch is needed, an
        empty one will do.
        """
        header = ImportHeader()
        if columns is not None:
            header.CopyFrom(columns)
        header.parent = self.account_name
        header.input = self.input_name(input) if input else header.input
        header.request_id = request_id or header.request_id
        return send_import(self.ingest.ImportEvents, header, batches, timeout, rows_sent)

    def import_users(
        self,
        batches: Iterable[Any],
        *,
        input: str = "",
        columns: ImportUsersHeader | None = None,
        request_id: str = "",
        timeout: float = IMPORT_TIMEOUT_SECONDS,
        rows_sent: RowsSent | None = None,
    ) -> Imported:
        """Sends user updates as pyarrow record batches of one schema, in one call: each row creates a user or
        changes what is known of one. `columns` says which columns are identities and consents (see
        `ImportUsersHeader`); the others are attributes. Everything else is as in `import_events`.
        """
        header = ImportUsersHeader()
        if columns is not None:
            header.CopyFrom(columns)
        header.parent = self.account_name
        header.input = self.input_name(input) if input else header.input
        header.request_id = request_id or header.request_id
        return send_import(self.ingest.ImportUsers, header, batches, timeout, rows_sent)

    # --- pages ---

    def pages(self, method: Callable[[Any], Any], request: Any) -> Iterator[Any]:
        """Every page of a list method, as `client.pages(client.journeys.ListJourneys, request)`."""
        following = type(request)()
        following.CopyFrom(request)
        while True:
            page = method(following)
            yield page
            if not page.next_page_token:
                return
            following.page_token = page.next_page_token

    def list_journeys(self, *, query: str = "", order_by: str = "") -> Iterator[Journey]:
        """The account's journeys with their counts."""
        request = ListJourneysRequest(
            parent=self.account_name, page_size=PAGE_SIZE, query=query, order_by=order_by
        )
        for page in self.pages(self.journeys.ListJourneys, request):
            yield from page.journeys

    def list_milestones(self, journey: str) -> Iterator[Milestone]:
        """A journey's milestones, parents before children and siblings in order."""
        request = ListMilestonesRequest(parent=self.journey_name(journey), page_size=PAGE_SIZE)
        for page in self.pages(self.journeys.ListMilestones, request):
            yield from page.milestones

    def list_members(
        self, target: str, *, as_of: datetime | None = None, at_least: str = "", page_size: int = PAGE_SIZE
    ) -> Iterator[str]:
        """The user ids in a milestone or an audience, all evaluated at one instant."""
        request = ListMembersRequest(
            parent=self.target_name(target),
            page_size=page_size,
            as_of=None if as_of is None else to_timestamp(as_of),
            at_least=at_least,
        )
        for page in self.pages(self.audiences.ListMembers, request):
            yield from page.user_ids

    # --- what data came with ---

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
        """Attributes of users, in one workspace or all; or of the events of a name, through one input or
        all.
        """
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
        self, workspace: str, key: str, *, prefix: str = "", page_size: int = PAGE_SIZE
    ) -> Iterator[ValueCount]:
        """The values that users have for an attribute, most frequent first; each page is counted when it is
        asked for.
        """
        request = ListAttributeValuesRequest(
            parent=self.workspace_name(workspace), key=key, prefix=prefix, page_size=page_size
        )
        for page in self.pages(self.catalog.ListAttributeValues, request):
            yield from page.values

    def list_audience_sizes(
        self, target: str, *, interval: SizeInterval.ValueType = SIZE_INTERVAL_DAY
    ) -> Iterator[AudienceSizePoint]:
        """Past sizes of a calculated audience, by day or `SIZE_INTERVAL_HOUR`, latest first."""
        request = ListAudienceSizesRequest(
            parent=self.audience_name(target), page_size=PAGE_SIZE, interval=interval
        )
        for page in self.pages(self.audiences.ListAudienceSizes, request):
            yield from page.audience_sizes

    # --- single resources ---

    def get_account(self) -> Account:
        """The client's account."""
        return self.accounts.GetAccount(GetAccountRequest(name=self.account_name)).account

    def get_journey(self, journey: str) -> Journey:
        """A journey with its counts."""
        return self.journeys.GetJourney(GetJourneyRequest(name=self.journey_name(journey))).journey

    def get_milestone(self, milestone: str) -> Milestone:
        """A milestone, "journey/milestone" or by name."""
        request = GetMilestoneRequest(name=self.target_name(milestone))
        return self.journeys.GetMilestone(request).milestone

    def get_audience(self, target: str) -> Audience:
        """An audience with the size to show."""
        return self.audiences.GetAudience(GetAudienceRequest(name=self.audience_name(target))).audience

    # --- sizes and membership ---

    def estimate(
        self,
        target: str | MilestoneDraft,
        *,
        exact: bool = False,
        max_relative_error: float | None = None,
        time_budget: timedelta | None = None,
        as_of: datetime | None = None,
        at_least: str = "",
    ) -> EstimateAudienceResponse:
        """The size of a milestone, saved or draft, and of each labelled criterion; see `EstimateAudience`.

        At most one of `exact`, `max_relative_error` and `time_budget`; without, exact when that is quick.
        """
        request = EstimateAudienceRequest(
            as_of=None if as_of is None else to_timestamp(as_of), at_least=at_least
        )
        if isinstance(target, MilestoneDraft):
            request.draft.CopyFrom(target)
        else:
            request.name = self.target_name(target)
        if exact + (max_relative_error is not None) + (time_budget is not None) > 1:
            raise ValueError("give at most one of exact, max_relative_error and time_budget")
        if exact:
            request.exact = True
        if max_relative_error is not None:
            request.max_relative_error = max_relative_error
        if time_budget is not None:
            request.time_budget.CopyFrom(to_duration(time_budget))
        return self.audiences.EstimateAudience(request)

    def count(
        self, target: str, *, as_of: datetime | None = None, at_least: str = ""
    ) -> CountAudienceResponse:
        """The exact size, now or at `as_of`."""
        return self.audiences.CountAudience(
            CountAudienceRequest(
                name=self.target_name(target),
                as_of=None if as_of is None else to_timestamp(as_of),
                at_least=at_least,
            )
        )

    def check(self, user_id: str, target: str, *, at_least: str = "") -> bool:
        """Whether the user is in the audience."""
        request = CheckMembershipRequest(
            audience=self.audience_name(target), user_id=user_id, at_least=at_least
        )
        return self.audiences.CheckMembership(request).member

    def check_many(
        self, user_ids: Sequence[str], audiences: Sequence[str], *, at_least: str = ""
    ) -> dict[str, set[str]]:
        """The names of the audiences of each user. At most 10,000 pairs."""
        asked = [self.audience_name(audience) for audience in audiences]
        answer = self.audiences.BatchCheckMembership(
            BatchCheckMembershipRequest(
                parent=self.account_name, user_ids=user_ids, audiences=asked, at_least=at_least
            )
        )
        return {
            user.user_id: {
                name
                for name, status in zip(asked, user.statuses, strict=True)
                if status == MEMBERSHIP_STATUS_MEMBER
            }
            for user in answer.users
        }

    def watch(
        self, target: str, *, cursor: int | None = None, progress_interval: timedelta | None = None
    ) -> Watch:
        """Changes of a calculated audience after `cursor`. Without one, every current member comes first.

        Iterating over it gives `MembershipSnapshot`, `MembershipChange` and `ProgressMark` messages and goes
        on over broken connections; see `Watch`.
        """
        interval = None if progress_interval is None else to_duration(progress_interval)
        request = WatchMembershipRequest(audience=self.audience_name(target), progress_interval=interval)
        if cursor is None:
            request.snapshot = True
        else:
            request.cursor = cursor
        return Watch(self.audiences.WatchMembership, request, WATCH_ATTEMPTS_MAX)

    # --- create, or get what is there ---

    def ensure_account(self, *, display_name: str = "") -> Account:
        """The client's account, created if missing."""
        account = Account(display_name=display_name or self.account_id)
        return _ensure(
            self.get_account,
            lambda: (
                self.accounts.CreateAccount(
                    CreateAccountRequest(account_id=self.account_id, account=account)
                ).account
            ),
        )

    def ensure_workspace(self, workspace_id: str, *, display_name: str = "") -> Workspace:
        """A workspace, created if missing."""
        name = names.workspace(self.account_id, workspace_id)
        workspace = Workspace(display_name=display_name or workspace_id)
        return _ensure(
            lambda: self.accounts.GetWorkspace(GetWorkspaceRequest(name=name)).workspace,
            lambda: (
                self.accounts.CreateWorkspace(
                    CreateWorkspaceRequest(
                        parent=self.account_name, workspace_id=workspace_id, workspace=workspace
                    )
                ).workspace
            ),
        )

    def ensure_input(self, workspace_id: str, input_id: str, *, display_name: str = "") -> Input:
        """An input, created with its workspace if missing."""
        parent = self.ensure_workspace(workspace_id).name
        name = names.input_(self.account_id, workspace_id, input_id)
        made = Input(display_name=display_name or input_id)
        return _ensure(
            lambda: self.accounts.GetInput(GetInputRequest(name=name)).input,
            lambda: (
                self.accounts.CreateInput(
                    CreateInputRequest(parent=parent, input_id=input_id, input=made)
                ).input
            ),
        )

    def ensure_journey(
        self, journey_id: str, *, display_name: str = "", inputs: Sequence[str] = ()
    ) -> Journey:
        """A journey, created if missing. An existing one stays unchanged."""
        journey = Journey(display_name=display_name or journey_id, inputs=inputs)
        return _ensure(
            lambda: self.get_journey(journey_id),
            lambda: (
                self.journeys.CreateJourney(
                    CreateJourneyRequest(parent=self.account_name, journey_id=journey_id, journey=journey)
                ).journey
            ),
        )

    def ensure_milestone(
        self,
        journey: str,
        milestone_id: str,
        *,
        criteria: Criteria | None = None,
        display_name: str = "",
        parent_milestone: str = "",
    ) -> Milestone:
        """A milestone, created if missing. An existing one stays unchanged. No criteria = remaining users."""
        parent = self.journey_name(journey)
        milestone = Milestone(
            display_name=display_name or milestone_id,
            parent_milestone=self.target_name(parent_milestone) if parent_milestone else "",
            kind=MILESTONE_KIND_REMAINING_USERS if criteria is None else MILESTONE_KIND_CRITERIA,
            criteria=criteria,
        )
        return _ensure(
            lambda: self.get_milestone(f"{parent}/milestones/{milestone_id}"),
            lambda: (
                self.journeys.CreateMilestone(
                    CreateMilestoneRequest(parent=parent, milestone_id=milestone_id, milestone=milestone)
                ).milestone
            ),
        )

    def ensure_file_output(self, output_id: str, *, path: str = "") -> Output:
        """An output of NDJSON files on the service's disk, created if missing. Default path: its id."""
        name = names.output(self.account_id, output_id)
        output = Output(display_name=output_id, file=FileOutput(path=path or output_id))
        return _ensure(
            lambda: self.connections.GetOutput(GetOutputRequest(name=name)).output,
            lambda: (
                self.connections.CreateOutput(
                    CreateOutputRequest(parent=self.account_name, output_id=output_id, output=output)
                ).output
            ),
        )

    def ensure_connection(self, connection_id: str, *, target: str, output: str) -> Connection:
        """A connection of an audience to an output, created INACTIVE if missing."""
        name = names.connection(self.account_id, connection_id)
        connection = Connection(audience=self.audience_name(target), output=output)
        return _ensure(
            lambda: self.connections.GetConnection(GetConnectionRequest(name=name)).connection,
            lambda: (
                self.connections.CreateConnection(
                    CreateConnectionRequest(
                        parent=self.account_name, connection_id=connection_id, connection=connection
                    )
                ).connection
            ),
        )

    # --- activation ---

    def activate(self, connection: str) -> Connection:
        """Activates a connection, given by name or id."""
        request = ActivateConnectionRequest(name=self._connection_name(connection))
        return self.connections.ActivateConnection(request).connection

    def deactivate(self, connection: str) -> Connection:
        """Deactivates a connection, given by name or id."""
        request = DeactivateConnectionRequest(name=self._connection_name(connection))
        return self.connections.DeactivateConnection(request).connection

    def _connection_name(self, connection: str) -> str:
        return connection if "/" in connection else names.connection(self.account_id, connection)


def _ensure(get: Callable[[], Made], create: Callable[[], Made]) -> Made:
    try:
        return get()
    except NotFound:
        pass
    try:
        return create()
    except AlreadyExists:
        # Somebody else was quicker.
        return get()
