import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { Client, Code, isRead, makeEvent, makeUserUpdate, MilepostError, toValue, fromValue } from "../src/index.js";
import { attribute, event, eventAttribute, labelled } from "../src/criteria.js";
import { MilestoneDraftSchema } from "../src/gen/milepost/v1/audience_service_pb.js";
import { AccountService } from "../src/gen/milepost/v1/account_service_pb.js";
import { AdminService } from "../src/gen/milepost/v1/admin_service_pb.js";
import { AudienceService } from "../src/gen/milepost/v1/audience_service_pb.js";
import { CatalogService } from "../src/gen/milepost/v1/catalog_service_pb.js";
import { ConnectionService } from "../src/gen/milepost/v1/connection_service_pb.js";
import { IngestService } from "../src/gen/milepost/v1/ingest_service_pb.js";
import { JourneyService } from "../src/gen/milepost/v1/journey_service_pb.js";
import { readFile } from "node:fs/promises";
import { ROOT, Service } from "./support/service.js";
import { GOLD, INPUT, shop } from "./support/shop.js";

const DAY_MS = 86_400_000;
let service: Service;
let client: Client;

before(async () => {
  service = await Service.start();
  client = await shop(service.target);
});

after(async () => {
  client.close();
  await service.stop();
});

test("one in the place of several, and what is no Date, are TypeErrors with the argument", async () => {
  const odd = (value: unknown): never => value as never;
  const several: [string, () => unknown][] = [
    ["targets", () => client.compareAudiences(odd("j/m"))],
    ["targets", () => client.checkMany(["ann"], odd("j/m"))],
    ["userIds", () => client.checkMany(odd("j/m"), ["j/m"])],
    ["targets", () => client.watchTogether(odd("j/m"))],
    ["targets", () => client.local(odd("j/m"))],
    ["userIds", () => client.deleteUsers(odd("j/m"))],
    ["inputs", () => client.ensureJourney("j", { inputs: odd("j/m") })],
    ["events", () => client.ingestEvents(odd("j/m"), INPUT)],
    ["users", () => client.upsertUsers(odd("j/m"), INPUT)],
    ["identities", () => client.ensureConnection("c", { target: "x", output: "o", identities: odd("j/m") })],
    ["unset", () => makeUserUpdate("ann", {}, { unset: odd("j/m") })],
    ["values", () => attribute("tier").oneOf(odd("j/m"))],
    ["inputs", () => event("buy", { inputs: odd("j/m") })],
  ];
  for (const [argument, call] of several) {
    await assert.rejects(async () => await call(), {
      name: "TypeError",
      message: `${argument}: expected several in an array, not string "j/m": write ["j/m"]`,
    });
  }
  const dates: [string, string, () => unknown][] = [
    ["time", 'string "today"', () => makeEvent("ann", "buy", odd("today"))],
    ["time", "number 5", () => makeUserUpdate("ann", {}, { time: odd(5) })],
    ["time", "Date", () => makeEvent("ann", "buy", new Date("soon"))],
    ["asOf", 'string "today"', () => client.check("ann", "j/m", { asOf: odd("today") })],
  ];
  for (const [argument, came, call] of dates) {
    await assert.rejects(async () => await call(), {
      name: "TypeError",
      message: `${argument}: expected a valid Date, not ${came}`,
    });
  }
});

test("a parent is given by its id in the journey, or by more", async () => {
  await client.ensureJourney("nested");
  await client.ensureMilestone("nested", "top", { criteria: event("buy").happened() });
  const name = `${client.names.account}/journeys/nested/milestones/top`;
  for (const [index, parentMilestone] of ["top", "nested/top", name].entries()) {
    const made = await client.ensureMilestone("nested", `m${index}`, { criteria: event("visit").happened(), parentMilestone });
    assert.equal(made.parentMilestone, name);
  }
});

test("a first journey, as on the page", async () => {
  const now = Date.now();
  const sent = await client.ingestEvents(
    [
      makeEvent("ann", "buy", new Date(now - 3 * DAY_MS), { price: 60, department: "garden" }, { eventId: "1" }),
      makeEvent("ann", "buy", new Date(now - DAY_MS), { price: 45.5, department: "garden" }, { eventId: "2" }),
      makeEvent("bob", "buy", new Date(now - 2 * DAY_MS), { price: 20, department: "toys" }, { eventId: "3" }),
      makeEvent("eve", "visit", new Date(now - 3_600_000), {}, { eventId: "4" }),
    ],
    INPUT,
  );
  assert.deepEqual([sent.accepted, sent.duplicates, sent.rejected], [4, 0, 0]);

  const garden = event("buy", { where: eventAttribute("department").equals("garden"), last: "30d" });
  await client.ensureJourney("gardeners", { displayName: "Gardeners" });
  await client.ensureMilestone("gardeners", "keen", { criteria: garden.sum("price").greaterOrEqual(100) });
  await client.ensureMilestone("gardeners", "buyers", { criteria: event("buy").happened() });
  await client.ensureMilestone("gardeners", "others");
  const sizes: [string, bigint | undefined][] = [];
  for await (const milestone of client.listMilestones("gardeners")) {
    const { size } = await client.estimate(milestone.name, { atLeast: sent.revision });
    sizes.push([milestone.displayName, size?.users]);
  }
  assert.deepEqual(sizes, [
    ["keen", 1n],
    ["buyers", 1n],
    ["Remaining users", 2n],
  ]);
  assert.equal(await client.check("ann", "gardeners/keen"), true);
  assert.equal(await client.check("bob", "gardeners/keen"), false);

  // What is there already is not changed, and what differs is.
  const criteria = garden.sum("price").greaterOrEqual(100);
  const before = await client.ensureMilestone("gardeners", "keen", { criteria });
  const changed = await client.ensureMilestone("gardeners", "keen", {
    displayName: "Keen gardeners",
    criteria,
  });
  assert.deepEqual([before.displayName, changed.displayName], ["keen", "Keen gardeners"]);
  const funnel = await client.getJourneyFunnel("gardeners");
  assert.deepEqual(
    funnel.steps.map(({ users }) => users),
    [1n, 1n, 2n],
  );
});

test("members in pages and in one stream, and who is in what", async () => {
  const gold = client.names.target(GOLD);
  const pages: string[] = [];
  for await (const user of client.listMembers(GOLD, { pageSize: 1 })) {
    pages.push(user);
  }
  const exported: string[] = [];
  for await (const user of client.exportMembers(GOLD)) {
    exported.push(user);
  }
  assert.deepEqual([pages.sort(), exported.sort()], [
    ["ann", "bob"],
    ["ann", "bob"],
  ]);
  const many = await client.checkMany(["ann", "cat"], [GOLD]);
  assert.deepEqual(many, new Map([["ann", new Set([gold])], ["cat", new Set()]]));
  const audiences: string[] = [];
  for await (const each of client.listUserAudiences("cat")) {
    audiences.push(each.milestone);
  }
  assert.equal(audiences.includes(gold), false);
  const why = await client.explainMembership("cat", GOLD);
  assert.equal(why.milestones.length, 1);
});

test("checks asked at the same time are one call, and answer as each would alone", async () => {
  const joined = new Client(service.target, { account: "acme", coalesceChecks: true });
  const users = ["ann", "bob", "cat", "none", "ann"];
  const answers = await Promise.all(users.map((user) => joined.check(user, GOLD)));
  assert.deepEqual(answers, [true, true, false, false, true]);
  assert.equal(await joined.check("ann", GOLD), true);
  const [good, bad, missing] = await Promise.allSettled([
    joined.check("ann", GOLD),
    joined.check("", GOLD),
    joined.check("ann", "tiers/none"),
  ]);
  assert.deepEqual([good.status, bad.status, missing.status], ["fulfilled", "rejected", "rejected"]);
  assert.equal((bad as PromiseRejectedResult).reason.code, Code.InvalidArgument);
  assert.equal((missing as PromiseRejectedResult).reason.code, Code.NotFound);
  const many = Array.from({ length: 2_500 }, (_, n) => joined.check(`x${n}`, GOLD));
  assert.equal((await Promise.all(many)).some(Boolean), false);
  joined.close();
});

test("drafts, labels and precision", async () => {
  const criteria = labelled("gold", attribute("tier").equals("gold"));
  const draft = create(MilestoneDraftSchema, { journey: client.names.journey("tiers"), kind: 1, criteria, replaces: client.names.target(GOLD) });
  const answer = await client.estimate(draft, { exact: true });
  assert.deepEqual(
    answer.labelled.map(({ label, size }) => [label, size?.users]),
    [["gold", 2n]],
  );
  await assert.rejects(client.estimate(draft, { exact: true, maxRelativeError: 0.1 }), TypeError);
  const { intersections } = await client.compareAudiences([GOLD, "gardeners/buyers"]);
  assert.deepEqual(
    intersections.map(({ audiences, users }) => [audiences.length, users]),
    [
      [1, 2n],
      [1, 1n],
      [2, 1n],
    ],
  );
});

test("refusals have code, reason, what they are about, and fields", async () => {
  const missing = await refused(client.check("ann", "tiers/silver"));
  assert.deepEqual([missing.code, missing.reason], [Code.NotFound, "RESOURCE_NOT_FOUND"]);
  assert.equal(missing.info["resource"], "accounts/acme/journeys/tiers/milestones/silver");
  const invalid = await refused(
    client.journeys.createJourney({ parent: client.names.account, journeyId: "Not an id", journey: {} }),
  );
  assert.deepEqual([invalid.code, invalid.reason], [Code.InvalidArgument, "INVALID_ARGUMENT"]);
  assert.equal(invalid.violations[0]?.field, "journey_id");
  const late = await refused(client.admin.getServerInfo({}, { timeoutMs: 0.001 }));
  assert.equal(late.code, Code.DeadlineExceeded);
});

test("rejected rows throw nothing and are named", async () => {
  const now = new Date();
  const rows = Array.from({ length: 2_500 }, (_, n) => makeEvent(n === 1_700 ? "" : `u${n}`, "view", now));
  const sent = await client.ingestEvents(rows, INPUT, { batchRows: 1_000, concurrency: 2 });
  assert.deepEqual([sent.accepted, sent.rejected, sent.rows], [2_499, 1, 2_500]);
  assert.deepEqual(
    sent.rejections.map(({ index, field }) => [index, field]),
    [[1_700, "events[700].user_id"]],
  );
  // A repetition under the same id gives the first answer again.
  const again = { requestId: "r", batchRows: 2 };
  const three = [1, 2, 3].map((n) => makeEvent(`v${n}`, "view", now));
  const [first, second] = [await client.ingestEvents(three, INPUT, again), await client.ingestEvents(three, INPUT, again)];
  assert.deepEqual([first.accepted, second.accepted, second.revision], [3, 3, first.revision]);
  assert.equal((await client.ingestEvents([], INPUT)).rows, 0);
  // All rows of a batch refused.
  const none = await client.ingestEvents([makeEvent("", "view", now)], INPUT);
  assert.deepEqual([none.accepted, none.rejected, none.rejections.length], [0, 1, 1]);
  assert.equal(none.rejections[0]?.reason, sent.rejections[0]?.reason);
  assert.notEqual(none.rejections[0]?.reason, "BATCH_REFUSED");
});

test("values come back as they went", async () => {
  const time = new Date("2026-11-01T10:00:00.123Z");
  const values = { text: "x", number: 1.5, flag: true, time, list: ["a", "b"] };
  await client.upsertUsers([makeUserUpdate("val", values, { identities: { email: "v@example.com" } })], INPUT);
  const { user } = await client.catalog.getUser({ parent: client.names.account, userId: "val" });
  assert.notEqual(user, undefined);
  for (const [key, value] of Object.entries(values)) {
    assert.deepEqual(fromValue(toValue(value)), value, key);
  }
  assert.throws(() => toValue({} as never), TypeError);
});

test("reads are those of the published service config", async () => {
  const config = JSON.parse(await readFile(`${ROOT}clients/python/milepost/service_config.json`, "utf-8")) as {
    methodConfig: { name: { service: string; method: string }[] }[];
  };
  const published = config.methodConfig.flatMap(({ name }) => name).map(({ service, method }) => `${service}/${method}`);
  const services = [
    AccountService,
    AdminService,
    AudienceService,
    CatalogService,
    ConnectionService,
    IngestService,
    JourneyService,
  ];
  const reads = services.flatMap(({ typeName, methods }) =>
    methods.filter(isRead).map(({ name }) => `${typeName}/${name}`),
  );
  const unary = published.filter((name) => !/Health|ExportMembers/.test(name));
  assert.deepEqual(reads.sort(), unary.sort());
});

test("a client without a service is refused with a reason to try again", async () => {
  const alone = new Client("127.0.0.1:1", { account: "acme", timeoutMs: 2_000 });
  const error = await refused(alone.check("ann", GOLD));
  assert.ok([Code.Unavailable, Code.DeadlineExceeded].includes(error.code), String(error));
  alone.close();
  assert.throws(() => new Client("x").names.account, TypeError);
});

async function refused(call: Promise<unknown>): Promise<MilepostError> {
  try {
    await call;
  } catch (error) {
    assert.ok(error instanceof MilepostError, String(error));
    return error;
  }
  throw new assert.AssertionError({ message: "was not refused" });
}
