/**
 * Membership checks without a call: audiences followed into this process.
 *
 * A state of an audience is one that the service had: changes are collected until a mark and then applied together. A
 * snapshot is collected apart, and replaces the state at its end.
 */

import { Code } from "@connectrpc/connect";
import { setTimeout as sleep } from "node:timers/promises";
import { requireSeveral } from "./arguments.js";
import { MilepostError, toMilepostError, TooStaleError } from "./errors.js";
import type { MembershipChange } from "./gen/milepost/v1/audience_pb.js";
import type { ProgressMark, SnapshotEnd } from "./gen/milepost/v1/audience_service_pb.js";
import { Backoff, isTemporary } from "./retrying.js";
import { toDate, toMs, type Length } from "./values.js";
import { WATCH_ATTEMPTS_MAX, type Watch, type Watched } from "./watching.js";

const READY_TIMEOUT_MS = 60_000;
const PROGRESS_INTERVAL_MS = 250;
/** Pause after an error that is not temporary, such as an audience that is no longer activated. */
const REPEAT_MS = 5_000;

/** How audiences are followed. */
export interface LocalOptions {
  /** Answers that are further behind throw TooStaleError. Without it they go on while the service is out of reach. */
  maxStaleness?: Length;
  /** Time between two states. */
  progressInterval?: Length;
  /** How long `ready` waits for the members. */
  readyTimeoutMs?: number;
}

/** Whether a user is in an audience, and the state that says so. */
export interface LocalAnswer {
  readonly member: boolean;
  /** Instant of the state: every change up to it is in. */
  readonly asOf: Date;
  /** The last change in the state. */
  readonly cursor: bigint;
}

/** How far one audience has been followed. */
export interface LocalStatus {
  readonly users: number;
  /** undefined before the first complete state. */
  readonly asOf: Date | undefined;
  /** How far the state is behind at most, as far as the two clocks agree; Infinity before the first one. */
  readonly stalenessMs: number;
  readonly cursor: bigint | undefined;
  readonly epoch: string;
  /** Why it is not followed at present; undefined while it is. */
  readonly error: MilepostError | undefined;
}

/** What of a client local checks use. */
export interface Follows {
  target(given: string): string;
  watch(
    target: string,
    options: { cursor: bigint | undefined; epoch: string; progressInterval: Length; attemptsMax: number },
  ): Watch;
  check(userId: string, target: string): Promise<boolean>;
}

/** One audience: its members at the last mark, and what came since. */
class Followed {
  readonly name: string;
  members = new Set<string>();
  /** Time of `performance.now` until which checks may use the state. */
  usableUntil = -Infinity;
  cursor: bigint | undefined;
  epoch = "";
  error: MilepostError | undefined;
  /** Attempts in a row after which nothing came. */
  failures = 0;
  readonly #maxStalenessMs: number;
  #collecting: Set<string> | undefined;
  #changes: MembershipChange[] = [];
  #asOf: Date | undefined;
  #lagMs = 0;
  #markedAt = 0;
  #markedCursor = 0n;
  #markedEpoch = "";

  constructor(name: string, maxStalenessMs: number) {
    this.name = name;
    this.#maxStalenessMs = maxStalenessMs;
  }

  get isReady(): boolean {
    return this.#asOf !== undefined;
  }

  /** Drops the cursor: the next watch takes a snapshot. The state stays until that is complete. */
  startOver(): void {
    this.cursor = undefined;
    this.epoch = "";
  }

  /** Notes why the audience is not followed. Its state stays in use if that passes. */
  failed(error: MilepostError, passes: boolean): void {
    this.error = error;
    this.failures += 1;
    if (!passes) {
      this.usableUntil = -Infinity;
    }
  }

  /** Takes one update of the watch. True at a new state. */
  take(update: Watched): boolean {
    this.failures = 0;
    switch (update.$typeName) {
      case "milepost.v1.SnapshotBegin":
        this.#collecting = new Set();
        this.#changes = [];
        return false;
      case "milepost.v1.MembershipSnapshot":
        for (const userId of update.userIds) {
          this.#collecting?.add(userId);
        }
        return false;
      case "milepost.v1.MembershipChange":
        this.#changes.push(update);
        return false;
      case "milepost.v1.SnapshotEnd":
      case "milepost.v1.ProgressMark":
        this.#mark(update);
        return true;
    }
  }

  stalenessMs(): number {
    return this.isReady ? this.#lagMs + performance.now() - this.#markedAt : Infinity;
  }

  /** Throws why the state may not be used. */
  requireUsable(): void {
    if (this.usableUntil >= performance.now()) {
      return;
    }
    if (this.error !== undefined && this.usableUntil === -Infinity) {
      throw this.error;
    }
    throw new TooStaleError(this.name, this.stalenessMs(), this.#maxStalenessMs);
  }

  answer(userId: string): LocalAnswer {
    this.requireUsable();
    return { member: this.members.has(userId), asOf: this.#asOf ?? new Date(0), cursor: this.#markedCursor };
  }

  status(): LocalStatus {
    return {
      users: this.members.size,
      asOf: this.#asOf,
      stalenessMs: this.stalenessMs(),
      cursor: this.isReady ? this.#markedCursor : undefined,
      epoch: this.#markedEpoch,
      error: this.error,
    };
  }

  #mark(mark: SnapshotEnd | ProgressMark): void {
    const changes = this.#changes;
    this.#changes = [];
    apply(changes, this.#collecting ?? this.members);
    this.members = this.#collecting ?? this.members;
    this.#collecting = undefined;
    this.#asOf = toDate(mark.asOf);
    this.#lagMs = Math.max(0, Date.now() - this.#asOf.getTime());
    this.#markedAt = performance.now();
    this.#markedCursor = mark.cursor;
    this.#markedEpoch = this.epoch;
    this.error = undefined;
    this.usableUntil = this.#markedAt + this.#maxStalenessMs - this.#lagMs;
  }
}

function apply(changes: readonly MembershipChange[], members: Set<string>): void {
  for (const { userId, entered } of changes) {
    if (entered) {
      members.add(userId);
    } else {
      members.delete(userId);
    }
  }
}

/**
 * Audiences whose members are in this process, and answers about them without a call.
 *
 * Each audience is followed by a watch of its own, so it must be activated. An answer is from a state that the service
 * had. While the service is out of reach answers go on, and grow stale; with a `maxStaleness` they then throw
 * TooStaleError. The watch resumes where it was. When its cursor is too old, or of another epoch, it starts over with a
 * snapshot, and the state before stays until that is complete. When an audience cannot be followed any more, answers
 * about it throw the service's error until it can again. Close it at the end.
 */
export class LocalChecks implements Disposable {
  readonly #client: Follows;
  readonly #followed: Followed[];
  readonly #found: ReadonlyMap<string, Followed>;
  readonly #progressInterval: Length;
  readonly #closed = new AbortController();
  readonly #watches = new Map<string, Watch>();
  #changed: () => void = () => undefined;

  /** See `Client.local`, which also waits for the members. */
  constructor(client: Follows, targets: readonly string[], options: LocalOptions = {}) {
    const { maxStaleness = Infinity, progressInterval = PROGRESS_INTERVAL_MS } = options;
    requireSeveral("targets", targets);
    if (targets.length === 0) {
      throw new TypeError("expected at least one audience to follow");
    }
    if (toMs(maxStaleness) <= toMs(progressInterval)) {
      throw new RangeError(`maxStaleness must be more than the progress interval, ${toMs(progressInterval)} ms`);
    }
    this.#client = client;
    this.#progressInterval = progressInterval;
    const names = targets.map((target) => [target, client.target(target)] as const);
    const byName = new Map(names.map(([, name]) => [name, new Followed(name, toMs(maxStaleness))]));
    this.#followed = [...byName.values()];
    const given = names.map(([target, name]) => [target, byName.get(name) as Followed] as const);
    this.#found = new Map([...byName, ...given]);
    for (const each of this.#followed) {
      void this.#follow(each);
    }
  }

  /** Waits until every audience has a state. Throws the error that keeps one from it. */
  async ready(timeoutMs = READY_TIMEOUT_MS): Promise<this> {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      const waiting = this.#followed.filter((each) => !each.isReady);
      const [first] = waiting;
      if (first === undefined) {
        return this;
      }
      const failed = waiting.find(
        (each) => each.error !== undefined && (each.failures >= WATCH_ATTEMPTS_MAX || !isTemporary(each.error, true)),
      );
      if (failed?.error !== undefined) {
        throw failed.error;
      }
      const left = deadline - performance.now();
      if (left <= 0) {
        const reason = first.error === undefined ? "" : `: ${first.error.message}`;
        const message = `${first.name} is not followed after ${timeoutMs} ms${reason}`;
        throw new MilepostError(message, Code.DeadlineExceeded, { info: { resource: first.name }, cause: first.error });
      }
      await this.#change(left);
    }
  }

  /**
   * Whether the user is in the audience, which is called as in `local`, or by its full name. Makes no call. Throws
   * TooStaleError, and the service's error when the audience cannot be followed.
   */
  check(userId: string, target: string): boolean {
    const followed = this.#found.get(target) ?? this.#find(target);
    if (followed.usableUntil < performance.now()) {
      followed.requireUsable();
    }
    return followed.members.has(userId);
  }

  /** As `check`, with instant and cursor of the state that the answer is from. */
  answer(userId: string, target: string): LocalAnswer {
    return this.#find(target).answer(userId);
  }

  /** For each user the full names of those audiences that the user is in; each of them in one state. */
  checkMany(userIds: Iterable<string>, targets: Iterable<string>): Map<string, Set<string>> {
    requireSeveral("userIds", userIds);
    requireSeveral("targets", targets);
    const asked = [...targets].map((target) => this.#find(target));
    asked.forEach((each) => each.requireUsable());
    return new Map(
      [...userIds].map((userId) => {
        const found = asked.filter((each) => each.members.has(userId));
        return [userId, new Set(found.map(({ name }) => name))];
      }),
    );
  }

  /** As `check`; asks the service when the local state may not be used. */
  async checkOrCall(userId: string, target: string): Promise<boolean> {
    try {
      return this.check(userId, target);
    } catch (error) {
      if (error instanceof MilepostError) {
        return await this.#client.check(userId, target);
      }
      throw error;
    }
  }

  /** How far the audience that is furthest behind may be behind; Infinity before each has a state. */
  get stalenessMs(): number {
    return Math.max(...this.#followed.map((each) => each.stalenessMs()));
  }

  /** How far each audience has been followed, by full name. */
  status(): Map<string, LocalStatus> {
    return new Map(this.#followed.map((each) => [each.name, each.status()]));
  }

  /** Stops following. Checks go on answering from the last states, which age. */
  close(): void {
    this.#closed.abort();
    for (const watch of this.#watches.values()) {
      watch.close();
    }
    this.#changed();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #find(target: string): Followed {
    const found = this.#found.get(target);
    if (found === undefined) {
      throw new TypeError(`"${target}" is not followed; local() was called with ${[...this.#found.keys()].join(", ")}`);
    }
    return found;
  }

  async #follow(followed: Followed): Promise<void> {
    const backoff = new Backoff({ attemptsMax: Infinity, timeouts: true });
    while (!this.#closed.signal.aborted) {
      let pause: number;
      try {
        await this.#take(followed, backoff);
        return;
      } catch (thrown) {
        const error = toMilepostError(thrown);
        if (error.code === Code.OutOfRange && followed.cursor !== undefined) {
          followed.startOver();
          continue;
        }
        if (error.code === Code.Canceled) {
          // The client was closed, and nothing will be followed any more.
          followed.failed(error, false);
          this.#changed();
          return;
        }
        const passes = isTemporary(error, true);
        followed.failed(error, passes);
        pause = passes ? backoff.failed(error) : REPEAT_MS;
        this.#changed();
      }
      await this.#pause(pause);
    }
  }

  /** Takes updates until the watch is closed, or ends with an error. */
  async #take(followed: Followed, backoff: Backoff): Promise<void> {
    const watch = this.#client.watch(followed.name, {
      cursor: followed.cursor,
      epoch: followed.epoch,
      progressInterval: this.#progressInterval,
      attemptsMax: 1,
    });
    this.#watches.set(followed.name, watch);
    try {
      for await (const update of watch) {
        backoff.succeeded();
        followed.epoch = watch.epoch;
        if (followed.take(update)) {
          this.#changed();
        }
      }
    } finally {
      followed.cursor = watch.cursor;
      followed.epoch = watch.epoch;
    }
  }

  async #change(withinMs: number): Promise<void> {
    const timer = new AbortController();
    const changed = new Promise<void>((resolve) => {
      this.#changed = resolve;
    });
    const late = sleep(withinMs, undefined, { signal: timer.signal }).catch(() => undefined);
    await Promise.race([changed, late]);
    timer.abort();
  }

  async #pause(ms: number): Promise<void> {
    try {
      await sleep(ms, undefined, { signal: this.#closed.signal });
    } catch {
      // Closed meanwhile.
    }
  }
}
