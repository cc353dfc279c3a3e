/** How calls that are safe to repeat are repeated. */

import { setTimeout as sleep } from "node:timers/promises";
import { Code } from "@connectrpc/connect";
import { toMilepostError, type MilepostError } from "./errors.js";

export const ATTEMPTS_MAX = 6;
const FIRST_PAUSE_MS = 200;
const LAST_PAUSE_MS = 5_000;
/** Share of a pause that is random, so that many callers do not come back at once. */
const JITTER = 0.5;

/**
 * Whether another attempt may succeed: the service is unavailable, or a limit was reached and the service says when to
 * try again. With `timeouts` also after no answer in time.
 */
export function isTemporary(error: MilepostError, timeouts = false): boolean {
  switch (error.code) {
    case Code.Unavailable:
      return true;
    case Code.ResourceExhausted:
      return error.retryAfterMs !== undefined;
    case Code.DeadlineExceeded:
      return timeouts;
    default:
      return false;
  }
}

/** The pauses between attempts. They grow until an attempt succeeds. */
export class Backoff {
  readonly #attemptsMax: number;
  readonly #timeouts: boolean;
  #failures = 0;

  constructor({ attemptsMax = ATTEMPTS_MAX, timeouts = false }: { attemptsMax?: number; timeouts?: boolean } = {}) {
    this.#attemptsMax = attemptsMax;
    this.#timeouts = timeouts;
  }

  /** Milliseconds to wait before the next attempt. Throws the error when there is none. */
  failed(thrown: unknown): number {
    const error = toMilepostError(thrown);
    this.#failures += 1;
    if (!isTemporary(error, this.#timeouts) || this.#failures >= this.#attemptsMax) {
      throw error;
    }
    const pause = Math.min(FIRST_PAUSE_MS * 2 ** (this.#failures - 1), LAST_PAUSE_MS);
    return Math.max(pause * (1 - JITTER * Math.random()), error.retryAfterMs ?? 0);
  }

  /** The next failure is the first one again. */
  succeeded(): void {
    this.#failures = 0;
  }
}

/** Repeats a call while it fails for a reason that passes. */
export async function withRetry<T>(
  call: () => Promise<T>,
  options: { attemptsMax?: number; timeouts?: boolean } = {},
): Promise<T> {
  const backoff = new Backoff(options);
  for (;;) {
    try {
      return await call();
    } catch (error) {
      await sleep(backoff.failed(error));
    }
  }
}
