/** Follows an audience and reconnects after failures. */

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
  type WatchMembershipRequest,
  type WatchMembershipResponse,
} from "./gen/milepost/v1/audience_service_pb.js";
import { Backoff } from "./retrying.js";

export const WATCH_ATTEMPTS_MAX = 10;

/** What a watch yields; `$typeName` tells which. */
export type Watched = SnapshotBegin | MembershipSnapshot | SnapshotEnd | MembershipChange | ProgressMark;

/** Opens a call of WatchMembership. */
export type OpenWatch = (
  request: WatchMembershipRequest,
  options: { signal: AbortSignal },
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
        for await (const update of this.#updates()) {
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
        await this.#pause(backoff.failed(error));
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

  async *#updates(): AsyncGenerator<Watched> {
    const request = create(WatchMembershipRequestSchema, this.#request);
    if (this.cursor !== undefined) {
      request.start = { case: "cursor", value: this.cursor };
      request.epoch = this.epoch;
    }
    for await (const { update, epoch } of this.#open(request, { signal: this.#closed.signal })) {
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

  async #pause(ms: number): Promise<void> {
    try {
      await sleep(ms, undefined, { signal: this.#closed.signal });
    } catch {
      // Closed meanwhile.
    }
  }
}
