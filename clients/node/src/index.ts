/**
 * The Node client of Milepost.
 *
 *     import { Client, makeEvent } from "milepost";
 *     import { event } from "milepost/criteria";
 *
 *     const client = new Client("localhost:7443", { account: "acme" });
 *     if (await client.check("ann", "gardeners/keen")) { … }
 *
 * The generated messages are at "milepost/v1/…", one file per file of the contract.
 */

export { Code } from "@connectrpc/connect";
export { type Rejected, Sent } from "./batches.js";
export { Client, type ClientOptions, type EstimateOptions, type ReadOptions } from "./client.js";
export { makeEvent, makeUserUpdate, type EventOptions, type UserUpdateOptions } from "./data.js";
export { isNotFound, MilepostError, TooStaleError, type Violation } from "./errors.js";
export { LocalChecks, type LocalAnswer, type LocalOptions, type LocalStatus } from "./local.js";
export type { SendOptions } from "./sending.js";
export { EventStream } from "./stream.js";
export { isRead, type Tls } from "./transport.js";
export { fromValue, toValue, type Length, type Plain } from "./values.js";
export { Watch, WatchTogether, type Watched, type WatchedTogether } from "./watching.js";
