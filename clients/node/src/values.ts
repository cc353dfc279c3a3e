/** Converts JavaScript values to the contract's values and back. */

import { create } from "@bufbuild/protobuf";
import {
  DurationSchema,
  TimestampSchema,
  timestampDate,
  timestampFromDate,
  type Duration,
  type Timestamp,
} from "@bufbuild/protobuf/wkt";
import { requireDate } from "./arguments.js";
import { StringListSchema, ValueSchema, type Value } from "./gen/milepost/v1/value_pb.js";

/** What is accepted as a value. */
export type Plain = string | number | boolean | Date | readonly string[];

/** A length of time: milliseconds, or text such as "30d", "12h" or "1d12h" (units: w, d, h, m, s, ms). */
export type Length = number | string;

const MS: Readonly<Record<string, number>> = { w: 604_800_000, d: 86_400_000, h: 3_600_000, m: 60_000, s: 1_000, ms: 1 };
const WRITTEN = /^(?=.)(?:(\d{1,12})w)?(?:(\d{1,12})d)?(?:(\d{1,12})h)?(?:(\d{1,12})m)?(?:(\d{1,12})s)?(?:(\d{1,12})ms)?$/;

/** The message for a value. Throws a TypeError for anything else. */
export function toValue(plain: Plain | Value): Value {
  if (typeof plain === "string") {
    return create(ValueSchema, { kind: { case: "stringValue", value: plain } });
  }
  if (typeof plain === "number") {
    return create(ValueSchema, { kind: { case: "numberValue", value: plain } });
  }
  if (typeof plain === "boolean") {
    return create(ValueSchema, { kind: { case: "boolValue", value: plain } });
  }
  if (plain instanceof Date) {
    return create(ValueSchema, { kind: { case: "timeValue", value: timestampFromDate(plain) } });
  }
  if (Array.isArray(plain)) {
    const values: string[] = [...(plain as readonly string[])];
    return create(ValueSchema, { kind: { case: "listValue", value: create(StringListSchema, { values }) } });
  }
  if (typeof plain === "object" && plain !== null && "$typeName" in plain) {
    return plain;
  }
  throw new TypeError(`${String(plain)} is no value: expected a string, number, boolean, Date or list of strings`);
}

/** The JavaScript value of a message; undefined when it is empty. */
export function fromValue(value: Value): string | number | boolean | Date | string[] | undefined {
  switch (value.kind.case) {
    case undefined:
      return undefined;
    case "timeValue":
      return timestampDate(value.kind.value);
    case "listValue":
      return [...value.kind.value.values];
    default:
      return value.kind.value;
  }
}

/** Each value as its message. null unsets an attribute of a user, and is no attribute of an event. */
export function toAttributes(attributes: Readonly<Record<string, Plain | Value | null>>): Record<string, Value> {
  return Object.fromEntries(
    Object.entries(attributes).map(([key, plain]) => [key, plain === null ? create(ValueSchema) : toValue(plain)]),
  );
}

/** Milliseconds of a length of time. */
export function toMs(length: Length): number {
  if (typeof length === "number") {
    return length;
  }
  const found = WRITTEN.exec(length);
  if (found === null) {
    throw new TypeError(`expected a duration like 30d, 12h, 90m, 2w or 1d12h (units: w, d, h, m, s, ms), not "${length}"`);
  }
  return Object.values(MS).reduce((sum, each, index) => sum + each * Number(found[index + 1] ?? 0), 0);
}

/** The message for a length of time. */
export function toDuration(length: Length): Duration {
  const ms = toMs(length);
  const seconds = Math.trunc(ms / 1_000);
  return create(DurationSchema, { seconds: BigInt(seconds), nanos: Math.round((ms - seconds * 1_000) * 1_000_000) });
}

/** The message for an instant. Throws a TypeError that names the argument for anything but a valid Date. */
export function toTimestamp(moment: Date, argument = "time"): Timestamp {
  requireDate(argument, moment);
  return timestampFromDate(moment);
}

/** The instant of a message, in whole milliseconds. */
export function toDate(timestamp: Timestamp | undefined): Date {
  return timestampDate(timestamp ?? create(TimestampSchema));
}
