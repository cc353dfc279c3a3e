import { setTimeout as sleep } from "node:timers/promises";

/** A guard against waiting for ever. */
const WITHIN_MS = 60_000;

/** The value of `condition` once it is true. */
export async function eventually<T>(condition: () => T | Promise<T>): Promise<T> {
  const deadline = performance.now() + WITHIN_MS;
  for (;;) {
    const answer = await condition();
    if (answer) {
      return answer;
    }
    if (performance.now() > deadline) {
      throw new Error(`still ${String(answer)} after ${WITHIN_MS} ms`);
    }
    await sleep(20);
  }
}
