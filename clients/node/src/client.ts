/** The client of a service, with a default account. */

import { create, equals, type DescMessage, type MessageInitShape, type MessageShape } from "@bufbuild/protobuf";
import { Code, createClient, type Client as ServiceClient } from "@connectrpc/connect";
import { randomUUID } from "node:crypto";
import { requireSeveral } from "./arguments.js";
import { BATCH_ROWS_MAX, type Sent } from "./batches.js";
import { CoalescedChecks } from "./coalescing.js";
import { isNotFound, MilepostError } from "./errors.js";
import { AccountSchema, InputSchema, WorkspaceSchema, type Account, type Input, type Workspace } from "./gen/milepost/v1/account_pb.js";
import { AccountService } from "./gen/milepost/v1/account_service_pb.js";
import { AdminService } from "./gen/milepost/v1/admin_service_pb.js";
import { SizeState, type Audience } from "./gen/milepost/v1/audience_pb.js";
import {
  AudienceService,
  MembershipStatus,
  WatchMembershipRequestSchema,
  type CompareAudiencesResponse,
  type CountAudienceResponse,
  type EstimateAudienceResponse,
  type ExplainMembershipResponse,
  type GetJourneyFunnelResponse,
  type MilestoneDraft,
} from "./gen/milepost/v1/audience_service_pb.js";
import { CatalogService } from "./gen/milepost/v1/catalog_service_pb.js";
import { ConnectionSchema, OutputSchema, type Connection, type Output } from "./gen/milepost/v1/connection_pb.js";
import { ConnectionService } from "./gen/milepost/v1/connection_service_pb.js";
import type { Criteria } from "./gen/milepost/v1/criteria_pb.js";
import { EventSchema, UserUpdateSchema, type Event, type UserUpdate } from "./gen/milepost/v1/data_pb.js";
import { IngestService } from "./gen/milepost/v1/ingest_service_pb.js";
import {
  JourneySchema,
  MilestoneKind,
  MilestoneSchema,
  type Journey,
  type JourneyDocument,
  type Milestone,
} from "./gen/milepost/v1/journey_pb.js";
import { JourneyService, type ApplyJourneyResponse } from "./gen/milepost/v1/journey_service_pb.js";
import { LocalChecks, type LocalOptions } from "./local.js";
import { lastId, Names } from "./names.js";
import { withRetry } from "./retrying.js";
import { sendRows, type SendOptions } from "./sending.js";
import { EventStream } from "./stream.js";
import { MilepostTransport, type Tls } from "./transport.js";
import { toDuration, toTimestamp, type Length } from "./values.js";
import { Watch, WATCH_ATTEMPTS_MAX, WatchTogether } from "./watching.js";

const DEFAULT_TARGET = "localhost:7443";
const TIMEOUT_MS = 60_000;
const PAGE_SIZE = 1_000;
const CONCURRENCY = 4;
const UNACKNOWLEDGED_MAX = 8;
const REMAINING_USERS = "Remaining users";

/** Who calls, and how. */
export interface ClientOptions {
  /** Id or name of the account that names are in. */
  account?: string;
  /** Default: the variable MILEPOST_API_KEY. */
  apiKey?: string;
  /** `true` trusts the CAs of the system; files' contents identify the client and name others. */
  tls?: Tls;
  /** Deadline of calls with one answer. */
  timeoutMs?: number;
  /** Joins checks that are asked at the same time into one call for each audience: many more a second. */
  coalesceChecks?: boolean;
}

/** The instant to answer for (default: now), and a revision of an earlier write that the answer must include. */
export interface ReadOptions {
  asOf?: Date;
  atLeast?: string;
}

/** How precise an estimate has to be. Without any, it is exact when that is fast. */
export interface EstimateOptions extends ReadOptions {
  exact?: true;
  maxRelativeError?: number;
  timeBudget?: Length;
}

/** A page of a list, and where the next one begins. */
interface Page {
  nextPageToken: string;
}

/** An iterable or an async one. */
type Many<T> = Iterable<T> | AsyncIterable<T>;

/**
 * A client. One serves a whole process, over one connection. Every refusal is a MilepostError.
 *
 * The questions that services ask all the time have methods here. `accounts`, `admin`, `audiences`, `catalog`,
 * `connections`, `ingest` and `journeys` call every method of the contract as it is.
 */
export class Client {
  readonly names: Names;
  readonly accounts: ServiceClient<typeof AccountService>;
  readonly admin: ServiceClient<typeof AdminService>;
  readonly audiences: ServiceClient<typeof AudienceService>;
  readonly catalog: ServiceClient<typeof CatalogService>;
  readonly connections: ServiceClient<typeof ConnectionService>;
  readonly ingest: ServiceClient<typeof IngestService>;
  readonly journeys: ServiceClient<typeof JourneyService>;
  readonly #transport: MilepostTransport;
  readonly #coalesced: CoalescedChecks | undefined;

  constructor(target = DEFAULT_TARGET, options: ClientOptions = {}) {
    const { account = "", tls = false, timeoutMs = TIMEOUT_MS } = options;
    const apiKey = options.apiKey ?? process.env["MILEPOST_API_KEY"] ?? "";
    const transport = new MilepostTransport({ target, tls, apiKey, timeoutMs });
    this.names = new Names(account);
    this.#transport = transport;
    this.accounts = createClient(AccountService, transport);
    this.admin = createClient(AdminService, transport);
    this.audiences = createClient(AudienceService, transport);
    this.catalog = createClient(CatalogService, transport);
    this.connections = createClient(ConnectionService, transport);
    this.ingest = createClient(IngestService, transport);
    this.journeys = createClient(JourneyService, transport);
    if (options.coalesceChecks === true) {
      this.#coalesced = new CoalescedChecks(
        (userIds, audience) => this.#membersAmong(userIds, audience),
        (userId, audience) => this.#checkAlone(userId, audience, {}),
      );
    }
  }

  /** Ends the connection, and every call with it. */
  close(): void {
    this.#transport.close();
  }

  /** Every page of a list: `client.pages((page) => client.accounts.listInputs({ parent, ...page }))`. */
  async *pages<P extends Page>(
    list: (page: { pageSize: number; pageToken: string }) => Promise<P>,
    pageSize = PAGE_SIZE,
  ): AsyncGenerator<P> {
    let pageToken = "";
    do {
      const page = await list({ pageSize, pageToken });
      yield page;
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
  }

  // --- data ---

  /** Sends events in batches, and waits until all are stored or rejected. Rejected ones throw nothing. */
  async ingestEvents(events: Many<Event>, input: string, options: SendOptions = {}): Promise<Sent> {
    requireSeveral("events", events);
    const [parent, name] = [this.names.account, this.names.input(input)];
    return await sendRows(
      EventSchema,
      events,
      ({ rows, requestId }) => this.ingest.ingestEvents({ parent, input: name, events: rows, requestId }),
      sendOptions(options),
    );
  }

  /** Sends user updates in batches, and waits until all are stored or rejected. */
  async upsertUsers(users: Many<UserUpdate>, input: string, options: SendOptions = {}): Promise<Sent> {
    requireSeveral("users", users);
    const [parent, name] = [this.names.account, this.names.input(input)];
    return await sendRows(
      UserUpdateSchema,
      users,
      ({ rows, requestId }) => this.ingest.upsertUsers({ parent, input: name, users: rows, requestId }),
      sendOptions(options),
    );
  }

  /** A stream for events that come as they come. Close it: that waits for the acknowledgements. */
  eventStream(
    input: string,
    options: { unacknowledgedMax?: number; batchRows?: number; requestId?: string } = {},
  ): EventStream {
    const {
      unacknowledgedMax = UNACKNOWLEDGED_MAX,
      batchRows = BATCH_ROWS_MAX,
      requestId = randomUUID(),
    } = options;
    return new EventStream((requests, { signal }) => this.ingest.streamEvents(requests, { signal }), {
      parent: this.names.account,
      input: this.names.input(input),
      requestId,
      unacknowledgedMax,
      batchRows,
    });
  }

  /** Erases users. The revision of the answer includes it. */
  async deleteUsers(userIds: readonly string[]): Promise<string> {
    requireSeveral("userIds", userIds);
    const { revision } = await this.ingest.deleteUsers({ parent: this.names.account, userIds: [...userIds] });
    return revision;
  }

  // --- accounts and inputs ---

  /** The account, created if missing. */
  async ensureAccount({ displayName = "" }: { displayName?: string } = {}): Promise<Account> {
    const asked = { name: this.names.account, displayName };
    return await this.#ensure(
      AccountSchema,
      asked,
      async () => (await this.accounts.getAccount({ name: asked.name })).account,
      async (requestId) =>
        (await this.accounts.createAccount({ accountId: this.names.accountId, account: { displayName }, requestId }))
          .account,
      async (account, updateMask) => (await this.accounts.updateAccount({ account, updateMask })).account,
    );
  }

  /** An input and its workspace, created if missing. */
  async ensureInput(workspaceId: string, inputId: string, { displayName = "" } = {}): Promise<Input> {
    const parent = this.names.workspace(workspaceId);
    await this.ensureWorkspace(workspaceId);
    const asked = { name: `${parent}/inputs/${inputId}`, displayName };
    return await this.#ensure(
      InputSchema,
      asked,
      async () => (await this.accounts.getInput({ name: asked.name })).input,
      async (requestId) =>
        (await this.accounts.createInput({ parent, inputId, input: { displayName }, requestId })).input,
      async (input, updateMask) => (await this.accounts.updateInput({ input, updateMask })).input,
    );
  }

  /** A workspace, created if missing. */
  async ensureWorkspace(workspaceId: string, { displayName = "" } = {}): Promise<Workspace> {
    const asked = { name: this.names.workspace(workspaceId), displayName };
    return await this.#ensure(
      WorkspaceSchema,
      asked,
      async () => (await this.accounts.getWorkspace({ name: asked.name })).workspace,
      async (requestId) =>
        (
          await this.accounts.createWorkspace({
            parent: this.names.account,
            workspaceId,
            workspace: { displayName },
            requestId,
          })
        ).workspace,
      async (workspace, updateMask) => (await this.accounts.updateWorkspace({ workspace, updateMask })).workspace,
    );
  }

  // --- journeys ---

  /** A journey, created if missing, and changed where it differs from what is given. */
  async ensureJourney(
    journeyId: string,
    { displayName = "", inputs = [] }: { displayName?: string; inputs?: readonly string[] } = {},
  ): Promise<Journey> {
    requireSeveral("inputs", inputs);
    const named = inputs.map((input) => this.names.input(input));
    const asked = { name: this.names.journey(journeyId), displayName, inputs: named };
    return await this.#ensure(
      JourneySchema,
      asked,
      async () => (await this.journeys.getJourney({ name: asked.name })).journey,
      async (requestId) =>
        (
          await this.journeys.createJourney({
            parent: this.names.account,
            journeyId,
            journey: { displayName: displayName || journeyId, inputs: named },
            requestId,
          })
        ).journey,
      async (journey, updateMask) => (await this.journeys.updateJourney({ journey, updateMask })).journey,
    );
  }

  /**
   * A milestone, created if missing, and changed where it differs from what is given. Without criteria it takes the
   * remaining users. `parentMilestone` is of the same journey: its id, "journey/milestone", or its name.
   */
  async ensureMilestone(
    journey: string,
    milestoneId: string,
    options: { criteria?: Criteria; displayName?: string; parentMilestone?: string } = {},
  ): Promise<Milestone> {
    const { criteria, displayName = "", parentMilestone = "" } = options;
    const parent = this.names.journey(journey);
    const asked = {
      name: `${parent}/milestones/${milestoneId}`,
      displayName,
      parentMilestone: parentMilestone === "" ? "" : this.names.milestone(parentMilestone, journey),
      kind: criteria === undefined ? MilestoneKind.REMAINING_USERS : MilestoneKind.CRITERIA,
      ...(criteria === undefined ? {} : { criteria }),
    };
    const named = displayName || (criteria === undefined ? REMAINING_USERS : milestoneId);
    return await this.#ensure(
      MilestoneSchema,
      asked,
      async () => (await this.journeys.getMilestone({ name: asked.name })).milestone,
      async (requestId) =>
        (
          await this.journeys.createMilestone({
            parent,
            milestoneId,
            milestone: { ...asked, name: "", displayName: named },
            requestId,
          })
        ).milestone,
      async (milestone, updateMask) => (await this.journeys.updateMilestone({ milestone, updateMask })).milestone,
    );
  }

  /** A journey's milestones, parents before children and siblings in order. */
  async *listMilestones(journey: string): AsyncGenerator<Milestone> {
    const parent = this.names.journey(journey);
    for await (const page of this.pages((asked) => this.journeys.listMilestones({ parent, ...asked }))) {
      yield* page.milestones;
    }
  }

  /** Makes a journey what the document says, all of it or nothing. */
  async applyJourney(
    document: JourneyDocument,
    { etag = "", validateOnly = false }: { etag?: string; validateOnly?: boolean } = {},
  ): Promise<ApplyJourneyResponse> {
    return await this.journeys.applyJourney({ parent: this.names.account, document, etag, validateOnly });
  }

  // --- sizes ---

  /** The size of a milestone, saved or draft, and of each labelled criterion. Throws when one could not be computed. */
  async estimate(target: string | MilestoneDraft, options: EstimateOptions = {}): Promise<EstimateAudienceResponse> {
    const answer = await this.audiences.estimateAudience({
      target:
        typeof target === "string"
          ? { case: "name", value: this.names.target(target) }
          : { case: "draft", value: target },
      precision: precisionOf(options),
      ...read(options),
    });
    const sizes = [answer.size, ...answer.labelled.map((each) => each.size), answer.draw];
    const failed = sizes.find((size) => size?.state === SizeState.FAILED);
    if (failed !== undefined) {
      throw new MilepostError(`a size could not be computed: ${failed.failure}`, Code.DataLoss);
    }
    return answer;
  }

  /** The exact size. */
  async count(target: string, options: ReadOptions = {}): Promise<CountAudienceResponse> {
    return await this.audiences.countAudience({ name: this.names.target(target), ...read(options) });
  }

  /** The exact size of every intersection of 2-5 audiences or milestones. */
  async compareAudiences(targets: readonly string[], options: ReadOptions = {}): Promise<CompareAudiencesResponse> {
    const audiences = this.names.targets(targets);
    return await this.audiences.compareAudiences({ audiences, ...read(options) });
  }

  /** The exact size of each milestone of a journey, all at one instant. */
  async getJourneyFunnel(journey: string, options: ReadOptions = {}): Promise<GetJourneyFunnelResponse> {
    return await this.audiences.getJourneyFunnel({ name: this.names.journey(journey), ...read(options) });
  }

  // --- membership ---

  /** Whether the user is in the audience: "journey/milestone", an audience's id, or a name. */
  async check(userId: string, target: string, options: ReadOptions = {}): Promise<boolean> {
    const audience = this.names.target(target);
    const isPlain = options.asOf === undefined && options.atLeast === undefined;
    return this.#coalesced !== undefined && isPlain
      ? await this.#coalesced.check(userId, audience)
      : await this.#checkAlone(userId, audience, options);
  }

  async #checkAlone(userId: string, audience: string, options: ReadOptions): Promise<boolean> {
    const { member } = await this.audiences.checkMembership({ audience, userId, ...read(options) });
    return member;
  }

  async #membersAmong(userIds: readonly string[], audience: string): Promise<Map<string, boolean>> {
    const found = await this.checkMany(userIds, [audience]);
    return new Map([...found].map(([userId, audiences]) => [userId, audiences.has(audience)]));
  }

  /** For each user the full names of those audiences that the user is in. At most 10,000 pairs. */
  async checkMany(
    userIds: readonly string[],
    targets: readonly string[],
    options: ReadOptions = {},
  ): Promise<Map<string, Set<string>>> {
    requireSeveral("userIds", userIds);
    const asked = this.names.targets(targets);
    const { users } = await this.audiences.batchCheckMembership({
      parent: this.names.account,
      userIds: [...userIds],
      audiences: asked,
      ...read(options),
    });
    return new Map(
      users.map(({ userId, statuses }) => {
        const unknown = statuses.indexOf(MembershipStatus.UNKNOWN_AUDIENCE);
        if (unknown >= 0) {
          throw notFound(asked[unknown] ?? "");
        }
        const found = asked.filter((_, index) => statuses[index] === MembershipStatus.MEMBER);
        return [userId, new Set(found)];
      }),
    );
  }

  /** The audiences that a user is in, in order of name and without sizes. */
  async *listUserAudiences(userId: string, options: ReadOptions = {}): AsyncGenerator<Audience> {
    const request = { parent: this.names.account, userId, ...read(options) };
    for await (const page of this.pages((asked) => this.audiences.listUserAudiences({ ...request, ...asked }))) {
      yield* page.audiences;
    }
  }

  /** The user ids in a milestone or an audience by pages, all evaluated at one instant. */
  async *listMembers(
    target: string,
    { pageSize = PAGE_SIZE, ...options }: ReadOptions & { pageSize?: number } = {},
  ): AsyncGenerator<string> {
    const request = { parent: this.names.target(target), ...read(options) };
    const list = (asked: { pageSize: number; pageToken: string }) =>
      this.audiences.listMembers({ ...request, ...asked });
    for await (const page of this.pages(list, pageSize)) {
      yield* page.userIds;
    }
  }

  /** All user ids in a milestone or an audience in one stream, evaluated at one instant. */
  async *exportMembers(target: string, options: ReadOptions = {}): AsyncGenerator<string> {
    const ended = new AbortController();
    const request = { name: this.names.target(target), ...read(options) };
    try {
      for await (const part of this.audiences.exportMembers(request, { signal: ended.signal })) {
        yield* part.userIds;
      }
    } finally {
      // A caller who stops early leaves nothing running on the service.
      ended.abort();
    }
  }

  /** Which criteria let the user into the audience, or keep it out. */
  async explainMembership(
    userId: string,
    target: string,
    options: ReadOptions = {},
  ): Promise<ExplainMembershipResponse> {
    return await this.audiences.explainMembership({ name: this.names.target(target), userId, ...read(options) });
  }

  /**
   * Changes of a calculated audience after `cursor`, which is one of the `epoch` that came with it. Without one, a
   * snapshot of its members comes first.
   */
  watch(
    target: string,
    options: {
      cursor?: bigint | undefined;
      epoch?: string;
      progressInterval?: Length;
      attemptsMax?: number;
    } = {},
  ): Watch {
    const { cursor, epoch = "", progressInterval, attemptsMax = WATCH_ATTEMPTS_MAX } = options;
    const request = create(WatchMembershipRequestSchema, {
      audience: this.names.target(target),
      start: cursor === undefined ? { case: "snapshot", value: true } : { case: "cursor", value: cursor },
      epoch,
      ...(progressInterval === undefined ? {} : { progressInterval: toDuration(progressInterval) }),
    });
    return new Watch((asked, call) => this.audiences.watchMembership(asked, call), request, { attemptsMax });
  }

  /**
   * Changes of up to 200 calculated audiences in one stream, after a `position` of an earlier watch. Without one, and for
   * an audience that is not in it, a snapshot of the members comes first. See `WatchTogether`.
   */
  watchTogether(
    targets: Iterable<string>,
    options: { position?: string; progressInterval?: Length; attemptsMax?: number } = {},
  ): WatchTogether {
    requireSeveral("targets", targets);
    const { position = "", progressInterval, attemptsMax = WATCH_ATTEMPTS_MAX } = options;
    const request = create(WatchMembershipRequestSchema, {
      start: { case: "position", value: position },
      ...(progressInterval === undefined ? {} : { progressInterval: toDuration(progressInterval) }),
    });
    return new WatchTogether((asked, call) => this.audiences.watchMembership(asked, call), request, {
      attemptsMax,
      targets: new Map([...targets].map((target) => [this.names.target(target), target])),
    });
  }

  /** Changes for an active connection to an output of kind `watch`, after those acknowledged; a snapshot before any are. */
  async watchConnection(
    connection: string,
    { progressInterval }: { progressInterval?: Length } = {},
  ): Promise<Watch> {
    const name = this.names.connection(connection);
    const found = (await this.connections.getConnection({ name })).connection;
    const request = create(WatchMembershipRequestSchema, {
      audience: found?.audience ?? "",
      start: { case: "connection", value: name },
      ...(progressInterval === undefined ? {} : { progressInterval: toDuration(progressInterval) }),
    });
    return new Watch((asked, call) => this.audiences.watchMembership(asked, call), request, {
      attemptsMax: WATCH_ATTEMPTS_MAX,
      acknowledge: async (cursor, epoch) => {
        await this.connections.acknowledgeChanges({ name, cursor, epoch, activation: found?.activation ?? 0n });
      },
    });
  }

  /** Follows activated audiences into this process, to check users without a call. Waits for the members. */
  async local(targets: readonly string[], options: LocalOptions = {}): Promise<LocalChecks> {
    const follows = {
      target: (given: string) => this.names.target(given),
      watch: this.watch.bind(this),
      check: (userId: string, target: string) => this.check(userId, target),
    };
    const local = new LocalChecks(follows, targets, options);
    try {
      return await local.ready(options.readyTimeoutMs);
    } catch (error) {
      local.close();
      throw error;
    }
  }

  // --- outputs and connections ---

  /** An output of that kind and address, created if missing, and changed where it differs. */
  async ensureOutput(
    outputId: string,
    kind: NonNullable<MessageInitShape<typeof OutputSchema>["kind"]>,
    { displayName = "" } = {},
  ): Promise<Output> {
    const asked = { name: this.names.output(outputId), displayName, kind };
    return await this.#ensure(
      OutputSchema,
      asked,
      async () => (await this.connections.getOutput({ name: asked.name })).output,
      async (requestId) =>
        (
          await this.connections.createOutput({
            parent: this.names.account,
            outputId,
            output: { displayName: displayName || outputId, kind },
            requestId,
          })
        ).output,
      async (output, updateMask) => (await this.connections.updateOutput({ output, updateMask })).output,
    );
  }

  /** A connection of an audience, or a milestone's, to an output: created INACTIVE if missing. */
  async ensureConnection(
    connectionId: string,
    options: {
      target: string;
      output: string;
      identities?: readonly string[];
      attributes?: readonly string[];
      /** Send the exit of every member when the connection is deactivated. */
      exitsOnDeactivation?: boolean;
    },
  ): Promise<Connection> {
    const { target, output, identities = [], attributes = [], exitsOnDeactivation = false } = options;
    requireSeveral("identities", identities);
    requireSeveral("attributes", attributes);
    const asked = {
      name: this.names.connection(connectionId),
      audience: await this.audienceName(target),
      output: this.names.output(output),
      identities: [...identities],
      attributes: [...attributes],
      exitsOnDeactivation,
    };
    return await this.#ensure(
      ConnectionSchema,
      asked,
      async () => (await this.connections.getConnection({ name: asked.name })).connection,
      async (requestId) =>
        (
          await this.connections.createConnection({
            parent: this.names.account,
            connectionId,
            connection: { ...asked, name: "" },
            requestId,
          })
        ).connection,
      async (connection, updateMask) =>
        (await this.connections.updateConnection({ connection, updateMask })).connection,
    );
  }

  /** Activates a connection: every member is sent, then every change. */
  async activateConnection(connection: string): Promise<Connection> {
    const name = this.names.connection(connection);
    return found((await this.connections.activateConnection({ name })).connection, name);
  }

  /** Deactivates a connection: delivery stops, and the credit is returned. */
  async deactivateConnection(connection: string): Promise<Connection> {
    const name = this.names.connection(connection);
    return found((await this.connections.deactivateConnection({ name })).connection, name);
  }

  /** The name of the audience of a milestone; that of an audience as it is. */
  async audienceName(target: string): Promise<string> {
    const name = this.names.target(target);
    if (!name.includes("/milestones/")) {
      return name;
    }
    return (await this.journeys.getMilestone({ name })).milestone?.audience ?? "";
  }

  /** What is asked for: found, or created, or changed in the fields that are given and differ. */
  async #ensure<Desc extends DescMessage>(
    schema: Desc,
    given: MessageInitShape<Desc>,
    get: () => Promise<MessageShape<Desc> | undefined>,
    make: (requestId: string) => Promise<MessageShape<Desc> | undefined>,
    update: (
      changed: MessageShape<Desc>,
      updateMask: { paths: string[] },
    ) => Promise<MessageShape<Desc> | undefined>,
  ): Promise<MessageShape<Desc>> {
    const asked = create(schema, given);
    const what = (asked as unknown as { name: string }).name;
    const create_ = async (): Promise<MessageShape<Desc>> => {
      const requestId = randomUUID();
      return found(await withRetry(() => make(requestId)), what);
    };
    let present: MessageShape<Desc> | undefined;
    try {
      present = await get();
    } catch (error) {
      if (!isNotFound(error)) {
        throw error;
      }
      try {
        return await create_();
      } catch (raced) {
        if (!(raced instanceof MilepostError) || raced.code !== Code.AlreadyExists) {
          throw raced;
        }
        present = await get();
      }
    }
    const current = found(present, what);
    const paths = differing(schema, asked, current);
    return paths.length === 0 ? current : found(await update(asked, { paths }), what);
  }
}

/** The paths of fields that are given and differ from what is there. */
function differing<Desc extends DescMessage>(
  schema: Desc,
  asked: MessageShape<Desc>,
  current: MessageShape<Desc>,
): string[] {
  const alone = (of: MessageShape<Desc>, localName: string): MessageShape<Desc> =>
    create(schema, { [localName]: (of as Record<string, unknown>)[localName] } as MessageInitShape<Desc>);
  const members = schema.members.filter((member) => member.localName !== "name");
  return members
    .filter(({ localName }) => !equals(schema, alone(asked, localName), create(schema)))
    .filter(({ localName }) => !equals(schema, alone(asked, localName), alone(current, localName)))
    .map((member) => {
      if (member.kind === "oneof") {
        const chosen = (asked as Record<string, unknown>)[member.localName] as { case: string };
        return member.fields.find((field) => field.localName === chosen.case)?.name ?? member.name;
      }
      return member.name;
    });
}

function sendOptions({
  requestId = randomUUID(),
  concurrency = CONCURRENCY,
  batchRows = BATCH_ROWS_MAX,
}: SendOptions): Required<SendOptions> {
  return { requestId, concurrency, batchRows };
}

function read({ asOf, atLeast = "" }: ReadOptions): { atLeast: string; asOf?: ReturnType<typeof toTimestamp> } {
  return asOf === undefined ? { atLeast } : { atLeast, asOf: toTimestamp(asOf, "asOf") };
}

function precisionOf({ exact, maxRelativeError, timeBudget }: EstimateOptions) {
  if ([exact, maxRelativeError, timeBudget].filter((each) => each !== undefined).length > 1) {
    throw new TypeError("set at most one of exact, maxRelativeError and timeBudget");
  }
  if (exact !== undefined) {
    return { case: "exact", value: exact } as const;
  }
  if (maxRelativeError !== undefined) {
    return { case: "maxRelativeError", value: maxRelativeError } as const;
  }
  return timeBudget === undefined
    ? ({ case: undefined } as const)
    : ({ case: "timeBudget", value: toDuration(timeBudget) } as const);
}

function found<T>(resource: T | undefined, name: string): T {
  if (resource === undefined) {
    throw new MilepostError(`the service answered without ${lastId(name)}`, Code.Internal);
  }
  return resource;
}

function notFound(resource: string): MilepostError {
  return new MilepostError(`${resource} does not exist`, Code.NotFound, {
    reason: "RESOURCE_NOT_FOUND",
    info: { resource },
  });
}
