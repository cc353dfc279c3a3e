/** Joins checks that are asked at the same time into one call for each audience. */

import { Code } from "@connectrpc/connect";
import { toMilepostError } from "./errors.js";

/** Users of one call: the service takes 1,000 elements in a list. */
const USERS_MAX = 1_000;

/** Makes one call for several users of an audience. */
export type CheckMany = (userIds: readonly string[], audience: string) => Promise<ReadonlyMap<string, boolean>>;

/** Makes one call for one user. */
export type CheckOne = (userId: string, audience: string) => Promise<boolean>;

interface Asked {
  resolve: (member: boolean) => void;
  reject: (error: unknown) => void;
}

/**
 * Collects checks until the event loop turns, then asks for all of them. Each answers as it would alone, also when
 * another one of the same call is at fault.
 */
export class CoalescedChecks {
  readonly #many: CheckMany;
  readonly #one: CheckOne;
  #waiting = new Map<string, Map<string, Asked[]>>();

  constructor(many: CheckMany, one: CheckOne) {
    this.#many = many;
    this.#one = one;
  }

  /** Whether the user is in the audience. */
  check(userId: string, audience: string): Promise<boolean> {
    if (this.#waiting.size === 0) {
      setImmediate(() => this.#flush());
    }
    let users = this.#waiting.get(audience);
    if (users === undefined) {
      users = new Map();
      this.#waiting.set(audience, users);
    }
    const asked = users.get(userId) ?? [];
    users.set(userId, asked);
    return new Promise((resolve, reject) => asked.push({ resolve, reject }));
  }

  #flush(): void {
    const waiting = this.#waiting;
    this.#waiting = new Map();
    for (const [audience, users] of waiting) {
      const all = [...users];
      for (let first = 0; first < all.length; first += USERS_MAX) {
        void this.#ask(audience, new Map(all.slice(first, first + USERS_MAX)));
      }
    }
  }

  async #ask(audience: string, users: ReadonlyMap<string, Asked[]>): Promise<void> {
    try {
      const answers = users.size === 1 ? undefined : await this.#many([...users.keys()], audience);
      for (const [userId, asked] of users) {
        const member = answers?.get(userId) ?? (await this.#one(userId, audience));
        asked.forEach(({ resolve }) => resolve(member));
      }
    } catch (thrown) {
      const error = toMilepostError(thrown);
      const isOfOne = error.code === Code.InvalidArgument && users.size > 1;
      for (const [userId, asked] of users) {
        const alone = isOfOne ? this.#one(userId, audience) : Promise.reject(error);
        alone.then(
          (member) => asked.forEach(({ resolve }) => resolve(member)),
          (reason: unknown) => asked.forEach(({ reject }) => reject(reason)),
        );
      }
    }
  }
}
