/** Follows audiences and reconnects after failures. */

import { create } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { setTimeout as sleep } from "node:timers/promises";
import { toMilepostError } from "./errors.js";
import type { MembershipChange } from "./gen/milepost/v1/audience_pb.js";
import {
  WatchMembershipRequestSchema,
  type MembershipSnapshot,
  type ProgressMark,
  type SnapshotBegin,
  type SnapshotEnd,
  type WatchEnd,
  type WatchMembershipRequest,
  type WatchMembershipResponse,
} from "./gen/milepost/v1/audience_service_pb.js";
import { Backoff } from "./retrying.js";

export const WATCH_ATTEMPTS_MAX = 10;
const OPENED_HEADER = "milepost-stream";

/** What a watch yields; `$typeName` tells which. */
export type Watched = SnapshotBegin | MembershipSnapshot | SnapshotEnd | MembershipChange | ProgressMark;

/** Opens a call of WatchMembership. */
export type OpenWatch = (
  request: WatchMembershipRequest,
  options: { signal: AbortSignal; onHeader: (headers: Headers) => void },
) => AsyncIterable<WatchMembershipResponse>;

/**
 * The updates of one audience, in order. A snapshot is what comes from SnapshotBegin to SnapshotEnd: a new set of members,
 * which replaces what was known before. After a broken connection the watch continues after the last update: nothing is
 * repeated or lost. One exception: a snapshot that breaks off throws its error, because users already yielded may have
 * left meanwhile; start a new watch. `cursor` is where a later watch would continue, and `epoch` says which calculation
 * it belongs to; keep both. When the audience is calculated anew, the watch ends with OUT_OF_RANGE.
 */
export class Watch implements AsyncIterable<Watched>, Disposable {
  /** The position reached; undefined until a snapshot is complete. */
  cursor: bigint | undefined;
  /** The calculation that `cursor` belongs to. */
  epoch: string;
  readonly #open: OpenWatch;
  readonly #request: WatchMembershipRequest;
  readonly #attemptsMax: number;
  readonly #acknowledge: ((cursor: bigint, epoch: string) => Promise<void>) | undefined;
  #inSnapshot = false;
  readonly #closed = new AbortController();

  constructor(
    open: OpenWatch,
    request: WatchMembershipRequest,
    { attemptsMax, acknowledge }: { attemptsMax: number; acknowledge?: (cursor: bigint, epoch: string) => Promise<void> },
  ) {
    this.#open = open;
    this.#request = request;
    this.#attemptsMax = attemptsMax;
    this.#acknowledge = acknowledge;
    this.cursor = request.start.case === "cursor" ? request.start.value : undefined;
    this.epoch = request.epoch;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Watched> {
    const backoff = new Backoff({ attemptsMax: this.#attemptsMax });
    while (!this.#closed.signal.aborted) {
      try {
        for await (const update of this.#updates(backoff)) {
          backoff.succeeded();
          yield update;
        }
        return;
      } catch (thrown) {
        const error = toMilepostError(thrown);
        if (this.#closed.signal.aborted && error.code === Code.Canceled) {
          return;
        }
        if (this.cursor === undefined) {
          throw error;
        }
        await pause(backoff.failed(error), this.#closed.signal);
      }
    }
  }

  /** Ends the watch, also while its next update is awaited. */
  close(): void {
    this.#closed.abort();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * Acknowledges everything up to a cursor, by default all that the watch has yielded, so that it is not sent again to a
   * later watch of the connection.
   */
  async acknowledge(cursor: bigint | undefined = this.cursor): Promise<void> {
    if (this.#acknowledge === undefined) {
      throw new TypeError("only the watch of a connection acknowledges: see watchConnection");
    }
    if (cursor !== undefined) {
      await this.#acknowledge(cursor, this.epoch);
    }
  }

  async *#updates(backoff: Backoff): AsyncGenerator<Watched> {
    const request = create(WatchMembershipRequestSchema, this.#request);
    if (this.cursor !== undefined) {
      request.start = { case: "cursor", value: this.cursor };
      request.epoch = this.epoch;
    }
    for await (const { update, epoch } of this.#open(request, callOptions(this.#closed.signal, backoff))) {
      this.epoch = epoch;
      switch (update.case) {
        case "snapshotBegin":
          this.cursor = undefined;
          this.#inSnapshot = true;
          yield update.value;
          break;
        case "snapshot":
          yield update.value;
          break;
        case "snapshotEnd":
          this.cursor = update.value.cursor;
          this.#inSnapshot = false;
          yield update.value;
          break;
        case "progress":
          this.cursor = update.value.cursor;
          yield update.value;
          break;
        case "changes":
          for (const change of update.value.changes) {
            if (!this.#inSnapshot) {
              this.cursor = change.sequence;
            }
            yield change;
          }
          break;
        case undefined:
          break;
      }
    }
  }
}

/** An update of one of several audiences that are watched in one stream. */
export interface WatchedTogether {
  /** What `watchTogether` was called with for it. */
  readonly target: string;
  /** Name of the audience; empty when there is none. */
  readonly audience: string;
  /** Which calculation the update's cursor or sequence number belongs to. */
  readonly epoch: string;
  /** `WatchEnd` is the last of an audience that can no longer be watched; the others go on. */
  readonly update: Watched | WatchEnd;
}

/**
 * The updates of several audiences, in order for each of them. Each begins with a snapshot, from SnapshotBegin to
 * SnapshotEnd, and so it does again when it is calculated anew, when the watch was away for longer than changes are kept,
 * and when a broken connection interrupts a snapshot. An audience that is deleted or no longer activated ends with
 * WatchEnd; the watch ends when all have. After a broken connection the watch continues: nothing is repeated or lost.
 *
 * `position` is where a later watch continues, "" until there is one. The service sends it with progress marks, about once
 * an interval. A later watch repeats what came after it: a change that was processed has the same epoch and sequence.
 */
export class WatchTogether implements AsyncIterable<WatchedTogether>, Disposable {
  position: string;
  readonly #open: OpenWatch;
  readonly #request: WatchMembershipRequest;
  readonly #attemptsMax: number;
  /** Full names → what the caller calls them. */
  readonly #targets: Map<string, string>;
  readonly #inSnapshot = new Set<string>();
  /** The epoch and the last change of each audience outside a snapshot. */
  readonly #reached = new Map<string, { epoch: string; sequence: bigint }>();
  readonly #closed = new AbortController();

  constructor(
    open: OpenWatch,
    request: WatchMembershipRequest,
    { attemptsMax, targets }: { attemptsMax: number; targets: ReadonlyMap<string, string> },
  ) {
    this.#open = open;
    this.#request = request;
    this.#attemptsMax = attemptsMax;
    this.#targets = new Map(targets);
    this.position = request.start.case === "position" ? request.start.value : "";
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<WatchedTogether> {
    const backoff = new Backoff({ attemptsMax: this.#attemptsMax });
    while (this.#targets.size > 0 && !this.#closed.signal.aborted) {
      try {
        for await (const update of this.#updates(backoff)) {
          backoff.succeeded();
          yield update;
        }
        return;
      } catch (thrown) {
        const error = toMilepostError(thrown);
        if (this.#closed.signal.aborted && error.code === Code.Canceled) {
          return;
        }
        await pause(backoff.failed(error), this.#closed.signal);
      }
    }
  }

  /** Ends the watch, also while its next update is awaited. */
  close(): void {
    this.#closed.abort();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async *#updates(backoff: Backoff): AsyncGenerator<WatchedTogether> {
    const request = create(WatchMembershipRequestSchema, this.#request);
    request.audiences = [...this.#targets.keys()];
    request.start = this.position === "" ? { case: "snapshot", value: true } : { case: "position", value: this.position };
    for await (const message of this.#open(request, callOptions(this.#closed.signal, backoff))) {
      const { audience, epoch, requestedName } = message;
      const target = this.#targets.get(requestedName) ?? requestedName;
      if (message.position !== "") {
        this.position = message.position;
      }
      for (const update of this.#updatesOf(message)) {
        yield { target, audience, epoch, update };
      }
    }
  }

  *#updatesOf({ update, epoch, requestedName: name }: WatchMembershipResponse): Generator<Watched | WatchEnd> {
    switch (update.case) {
      case "snapshotBegin":
        this.#inSnapshot.add(name);
        this.#reached.delete(name);
        yield update.value;
        break;
      case "snapshotEnd":
        this.#inSnapshot.delete(name);
        this.#reached.set(name, { epoch, sequence: update.value.cursor });
        yield update.value;
        break;
      case "snapshot":
      case "progress":
        yield update.value;
        break;
      case "changes":
        for (const change of update.value.changes) {
          if (this.#inSnapshot.has(name)) {
            yield change;
          } else if (this.#isNew(name, epoch, change.sequence)) {
            this.#reached.set(name, { epoch, sequence: change.sequence });
            yield change;
          }
        }
        break;
      case "ended":
        this.#targets.delete(name);
        this.#inSnapshot.delete(name);
        yield update.value;
        break;
      case undefined:
        break;
    }
  }

  /** Whether a change did not come before, over a connection that broke after the last position. */
  #isNew(name: string, epoch: string, sequence: bigint): boolean {
    const known = this.#reached.get(name);
    return known?.epoch !== epoch || sequence > known.sequence;
  }
}

/** A service that opens a watch says so before there is anything to say: attempts count anew then. */
function callOptions(signal: AbortSignal, backoff: Backoff): { signal: AbortSignal; onHeader: (headers: Headers) => void } {
  return {
    signal,
    onHeader: (headers) => {
      if (headers.has(OPENED_HEADER)) {
        backoff.succeeded();
      }
    },
  };
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  try {
    await sleep(ms, undefined, { signal });
  } catch {
    // Closed meanwhile.
  }
}
