/** How often a watch is tried, without a service. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { Code, MilepostError } from "../src/index.js";
import { WatchMembershipRequestSchema, type WatchMembershipResponse } from "../src/gen/milepost/v1/audience_service_pb.js";
import { Watch, WatchTogether, type OpenWatch } from "../src/watching.js";

const OPENED = 4;
const ATTEMPTS_MAX = 3;

async function* broken(): AsyncGenerator<WatchMembershipResponse> {
  yield* [];
  await Promise.resolve();
  throw new MilepostError("gone", Code.Unavailable);
}

test("attempts count anew after a service that opened the watch, though it had nothing to say", async () => {
  const request = create(WatchMembershipRequestSchema, { start: { case: "cursor", value: 1n } });
  const kinds = [
    (open: OpenWatch) => new Watch(open, request, { attemptsMax: ATTEMPTS_MAX }),
    (open: OpenWatch) => new WatchTogether(open, request, { attemptsMax: ATTEMPTS_MAX, targets: new Map([["a", "a"]]) }),
  ];
  for (const kind of kinds) {
    let calls = 0;
    const watch = kind((_, { onHeader }) => {
      calls += 1;
      onHeader(new Headers(calls <= OPENED ? { "milepost-stream": "open" } : {}));
      return broken();
    });
    await assert.rejects(
      async () => {
        for await (const update of watch) {
          assert.fail(String(update));
        }
      },
      { code: Code.Unavailable },
    );
    // The last that was opened broke off too: with the ones after it, that is as many as are made in a row.
    assert.equal(calls, OPENED + ATTEMPTS_MAX - 1);
  }
});
