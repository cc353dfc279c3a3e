/** Calls with one answer, against servers that answer in every way there is. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type IncomingHttpHeaders, type OutgoingHttpHeaders, type ServerHttp2Stream } from "node:http2";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { Client, MilepostError } from "../src/index.js";
import { CheckMembershipResponseSchema } from "../src/gen/milepost/v1/audience_service_pb.js";

type Answering = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders) => void;

const GRPC: OutgoingHttpHeaders = { ":status": 200, "content-type": "application/grpc+proto" };
const MEMBER = toBinary(CheckMembershipResponseSchema, create(CheckMembershipResponseSchema, { member: true }));

/** What a check answers or throws when a server answers it in that way. */
async function check(answering: Answering, options: { timeoutMs?: number; apiKey?: string } = {}): Promise<unknown> {
  const server = createServer();
  server.on("stream", (stream, headers) => {
    stream.on("error", () => undefined);
    answering(stream, headers);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const client = new Client(`127.0.0.1:${port}`, { account: "a", ...options });
  try {
    return await client.check("ann", "accounts/a/audiences/x");
  } catch (error) {
    assert(error instanceof MilepostError);
    return error;
  } finally {
    client.close();
    server.close();
  }
}

function frame(message: Uint8Array, { flag = 0, length = message.length } = {}): Buffer {
  const prefix = Buffer.alloc(5);
  prefix[0] = flag;
  prefix.writeUInt32BE(length, 1);
  return Buffer.concat([prefix, message]);
}

/** Answers with these bytes and trailers. */
function answer(parts: readonly Uint8Array[], trailers: OutgoingHttpHeaders = { "grpc-status": "0" }): Answering {
  return (stream) => {
    stream.respond(GRPC, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers(trailers));
    for (const part of parts) {
      stream.write(part);
    }
    stream.end();
  };
}

function refused(found: unknown, code: Code, text: RegExp): void {
  assert(found instanceof MilepostError, String(found));
  assert.equal(Code[found.code], Code[code]);
  assert.match(found.rawMessage, text);
}

test("a message is one, however it is cut", async () => {
  const whole = frame(MEMBER);
  assert.equal(await check(answer([whole])), true);
  assert.equal(await check(answer([...whole].map((byte) => Buffer.of(byte)))), true);
  assert.equal(await check(answer([frame(new Uint8Array())])), false);
});

test("the key, the deadline and the request are sent", async () => {
  let sent: IncomingHttpHeaders = {};
  await check(
    (stream, headers) => {
      sent = headers;
      answer([frame(MEMBER)])(stream, headers);
    },
    { apiKey: "key", timeoutMs: 1_500 },
  );
  assert.equal(sent[":path"], "/milepost.v1.AudienceService/CheckMembership");
  assert.equal(sent["authorization"], "Bearer key");
  assert.equal(sent["grpc-timeout"], "1500m");
  assert.equal(sent["te"], "trailers");
});

test("a refusal has its code and message, with headers alone or after a message", async () => {
  const ending = { "grpc-status": "5", "grpc-message": "no %E2%9C%93 here" };
  const alone: Answering = (stream) => stream.respond({ ...GRPC, ...ending }, { endStream: true });
  refused(await check(alone), Code.NotFound, /^no ✓ here$/);
  refused(await check(answer([frame(MEMBER)], ending)), Code.NotFound, /^no ✓ here$/);
  refused(await check(answer([], { "grpc-status": "99" })), Code.Unknown, /^$/);
});

test("an answer that is none is an error that says so", async () => {
  for (const parts of [[], [frame(MEMBER), frame(MEMBER)], [frame(MEMBER, { flag: 1 })], [frame(MEMBER, { length: 9 })]]) {
    refused(await check(answer(parts)), Code.Internal, /not one uncompressed message/);
  }
  const login: Answering = (stream) => {
    stream.respond({ ":status": 401, "content-type": "text/html" });
    stream.end("log in");
  };
  refused(await check(login), Code.Unauthenticated, /HTTP 401/);
});

test("a call that ends early is made again, and then is unavailable", async () => {
  let calls = 0;
  const breaking: Answering = (stream) => {
    calls += 1;
    if (calls === 1) {
      stream.close(8);
    } else if (calls === 2) {
      stream.session?.destroy();
    } else if (calls === 3) {
      stream.respond(GRPC);
      stream.end();
    } else {
      answer([frame(MEMBER)])(stream, {});
    }
  };
  assert.equal(await check(breaking), true);
  assert.equal(calls, 4);
});

test("a call ends at its deadline and tells the server", async () => {
  let reset: Promise<unknown> = Promise.resolve();
  const silent: Answering = (stream) => {
    reset = new Promise((resolve) => stream.on("close", () => resolve(stream.rstCode)));
  };
  refused(await check(silent, { timeoutMs: 50 }), Code.DeadlineExceeded, /timed out/);
  assert.equal(await reset, 8);
});

test("a signal ends a call, also before it begins", async () => {
  const server = createServer();
  server.on("stream", (stream) => stream.on("error", () => undefined));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const client = new Client(`127.0.0.1:${(server.address() as AddressInfo).port}`, { account: "a" });
  for (const delayMs of [0, 30]) {
    const abort = new AbortController();
    const call = client.audiences.checkMembership({ audience: "x", userId: "ann" }, { signal: abort.signal });
    setTimeout(() => abort.abort(), delayMs);
    await assert.rejects(call, (error: MilepostError) => error.code === Code.Canceled);
  }
  const aborted = { signal: AbortSignal.abort() };
  const late = client.audiences.checkMembership({ audience: "x", userId: "ann" }, aborted);
  await assert.rejects(late, (error: MilepostError) => error.code === Code.Canceled);
  client.close();
  server.close();
});
