/** The connection to a service: gRPC over HTTP/2, with key, deadline, retries of reads, and errors with their reasons. */

import type { DescMessage, DescMethodStreaming, DescMethodUnary, MessageInitShape } from "@bufbuild/protobuf";
import { Code, type StreamResponse, type Transport, type UnaryResponse } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import type { SecureClientSessionOptions } from "node:http2";
import { MilepostError, toMilepostError } from "./errors.js";
import { Backoff } from "./retrying.js";
import { Sessions } from "./sessions.js";
import { callUnary } from "./unary.js";
import { setTimeout as sleep } from "node:timers/promises";

/** Interval between pings of an idle connection, so that a dead one is noticed. The service allows 10 seconds. */
const PING_INTERVAL_MS = 60_000;
const PING_TIMEOUT_MS = 20_000;
/** Attempts at a read, as in the published service config. */
export const READ_ATTEMPTS_MAX = 5;
const READS = /^(Get|List|Check|BatchCheck|Compare|Count|Estimate|Explain|Preview)/;

/** TLS: `true` trusts the CAs of the system. */
export type Tls = boolean | { ca?: string | Buffer; cert?: string | Buffer; key?: string | Buffer };

/** How to reach a service. */
export interface ConnectionOptions {
  target: string;
  tls: Tls;
  apiKey: string;
  timeoutMs: number;
}

/** Whether a method only reads, so that it may be called again. */
export function isRead(method: { name: string; methodKind: string }): boolean {
  return method.methodKind === "unary" && READS.test(method.name);
}

/** A transport of the contract's methods. */
export class MilepostTransport implements Transport {
  readonly #inner: Transport;
  readonly #sessions: Sessions;
  readonly #options: ConnectionOptions;
  readonly #own: Readonly<Record<string, string>>;
  #isClosed = false;

  constructor(options: ConnectionOptions) {
    const { target, tls } = options;
    const baseUrl = `${tls === false ? "http" : "https"}://${target}`;
    const nodeOptions: SecureClientSessionOptions = typeof tls === "boolean" ? {} : tls;
    this.#options = options;
    const pings = { pingIntervalMs: PING_INTERVAL_MS, pingTimeoutMs: PING_TIMEOUT_MS, pingIdleConnection: true };
    this.#sessions = new Sessions(() => new Http2SessionManager(baseUrl, pings, nodeOptions));
    this.#own = Object.fromEntries(this.#headers(undefined));
    this.#inner = createGrpcTransport({ baseUrl, sessionManager: this.#sessions, readMaxBytes: 0xffffffff });
  }

  /** Ends the connections, and every call with them. */
  close(): void {
    this.#isClosed = true;
    this.#sessions.abort();
  }

  async unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: HeadersInit | undefined,
    input: MessageInitShape<I>,
  ): Promise<UnaryResponse<I, O>> {
    const backoff = new Backoff({ attemptsMax: isRead(method) ? READ_ATTEMPTS_MAX : 1 });
    for (;;) {
      try {
        return await callUnary(this.#sessions, method, input, this.#sent(header), {
          signal,
          timeoutMs: timeoutMs ?? this.#options.timeoutMs,
        });
      } catch (error) {
        const pause = backoff.failed(this.#refusal(error, signal));
        await sleep(pause, undefined, signal === undefined ? {} : { signal });
      }
    }
  }

  async stream<I extends DescMessage, O extends DescMessage>(
    method: DescMethodStreaming<I, O>,
    ...[signal, timeoutMs, header, input, contextValues]: Rest<Transport["stream"]>
  ): Promise<StreamResponse<I, O>> {
    try {
      const response = await this.#inner.stream(
        method,
        signal,
        timeoutMs,
        this.#headers(header),
        input as never,
        contextValues,
      );
      return { ...response, message: this.#messages(response.message, signal) };
    } catch (error) {
      throw this.#refusal(error, signal);
    }
  }

  async *#messages<T>(messages: AsyncIterable<T>, signal: AbortSignal | undefined): AsyncGenerator<T> {
    try {
      yield* messages;
    } catch (error) {
      throw this.#refusal(error, signal);
    }
  }

  /** The error of a call. One that was cancelled here by no one is one of the connection. */
  #refusal(thrown: unknown, signal: AbortSignal | undefined): MilepostError {
    const error = toMilepostError(thrown);
    const isOurs = this.#isClosed || signal?.aborted === true;
    if (error.code !== Code.Canceled || error.reason !== "" || isOurs) {
      return error;
    }
    return new MilepostError(error.rawMessage, Code.Unavailable, { cause: thrown });
  }

  #headers(given: HeadersInit | undefined): Headers {
    const headers = new Headers(given);
    if (this.#options.apiKey !== "" && !headers.has("authorization")) {
      headers.set("authorization", `Bearer ${this.#options.apiKey}`);
    }
    return headers;
  }

  /** The headers of a call as Node sends them. Most calls have only those of the client, which are made once. */
  #sent(given: HeadersInit | undefined): Readonly<Record<string, string>> {
    return given === undefined ? this.#own : Object.fromEntries(this.#headers(given));
  }
}

type HeadersInit = ConstructorParameters<typeof Headers>[0];
type Rest<F> = F extends (first: never, ...rest: infer R) => unknown ? R : never;
