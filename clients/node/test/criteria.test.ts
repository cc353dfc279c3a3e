/** Every form of the criteria language has a builder, and the service takes what it builds. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { create, equals, type DescMessage } from "@bufbuild/protobuf";
import { MilepostError } from "../src/index.js";
import {
  allOf,
  anyOf,
  attribute,
  audience,
  betweenAgo,
  bucket,
  calendar,
  consent,
  event,
  eventAttribute,
  everyone,
  identity,
  labelled,
  last,
  not,
  sequence,
  step,
  timeRange,
  type Criteria,
} from "../src/criteria.js";
import { Aggregate, CriteriaSchema, NumberTestSchema } from "../src/gen/milepost/v1/criteria_pb.js";
import {
  EventConditionSchema,
  SemverTestSchema,
  ValueTestSchema,
  WindowSchema,
} from "../src/gen/milepost/v1/criteria_pb.js";
import { MilestoneDraftSchema } from "../src/gen/milepost/v1/audience_service_pb.js";
import { toDuration, toMs } from "../src/values.js";
import { Service } from "./support/service.js";
import { GOLD, shop } from "./support/shop.js";

const now = new Date("2026-11-01T00:00:00Z");
const later = new Date("2026-11-02T00:00:00Z");
const tier = attribute("tier");
const buys = event("buy", { last: "30d" });
const price = eventAttribute("price");
const ofEvents = (window: Parameters<typeof event>[1]) => event("buy", window).happened();

const EXAMPLES: readonly Criteria[] = [
  everyone(),
  allOf(tier.equals("gold"), event("buy")),
  anyOf(),
  not(tier.equals("gold")),
  labelled("gold", tier.equals("gold", { ignoreCase: true })),
  tier.exists(),
  tier.oneOf(["gold", "tin"]),
  attribute("age").greaterThan(1),
  attribute("age").greaterOrEqual(1),
  attribute("since").lessThan(now),
  attribute("since").lessOrEqual(now),
  attribute("age").between(1, 2),
  tier.contains("ol"),
  tier.startsWith("g"),
  tier.endsWith("d"),
  tier.glob("g*"),
  tier.matches("^g"),
  attribute("app").version.equals("1.2"),
  attribute("app").version.greaterThan("1.2"),
  attribute("app").version.greaterOrEqual("1.2"),
  attribute("app").version.lessThan("1.2"),
  attribute("app").version.lessOrEqual("1.2"),
  attribute("since").withinLast("30d"),
  attribute("$last_seen").olderThan("90d"),
  attribute("place").near(52.5, 13.4, 1_000),
  identity("email").endsWith("@example.com"),
  consent("gdpr", "mail"),
  consent("gdpr", "mail", false),
  bucket("salt", 0, 50),
  sequence([step("view"), step("buy", { where: price.greaterThan(1) })], { within: "1h", window: last("30d") }),
  event("refund").never(),
  ofEvents({ where: allOf(price.greaterThan(10), eventAttribute("gift").exists()) }),
  ofEvents({ where: anyOf(price.greaterThan(10), not(eventAttribute("gift").exists())) }),
  ofEvents({ window: betweenAgo("60d", "30d") }),
  ofEvents({ window: timeRange({ start: now, end: later }) }),
  ofEvents({ window: timeRange({ start: now }) }),
  ofEvents({ window: calendar("month") }),
  ofEvents({ window: calendar("week", { count: 2, offset: 1, timeZone: "Europe/Paris" }) }),
  buys.count().equals(0),
  buys.distinctDays().oneOf([1, 2]),
  buys.sum("price").greaterThan(1),
  buys.average("price").greaterOrEqual(1),
  buys.min("price").lessThan(1),
  buys.max("price").lessOrEqual(1),
  buys.distinct("department").between(1, 2),
  buys.first("price").equals(1),
  buys.latest("price").equals(1),
];

test("the service takes every form", async () => {
  const service = await Service.start();
  const client = await shop(service.target);
  const examples = [...EXAMPLES, audience(await client.audienceName(GOLD))];
  for (const criteria of examples) {
    const draft = create(MilestoneDraftSchema, { journey: client.names.journey("tiers"), kind: 1, criteria });
    await client.estimate(draft).catch((error: unknown) => {
      throw new Error(`${JSON.stringify(criteria)}: ${error instanceof MilepostError ? error.message : String(error)}`);
    });
  }
  client.close();
  await service.stop();
});

test("every form of the language has an example here", () => {
  const made = new Set<string>();
  for (const criteria of [...EXAMPLES, audience("accounts/a/audiences/x")]) {
    collect(CriteriaSchema, criteria, made);
  }
  const wanted = [CriteriaSchema, ValueTestSchema, NumberTestSchema, EventConditionSchema, SemverTestSchema, WindowSchema]
    .flatMap(({ typeName, oneofs }) => oneofs.flatMap(({ fields }) => fields.map(({ localName }) => `${typeName}.${localName}`)));
  const aggregates = Object.values(Aggregate).filter((each) => typeof each === "number" && each > 0);
  assert.deepEqual([...wanted].filter((each) => !made.has(each)), []);
  assert.deepEqual(aggregates.filter((each) => !made.has(`aggregate ${each}`) && each !== Aggregate.UNSPECIFIED), []);
});

test("conditions and criteria do not mix", () => {
  assert.throws(() => allOf(price.exists() as never, tier.exists()), TypeError);
  assert.throws(() => event("buy", { last: "1d", window: last("1d") }), TypeError);
  assert.ok(equals(CriteriaSchema, allOf(), everyone()));
});

test("lengths of time", () => {
  assert.deepEqual(["30d", "12h", "90m", "2w", "45s", "50ms", "1d12h", "1h30m"].map(toMs), [
    2_592_000_000, 43_200_000, 5_400_000, 1_209_600_000, 45_000, 50, 129_600_000, 5_400_000,
  ]);
  assert.deepEqual([toDuration(1_500).seconds, toDuration(1_500).nanos], [1n, 500_000_000]);
  for (const wrong of ["", "30", "d", "1h1d", "-1d"]) {
    assert.throws(() => toMs(wrong), TypeError, wrong);
  }
});

/** The choices that a message and those inside it make. */
function collect(schema: DescMessage, message: unknown, made: Set<string>): void {
  const fields = message as Record<string, unknown>;
  for (const member of schema.members) {
    const value = fields[member.localName];
    if (member.kind === "oneof") {
      const chosen = value as { case: string | undefined; value: unknown };
      const field = member.fields.find(({ localName }) => localName === chosen.case);
      if (field !== undefined) {
        made.add(`${schema.typeName}.${field.localName}`);
        if (field.message !== undefined) {
          collect(field.message, chosen.value, made);
        }
      }
    } else if (member.fieldKind === "message" && value !== undefined) {
      collect(member.message, value, made);
    } else if (member.fieldKind === "list" && member.listKind === "message") {
      (value as unknown[]).forEach((each) => collect(member.message, each, made));
    } else if (member.localName === "aggregate") {
      made.add(`aggregate ${String(value)}`);
    }
  }
}
