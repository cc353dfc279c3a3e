/** Events and user updates from JavaScript values. */

import { create } from "@bufbuild/protobuf";
import {
  ConsentState,
  ConsentUpdateSchema,
  EventSchema,
  EventType,
  UserUpdateSchema,
  type Event,
  type UserUpdate,
} from "./gen/milepost/v1/data_pb.js";
import { requireSeveral } from "./arguments.js";
import { toAttributes, toTimestamp, type Plain } from "./values.js";

/** The optional parts of an event. */
export interface EventOptions {
  /** With an id the event is stored once, however often it is sent. */
  eventId?: string;
  /** "workspace/input" or a name, when it is not the input of the batch. */
  input?: string;
  type?: EventType;
}

/** Makes an event. */
export function makeEvent(
  userId: string,
  name: string,
  time: Date,
  attributes: Readonly<Record<string, Plain | null>> = {},
  { eventId = "", input = "", type = EventType.UNSPECIFIED }: EventOptions = {},
): Event {
  return create(EventSchema, {
    userId,
    name,
    time: toTimestamp(time),
    attributes: toAttributes(attributes),
    eventId,
    input,
    eventType: type,
  });
}

/** The optional parts of a user update. */
export interface UserUpdateOptions {
  /** When the values were so. Default: the service's clock. */
  time?: Date;
  /** Attributes to unset. */
  unset?: readonly string[];
  /** Type → value, such as email or customer_id. */
  identities?: Readonly<Record<string, string>>;
  consents?: readonly { regulation: string; purpose: string; given: boolean }[];
  input?: string;
}

/** Makes a user update. */
export function makeUserUpdate(
  userId: string,
  attributes: Readonly<Record<string, Plain | null>> = {},
  { time, unset = [], identities = {}, consents = [], input = "" }: UserUpdateOptions = {},
): UserUpdate {
  requireSeveral("unset", unset);
  requireSeveral("consents", consents);
  return create(UserUpdateSchema, {
    userId,
    input,
    ...(time === undefined ? {} : { time: toTimestamp(time) }),
    attributes: toAttributes(attributes),
    unsetAttributes: [...unset],
    identities: { ...identities },
    consents: consents.map(({ regulation, purpose, given }) =>
      create(ConsentUpdateSchema, {
        regulation,
        purpose,
        state: given ? ConsentState.GIVEN : ConsentState.DENIED,
      }),
    ),
  });
}
