/**
 * Functions that build criteria.
 *
 *     const groceries = eventAttribute("department").equals("GROCERY");
 *     allOf(
 *       attribute("plan").equals("pro"),
 *       event("buy", { where: groceries, last: "30d" }).count().greaterOrEqual(3),
 *       event("refund").never(),
 *     );
 *
 * Every builder returns a plain message of `milepost.v1`. The service alone decides what criteria mean and which are
 * valid.
 */

import { requireSeveral } from "./arguments.js";
import { create, isMessage, type MessageInitShape } from "@bufbuild/protobuf";
import {
  Aggregate,
  CalendarUnit,
  CriteriaSchema,
  EventConditionSchema,
  EventCriterionSchema,
  NumberTestSchema,
  SequenceStepSchema,
  ValueTestSchema,
  WindowSchema,
  type Criteria,
  type EventCondition,
  type EventCriterion,
  type NumberTest,
  type SequenceStep,
  type ValueTest,
  type Window,
} from "./gen/milepost/v1/criteria_pb.js";
import { ConsentState, EventType } from "./gen/milepost/v1/data_pb.js";
import type { Value } from "./gen/milepost/v1/value_pb.js";
import { toDuration, toTimestamp, toValue, type Length, type Plain } from "./values.js";

export type { Criteria, EventCondition, SequenceStep, Window };

type ValueTestCase = NonNullable<MessageInitShape<typeof ValueTestSchema>["test"]>;
type NumberTestCase = NonNullable<MessageInitShape<typeof NumberTestSchema>["test"]>;
type CriteriaNode = NonNullable<MessageInitShape<typeof CriteriaSchema>["node"]>;

/** How strings are compared. */
export interface TextOptions {
  ignoreCase?: boolean;
}

/**
 * Something with a value. Its methods are tests on the value. A missing value, or one of another kind, passes no test;
 * on a list a test passes when some element passes.
 */
export class Testable<Made> {
  readonly #made: (test: ValueTest) => Made;

  constructor(made: (test: ValueTest) => Made) {
    this.#made = made;
  }

  /** The value is present; a list has at least one element. */
  exists(): Made {
    return this.#passes({ case: "exists", value: {} });
  }

  /** Same kind and same value: the string "12" is not the number 12. */
  equals(value: Plain | Value, options: TextOptions = {}): Made {
    return this.#passes({ case: "equals", value: toValue(value) }, options);
  }

  /** Equal to one of at most 10,000 values. */
  oneOf(values: Iterable<Plain | Value>, options: TextOptions = {}): Made {
    requireSeveral("values", values);
    return this.#passes({ case: "oneOf", value: { values: [...values].map(toValue) } }, options);
  }

  greaterThan(value: number | Date): Made {
    return this.#passes({ case: "greaterThan", value: toValue(value) });
  }

  greaterOrEqual(value: number | Date): Made {
    return this.#passes({ case: "greaterOrEqual", value: toValue(value) });
  }

  lessThan(value: number | Date): Made {
    return this.#passes({ case: "lessThan", value: toValue(value) });
  }

  lessOrEqual(value: number | Date): Made {
    return this.#passes({ case: "lessOrEqual", value: toValue(value) });
  }

  /** `low <= value <= high`, both numbers or both times. */
  between(low: number | Date, high: number | Date): Made {
    return this.#passes({ case: "between", value: { low: toValue(low), high: toValue(high) } });
  }

  contains(part: string, options: TextOptions = {}): Made {
    return this.#passes({ case: "contains", value: part }, options);
  }

  startsWith(prefix: string, options: TextOptions = {}): Made {
    return this.#passes({ case: "startsWith", value: prefix }, options);
  }

  endsWith(suffix: string, options: TextOptions = {}): Made {
    return this.#passes({ case: "endsWith", value: suffix }, options);
  }

  /** The whole string matches the pattern: `*` any characters, `?` one. */
  glob(pattern: string, options: TextOptions = {}): Made {
    return this.#passes({ case: "glob", value: pattern }, options);
  }

  /** Part of the string matches, in RE2 syntax. */
  matches(regex: string, options: TextOptions = {}): Made {
    return this.#passes({ case: "matches", value: regex }, options);
  }

  /** The value as a version string, by the precedence of Semantic Versioning. Missing parts are 0. */
  get version(): VersionTests<Made> {
    return new VersionTests((test) => this.#passes(test));
  }

  /** A time in (now - length, now]. */
  withinLast(length: Length): Made {
    return this.#passes({ case: "withinLast", value: toDuration(length) });
  }

  /** A time up to and including now - length. */
  olderThan(length: Length): Made {
    return this.#passes({ case: "olderThan", value: toDuration(length) });
  }

  /** A "lat,long" string within `meters` of the point, given in decimal degrees. */
  near(latitude: number, longitude: number, meters: number): Made {
    return this.#passes({ case: "near", value: { latitude, longitude, meters } });
  }

  #passes(test: ValueTestCase, { ignoreCase = false }: TextOptions = {}): Made {
    return this.#made(create(ValueTestSchema, { test, ignoreCase }));
  }
}

/** Comparisons of versions. */
export class VersionTests<Made> {
  readonly #passes: (test: ValueTestCase) => Made;

  constructor(passes: (test: ValueTestCase) => Made) {
    this.#passes = passes;
  }

  equals(version: string): Made {
    return this.#compared("equals", version);
  }

  greaterThan(version: string): Made {
    return this.#compared("greaterThan", version);
  }

  greaterOrEqual(version: string): Made {
    return this.#compared("greaterOrEqual", version);
  }

  lessThan(version: string): Made {
    return this.#compared("lessThan", version);
  }

  lessOrEqual(version: string): Made {
    return this.#compared("lessOrEqual", version);
  }

  #compared(
    comparison: "equals" | "greaterThan" | "greaterOrEqual" | "lessThan" | "lessOrEqual",
    value: string,
  ): Made {
    return this.#passes({ case: "semver", value: { comparison: { case: comparison, value } } });
  }
}

/** The result of an aggregate. A comparison returns the criterion. */
export class Aggregated {
  readonly #criterion: EventCriterion;

  constructor(criterion: EventCriterion) {
    this.#criterion = criterion;
  }

  equals(value: number): Criteria {
    return this.#passes({ case: "equals", value });
  }

  oneOf(values: Iterable<number>): Criteria {
    requireSeveral("values", values);
    return this.#passes({ case: "oneOf", value: { values: [...values] } });
  }

  greaterThan(value: number): Criteria {
    return this.#passes({ case: "greaterThan", value });
  }

  greaterOrEqual(value: number): Criteria {
    return this.#passes({ case: "greaterOrEqual", value });
  }

  lessThan(value: number): Criteria {
    return this.#passes({ case: "lessThan", value });
  }

  lessOrEqual(value: number): Criteria {
    return this.#passes({ case: "lessOrEqual", value });
  }

  /** `low <= number <= high`. */
  between(low: number, high: number): Criteria {
    return this.#passes({ case: "between", value: { low, high } });
  }

  #passes(test: NumberTestCase): Criteria {
    const made: NumberTest = create(NumberTestSchema, { test });
    return node({ case: "event", value: { ...this.#criterion, test: made } });
  }
}

/** A user's events of one name; see `event`. An aggregate over them is a number to compare. */
export class Events {
  readonly #criterion: EventCriterion;

  constructor(criterion: EventCriterion) {
    this.#criterion = criterion;
  }

  /** At least one such event. */
  happened(): Criteria {
    return node({ case: "event", value: this.#criterion });
  }

  /** No such event; including users without data. */
  never(): Criteria {
    return not(this.happened());
  }

  count(): Aggregated {
    return this.#aggregate(Aggregate.COUNT);
  }

  /** The number of calendar days with events, in the account's time zone. */
  distinctDays(): Aggregated {
    return this.#aggregate(Aggregate.DISTINCT_DAYS);
  }

  /** Sum of the number attribute, added as decimals; 0 without any. */
  sum(of: string): Aggregated {
    return this.#aggregate(Aggregate.SUM, of);
  }

  /** Mean of the number attribute; passes no test without any. */
  average(of: string): Aggregated {
    return this.#aggregate(Aggregate.AVERAGE, of);
  }

  min(of: string): Aggregated {
    return this.#aggregate(Aggregate.MIN, of);
  }

  max(of: string): Aggregated {
    return this.#aggregate(Aggregate.MAX, of);
  }

  /** The number of distinct values, of any kind; 0 without any. */
  distinct(of: string): Aggregated {
    return this.#aggregate(Aggregate.DISTINCT, of);
  }

  /** The value of the earliest event. */
  first(of: string): Aggregated {
    return this.#aggregate(Aggregate.FIRST, of);
  }

  /** The value of the latest event. */
  latest(of: string): Aggregated {
    return this.#aggregate(Aggregate.LAST, of);
  }

  #aggregate(aggregate: Aggregate, of = ""): Aggregated {
    return new Aggregated({ ...this.#criterion, aggregate, of });
  }
}

/** An attribute of the user, in at least one workspace of the journey's inputs: `attribute("plan").equals("pro")`. */
export function attribute(key: string): Testable<Criteria> {
  return new Testable((test) => node({ case: "userAttribute", value: { key, test } }));
}

/** The user's identity of a type: `identity("email").endsWith("@example.com", { ignoreCase: true })`. */
export function identity(identityType: string): Testable<Criteria> {
  return new Testable((test) => node({ case: "identity", value: { identityType, test } }));
}

/** An attribute of the event itself, for `where`: `eventAttribute("price").greaterOrEqual(10)`. */
export function eventAttribute(key: string): Testable<EventCondition> {
  return new Testable((test) =>
    create(EventConditionSchema, { condition: { case: "attribute", value: { key, test } } }),
  );
}

/** What narrows events. */
export interface EventNarrowing {
  where?: EventCondition;
  inputs?: readonly string[];
  type?: EventType;
}

/** The user's events of a name (empty = any). `last` is short for `window: last(…)`. */
export function event(
  name = "",
  { where, last: length, window, inputs = [], type = EventType.UNSPECIFIED }: EventNarrowing & {
    last?: Length;
    window?: Window;
  } = {},
): Events {
  if (length !== undefined && window !== undefined) {
    throw new TypeError("set `last` or `window`, not both");
  }
  requireSeveral("inputs", inputs);
  const chosen = length === undefined ? window : last(length);
  return new Events(
    create(EventCriterionSchema, {
      name,
      eventType: type,
      inputs: [...inputs],
      ...(where === undefined ? {} : { condition: where }),
      ...(chosen === undefined ? {} : { window: chosen }),
    }),
  );
}

/** Every user of the journey. */
export function everyone(): Criteria {
  return node({ case: "allOf", value: {} });
}

/** Every part is true. For conditions on an event the result is a condition, otherwise a criterion. */
export function allOf(...parts: (Criteria | Events)[]): Criteria;
export function allOf(...parts: EventCondition[]): EventCondition;
export function allOf(...parts: (Criteria | Events | EventCondition)[]): Criteria | EventCondition {
  return listed("allOf", parts);
}

/** At least one part is true. Without parts, no user. */
export function anyOf(...parts: (Criteria | Events)[]): Criteria;
export function anyOf(...parts: EventCondition[]): EventCondition;
export function anyOf(...parts: (Criteria | Events | EventCondition)[]): Criteria | EventCondition {
  return listed("anyOf", parts);
}

/** All other users of the journey, including those without data; for a condition, the other events. */
export function not(part: EventCondition): EventCondition;
export function not(part: Criteria | Events): Criteria;
export function not(part: Criteria | Events | EventCondition): Criteria | EventCondition {
  return isMessage(part, EventConditionSchema)
    ? create(EventConditionSchema, { condition: { case: "negation", value: part } })
    : node({ case: "negation", value: toCriteria(part) });
}

/** The same criterion with a label: an estimate gives the size of each labelled criterion alone. */
export function labelled(label: string, part: Criteria | Events): Criteria {
  return { ...toCriteria(part), label };
}

/** One step of a `sequence`. */
export function step(
  name = "",
  { where, inputs = [], type = EventType.UNSPECIFIED }: EventNarrowing = {},
): SequenceStep {
  return create(SequenceStepSchema, {
    name,
    eventType: type,
    inputs: [...inputs],
    ...(where === undefined ? {} : { condition: where }),
  });
}

/**
 * Events matching the steps happened in that order, each strictly later than the one before. `within` limits the time
 * from the first to the last; all lie inside `window`.
 */
export function sequence(
  steps: readonly SequenceStep[],
  { within, window }: { within?: Length; window?: Window } = {},
): Criteria {
  return node({
    case: "sequence",
    value: {
      steps: [...steps],
      ...(within === undefined ? {} : { within: toDuration(within) }),
      ...(window === undefined ? {} : { window }),
    },
  });
}

/** The user is in that audience, `accounts/{a}/audiences/{id}`. */
export function audience(name: string): Criteria {
  return node({ case: "audience", value: { name } });
}

/** The latest consent state is GIVEN (or DENIED); without a consent it is neither. */
export function consent(regulation: string, purpose: string, given = true): Criteria {
  const state = given ? ConsentState.GIVEN : ConsentState.DENIED;
  return node({ case: "consent", value: { regulation, purpose, state } });
}

/** A stable random share of the users, [from, to) percent; other salts give independent shares. */
export function bucket(salt: string, fromPercent: number, toPercent: number): Criteria {
  return node({ case: "bucket", value: { salt, fromPercent, toPercent } });
}

/** (now - length, now]. */
export function last(length: Length): Window {
  return create(WindowSchema, { window: { case: "last", value: toDuration(length) } });
}

/** (now - start, now - end], with start longer than end. */
export function betweenAgo(start: Length, end: Length): Window {
  const value = { fromAge: toDuration(start), toAge: toDuration(end) };
  return create(WindowSchema, { window: { case: "betweenAgo", value } });
}

/** [start, end); a missing end is open. */
export function timeRange({ start, end }: { start?: Date; end?: Date }): Window {
  const value = {
    ...(start === undefined ? {} : { start: toTimestamp(start) }),
    ...(end === undefined ? {} : { end: toTimestamp(end) }),
  };
  return create(WindowSchema, { window: { case: "timeRange", value } });
}

/** `count` whole units, the last of them `offset` before the one that contains now. Weeks start on Monday. */
export function calendar(
  unit: "hour" | "day" | "week" | "month" | "quarter" | "year",
  { count = 1, offset = 0, timeZone = "" }: { count?: number; offset?: number; timeZone?: string } = {},
): Window {
  const value = { unit: CalendarUnit[unit.toUpperCase() as keyof typeof CalendarUnit], count, offset, timeZone };
  return create(WindowSchema, { window: { case: "calendar", value } });
}

function node(made: CriteriaNode): Criteria {
  return create(CriteriaSchema, { node: made });
}

function toCriteria(part: Criteria | Events): Criteria {
  return part instanceof Events ? part.happened() : part;
}

function listed(
  operator: "allOf" | "anyOf",
  parts: readonly (Criteria | Events | EventCondition)[],
): Criteria | EventCondition {
  const conditions = parts.filter((part): part is EventCondition => isMessage(part, EventConditionSchema));
  if (conditions.length === 0) {
    const criteria = parts as readonly (Criteria | Events)[];
    return node({ case: operator, value: { criteria: criteria.map(toCriteria) } });
  }
  if (conditions.length !== parts.length) {
    throw new TypeError("cannot combine conditions on an event with criteria on users");
  }
  return create(EventConditionSchema, { condition: { case: operator, value: { conditions } } });
}
