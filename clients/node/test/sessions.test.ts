/** Calls beyond those of one connection go over further ones. */

import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { createServer, type ClientHttp2Stream, type ServerHttp2Stream } from "node:http2";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import type { Http2SessionManager } from "@connectrpc/connect-node";
import { Client } from "../src/index.js";
import { CALLS_MAX, CONNECTIONS_MAX, Sessions } from "../src/sessions.js";
import { eventually } from "./support/eventually.js";

/** A connection whose streams are opened at once, unless it is broken. */
class Connection {
  readonly authority = "http://localhost";
  isBroken = false;
  streams = 0;

  async request(): Promise<ClientHttp2Stream> {
    if (this.isBroken) {
      throw new Error("broken");
    }
    this.streams += 1;
    return new EventEmitter() as ClientHttp2Stream;
  }
}

function connections(): { made: Connection[]; sessions: Sessions; open: () => Promise<ClientHttp2Stream> } {
  const made: Connection[] = [];
  const sessions = new Sessions(() => {
    made.push(new Connection());
    return made.at(-1) as unknown as Http2SessionManager;
  });
  return { made, sessions, open: () => sessions.request("POST", "/", {}, {}) };
}

test("connections are filled in order, used again, and shared evenly at last", async () => {
  const { made, open } = connections();
  const streams = [];
  for (let call = 0; call < CALLS_MAX * CONNECTIONS_MAX; call += 1) {
    streams.push(await open());
  }
  assert.deepEqual(made.map(({ streams }) => streams), Array(CONNECTIONS_MAX).fill(CALLS_MAX));
  for (let call = 0; call < CONNECTIONS_MAX; call += 1) {
    await open();
  }
  assert.deepEqual(made.map(({ streams }) => streams), Array(CONNECTIONS_MAX).fill(CALLS_MAX + 1));
  for (const stream of streams.slice(0, 2)) {
    stream.emit("close");
  }
  await open();
  assert.equal(made[0]?.streams, CALLS_MAX + 2);
});

test("a stream that was not opened leaves its room to others", async () => {
  const { made, open } = connections();
  await open();
  const [first] = made;
  assert(first !== undefined);
  first.isBroken = true;
  for (let call = 0; call < CALLS_MAX; call += 1) {
    await assert.rejects(open());
  }
  first.isBroken = false;
  await open();
  assert.equal(made.length, 1);
});

test("a client has its calls answered over as many connections as they need", async () => {
  const waiting: ServerHttp2Stream[] = [];
  let sessions = 0;
  const server = createServer({ settings: { maxConcurrentStreams: 2 * CALLS_MAX } });
  server.on("session", () => (sessions += 1));
  server.on("stream", (stream) => waiting.push(stream));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const client = new Client(`127.0.0.1:${port}`, { account: "a" });
  const checks = Array.from({ length: 3 * CALLS_MAX }, () => client.check("ann", "accounts/a/audiences/x"));
  await eventually(() => waiting.length === checks.length);
  for (const stream of waiting) {
    stream.respond({ ":status": 200, "content-type": "application/grpc+proto" }, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
    // A message without fields: no member.
    stream.end(Buffer.alloc(5));
  }
  assert.deepEqual(new Set(await Promise.all(checks)), new Set([false]));
  assert.equal(sessions, 3);
  client.close();
  server.close();
});
