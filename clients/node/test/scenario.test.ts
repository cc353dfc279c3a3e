/**
 * The steps of tests/spec/methods.yaml: every method of the contract, over gRPC and over Connect with JSON. Python runs
 * the same table with the same answers and the same refusals.
 */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import {
  fromJson,
  toJson,
  type DescMethod,
  type DescMethodStreaming,
  type DescMethodUnary,
  type DescService,
  type JsonValue,
} from "@bufbuild/protobuf";
import { Code, type Transport } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport } from "@connectrpc/connect-node";
import { MilepostError, toMilepostError } from "../src/errors.js";
import { AccountService } from "../src/gen/milepost/v1/account_service_pb.js";
import { AdminService } from "../src/gen/milepost/v1/admin_service_pb.js";
import { AudienceService } from "../src/gen/milepost/v1/audience_service_pb.js";
import { CatalogService } from "../src/gen/milepost/v1/catalog_service_pb.js";
import { ConnectionService } from "../src/gen/milepost/v1/connection_service_pb.js";
import { IngestService } from "../src/gen/milepost/v1/ingest_service_pb.js";
import { JourneyService } from "../src/gen/milepost/v1/journey_service_pb.js";
import { PYTHON, ROOT, Service } from "./support/service.js";

interface Step {
  method: string;
  requests: (JsonValue | null)[];
  answer?: JsonValue;
  answers?: JsonValue[];
  last?: JsonValue;
  refusal?: { code: string; reason: string };
  eventually?: boolean;
  save?: Record<string, string>;
}

const EVENTUALLY_MS = 60_000;
const CALL_TIMEOUT_MS = 60_000;
const SERVICES: readonly DescService[] = [
  AccountService,
  AdminService,
  AudienceService,
  CatalogService,
  ConnectionService,
  IngestService,
  JourneyService,
];
const METHODS = new Map<string, DescMethod>(
  SERVICES.flatMap(({ name, methods }) => methods.map((method) => [`${name}.${method.name}`, method] as const)),
);

/** Performs steps on a service. */
class Run {
  readonly #transport: Transport;
  readonly #saved = new Map<string, JsonValue>();

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** The differences from what the step expects. */
  async perform(step: Step): Promise<string[]> {
    const deadline = performance.now() + EVENTUALLY_MS;
    for (;;) {
      const found = await this.#once(step);
      if (found.length === 0 || step.eventually !== true || performance.now() > deadline) {
        return found;
      }
      await sleep(20);
    }
  }

  async #once(step: Step): Promise<string[]> {
    const wanted = this.#filled({ answer: step.answer ?? null, answers: step.answers ?? null, last: step.last ?? null });
    let answers: JsonValue[];
    try {
      answers = await this.#call(step);
    } catch (thrown) {
      const error = toMilepostError(thrown);
      const found = { code: codeName(error.code), reason: error.reason };
      return step.refusal === undefined
        ? [`refused: ${error.message}`]
        : differences(step.refusal, found, "refusal");
    }
    if (step.refusal !== undefined) {
      return [`not refused: ${JSON.stringify(answers)}`];
    }
    for (const [name, path] of Object.entries(step.save ?? {})) {
      let value: JsonValue | undefined = answers[0];
      for (const part of path.split(".")) {
        value = (value as Record<string, JsonValue>)[part];
      }
      this.#saved.set(name, value ?? null);
    }
    const { answer, last } = wanted as { answer: JsonValue; last: JsonValue };
    if (step.answers !== undefined) {
      return differences((wanted as { answers: JsonValue }).answers, answers, "answers");
    }
    return step.last === undefined
      ? differences([answer], answers, "answer")
      : differences(last, answers.at(-1) ?? null, "last");
  }

  async #call(step: Step): Promise<JsonValue[]> {
    const method = METHODS.get(step.method);
    assert.ok(method, step.method);
    const requests = step.requests.map((each) => fromJson(method.input, this.#filled(each ?? {})));
    const operator = this.#saved.get("operator");
    const headers = new Headers(typeof operator === "string" ? { authorization: `Bearer ${operator}` } : {});
    if (method.methodKind === "unary") {
      const { message } = await this.#transport.unary(
        method as DescMethodUnary,
        undefined,
        CALL_TIMEOUT_MS,
        headers,
        requests[0] as never,
      );
      return [treeOf(method, message)];
    }
    const ended = new AbortController();
    const input = (async function* () {
      yield* requests as never[];
    })();
    const { message } = await this.#transport.stream(method as DescMethodStreaming, ended.signal, CALL_TIMEOUT_MS, headers, input);
    const answers: JsonValue[] = [];
    for await (const each of message) {
      answers.push(treeOf(method, each));
      if (answers.length === step.answers?.length) {
        break;
      }
    }
    ended.abort();
    return answers;
  }

  /** The tree with what stands for another value replaced by it. */
  #filled(tree: JsonValue): JsonValue {
    if (Array.isArray(tree)) {
      return tree.map((each) => this.#filled(each));
    }
    if (typeof tree === "object" && tree !== null) {
      return Object.fromEntries(Object.entries(tree).map(([key, value]) => [key, this.#filled(value)]));
    }
    if (tree === "$now") {
      return new Date().toISOString();
    }
    return typeof tree === "string" && tree.startsWith("$") && tree !== "$any"
      ? (this.#saved.get(tree.slice(1)) ?? null)
      : tree;
  }
}

function treeOf(method: DescMethod, message: unknown): JsonValue {
  return toJson(method.output, message as never, { alwaysEmitImplicit: true, useProtoFieldName: true });
}

/** The name of a code in gRPC: NotFound → NOT_FOUND. */
function codeName(code: Code): string {
  const name = Code[code].replace(/(?<=.)[A-Z]/g, "_$&").toUpperCase();
  return name === "CANCELED" ? "CANCELLED" : name;
}

/** One line for each place where `found` lacks or contradicts what is wanted. */
function differences(wanted: JsonValue, found: JsonValue | undefined, path: string): string[] {
  if (wanted === "$any") {
    return found ? [] : [`${path}: nothing`];
  }
  if (Array.isArray(wanted) && Array.isArray(found)) {
    return wanted.length === found.length
      ? wanted.flatMap((each, index) => differences(each, found[index], `${path}[${index}]`))
      : [`${path}: ${found.length} elements, expected ${wanted.length}`];
  }
  if (isTree(wanted) && isTree(found)) {
    return Object.entries(wanted).flatMap(([key, value]) =>
      key in found ? differences(value, found[key], `${path}.${key}`) : [`${path}.${key}: missing`],
    );
  }
  const same = wanted === found || (typeof found === "string" && String(wanted) === found);
  return same ? [] : [`${path}: ${JSON.stringify(found)}, expected ${JSON.stringify(wanted)}`];
}

function isTree(value: JsonValue | undefined): value is Record<string, JsonValue> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

async function steps(): Promise<Step[]> {
  const ran = await promisify(execFile)(PYTHON, ["-m", "tests.spec.steps_as_json"], { cwd: ROOT, maxBuffer: 1 << 24 });
  return JSON.parse(ran.stdout) as Step[];
}

const TRANSPORTS: Record<string, (grpc: string, http: string) => Transport> = {
  gRPC: (grpc) => createGrpcTransport({ baseUrl: `http://${grpc}` }),
  "Connect with JSON": (_, http) =>
    createConnectTransport({ baseUrl: `http://${http}`, httpVersion: "1.1", useBinaryFormat: false }),
};

for (const [name, open] of Object.entries(TRANSPORTS)) {
  test(`every method answers as its scenario says, over ${name}`, async () => {
    const directory = await mkdtemp(`${tmpdir()}/milepost-`);
    const outputs = `${directory}/outputs`;
    await mkdir(`${outputs}/a`, { recursive: true });
    await writeFile(`${outputs}/a/blocked`, "a file in the place of a directory");
    const service = await Service.start([
      ...["--data-dir", `${directory}/store`, "--output-dir", outputs, "--backup-dir", `${directory}/backups`],
      ...["--retry-budget-s", "0.1", "--http-port", "0"],
    ]);
    const run = new Run(open(service.target, service.http));
    const found: string[] = [];
    for (const [index, step] of (await steps()).entries()) {
      const lines = await run.perform(step);
      found.push(...lines.map((line) => `step ${index + 1}, ${step.method}: ${line}`));
    }
    assert.deepEqual(found, []);
    await service.stop();
    await rm(directory, { recursive: true });
  });
}

test("refusals over both are MilepostErrors", () => {
  assert.ok(toMilepostError(new Error("x")) instanceof MilepostError);
  assert.equal(codeName(Code.FailedPrecondition), "FAILED_PRECONDITION");
});
