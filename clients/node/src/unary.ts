/**
 * Calls with one request and one answer, straight on the HTTP/2 streams of the connection.
 *
 * connect-node takes each call through asynchronous iterators, linked signals and web headers, as streams need them.
 * Without these a call takes about a third of the CPU. Calls and streams share the connection.
 */

import { constants, type ClientHttp2Stream, type IncomingHttpHeaders } from "node:http2";
import {
  create,
  fromBinary,
  toBinary,
  type DescMessage,
  type DescMethodUnary,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf";
import { Code, ConnectError, type UnaryResponse } from "@connectrpc/connect";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";
import type { Opening } from "./sessions.js";

/** Before each message: a byte that says whether it is compressed, and its length. */
const PREFIX_BYTES = 5;
const LENGTH_AT = 1;
/** The header for it has eight digits. */
const TIMEOUT_MS_MAX = 99_999_999;
const USER_AGENT = "milepost-node";
const STATUS = "grpc-status";
const OK = "0";
/** Codes of answers that are not gRPC, as gRPC maps them. All others are unknown. */
const CODE_OF_HTTP = new Map([
  [400, Code.Internal],
  [401, Code.Unauthenticated],
  [403, Code.PermissionDenied],
  [404, Code.Unimplemented],
  [429, Code.Unavailable],
  [502, Code.Unavailable],
  [503, Code.Unavailable],
  [504, Code.Unavailable],
]);

/** What ends a call before its answer. */
export interface Limits {
  signal: AbortSignal | undefined;
  /** 0 = none. */
  timeoutMs: number;
}

/** Makes a call on a stream that is opened for it. Throws ConnectError, with the details of a refusal. */
export function callUnary<I extends DescMessage, O extends DescMessage>(
  sessions: Opening,
  method: DescMethodUnary<I, O>,
  input: MessageInitShape<I>,
  headers: Readonly<Record<string, string>>,
  { signal, timeoutMs }: Limits,
): Promise<UnaryResponse<I, O>> {
  const body = framed(toBinary(method.input, create(method.input, input)));
  const sent = { ...headers, "content-type": "application/grpc+proto", te: "trailers", "user-agent": USER_AGENT } as Record<string, string>;
  if (timeoutMs > 0) {
    sent["grpc-timeout"] = `${Math.min(Math.ceil(timeoutMs), TIMEOUT_MS_MAX)}m`;
  }
  return new Promise((resolve, reject) => {
    let stream: ClientHttp2Stream | undefined;
    let isOver = false;
    const over = (): boolean => {
      if (isOver) {
        return false;
      }
      isOver = true;
      clearTimeout(timer);
      signal?.removeEventListener("abort", onAbort);
      return true;
    };
    const fail = (error: ConnectError): void => {
      if (over()) {
        stream?.close(constants.NGHTTP2_CANCEL);
        reject(error);
      }
    };
    const onAbort = (): void => fail(ConnectError.from(signal?.reason, Code.Canceled));
    const timer =
      timeoutMs > 0
        ? setTimeout(() => fail(new ConnectError("the operation timed out", Code.DeadlineExceeded)), timeoutMs)
        : undefined;
    if (signal?.aborted === true) {
      onAbort();
      return;
    }
    signal?.addEventListener("abort", onAbort);
    const onBroken = (error: unknown): void => fail(ConnectError.from(error, Code.Unavailable));
    sessions.request("POST", `/${method.parent.typeName}/${method.name}`, sent, {}).then((opened) => {
      stream = opened;
      const answer = new Answer(method);
      opened.on("error", onBroken);
      if (isOver) {
        opened.close(constants.NGHTTP2_CANCEL);
        return;
      }
      opened.on("response", (found: IncomingHttpHeaders) => (answer.headers = found));
      opened.on("trailers", (found: IncomingHttpHeaders) => (answer.trailers = found));
      opened.on("data", (chunk: Buffer) => {
        answer.chunks.push(chunk);
        sessions.notifyResponseByteRead(opened);
      });
      opened.on("end", () => {
        if (over()) {
          try {
            resolve(answer.read());
          } catch (error) {
            reject(error);
          }
        }
      });
      opened.on("close", () => {
        if (!isOver) {
          onBroken(new ConnectError("the connection ended before the answer", Code.Unavailable));
        }
      });
      opened.end(body);
    }, onBroken);
  });
}

/** What came of an answer. */
class Answer<I extends DescMessage, O extends DescMessage> {
  readonly chunks: Buffer[] = [];
  headers: IncomingHttpHeaders | undefined;
  trailers: IncomingHttpHeaders | undefined;
  readonly #method: DescMethodUnary<I, O>;

  constructor(method: DescMethodUnary<I, O>) {
    this.#method = method;
  }

  /** The answer, complete. Throws ConnectError. */
  read(): UnaryResponse<I, O> {
    // A refusal without a message has its status in the only headers.
    const ending = this.trailers ?? this.headers ?? {};
    const status = ending[STATUS];
    if (status === OK) {
      return new Received(this.#method, this.#message(), this.headers ?? {}, this.trailers ?? {});
    }
    if (typeof status === "string") {
      throw refusal(Number(status), ending);
    }
    const http = this.headers?.[":status"];
    if (http !== undefined && Number(http) !== constants.HTTP_STATUS_OK) {
      throw new ConnectError(`HTTP ${http}`, CODE_OF_HTTP.get(Number(http)) ?? Code.Unknown, webHeaders(ending));
    }
    throw new ConnectError("the answer ended without a status", Code.Unavailable);
  }

  #message(): MessageShape<O> {
    const [first] = this.chunks;
    const data = first !== undefined && this.chunks.length === 1 ? first : Buffer.concat(this.chunks);
    const isWhole = data.length >= PREFIX_BYTES && data.length === PREFIX_BYTES + data.readUInt32BE(LENGTH_AT);
    if (!isWhole || data[0] !== 0) {
      throw new ConnectError("the answer is not one uncompressed message", Code.Internal);
    }
    return fromBinary(this.#method.output, data.subarray(PREFIX_BYTES));
  }
}

/** An answer. Web headers are made when somebody looks at them. */
class Received<I extends DescMessage, O extends DescMessage> implements UnaryResponse<I, O> {
  readonly stream = false;
  readonly method: DescMethodUnary<I, O>;
  readonly message: MessageShape<O>;
  readonly #headers: IncomingHttpHeaders;
  readonly #trailers: IncomingHttpHeaders;

  constructor(
    method: DescMethodUnary<I, O>,
    message: MessageShape<O>,
    headers: IncomingHttpHeaders,
    trailers: IncomingHttpHeaders,
  ) {
    this.method = method;
    this.message = message;
    this.#headers = headers;
    this.#trailers = trailers;
  }

  get service(): DescMethodUnary<I, O>["parent"] {
    return this.method.parent;
  }

  get header(): Headers {
    return webHeaders(this.#headers);
  }

  get trailer(): Headers {
    return webHeaders(this.#trailers);
  }
}

/** A message as gRPC sends it. */
function framed(message: Uint8Array): Buffer {
  const body = Buffer.allocUnsafe(PREFIX_BYTES + message.length);
  body[0] = 0;
  body.writeUInt32BE(message.length, LENGTH_AT);
  body.set(message, PREFIX_BYTES);
  return body;
}

/** The error of a status that is not OK, with its details. */
function refusal(code: number, ending: IncomingHttpHeaders): ConnectError {
  const known = Code[code] === undefined ? Code.Unknown : (code as Code);
  const error = new ConnectError(decoded(String(ending["grpc-message"] ?? "")), known, webHeaders(ending));
  const details = ending["grpc-status-details-bin"];
  if (typeof details === "string") {
    const status = fromBinary(StatusSchema, Buffer.from(details, "base64"));
    error.details = status.details.map(({ typeUrl, value }) => ({
      type: typeUrl.slice(typeUrl.lastIndexOf("/") + 1),
      value,
    }));
  }
  return error;
}

/** A message for people, whose characters may be escaped. */
function decoded(message: string): string {
  try {
    return decodeURIComponent(message);
  } catch {
    return message;
  }
}

function webHeaders(found: IncomingHttpHeaders): Headers {
  const headers = new Headers();
  for (const [name, value] of Object.entries(found)) {
    if (!name.startsWith(":")) {
      for (const each of Array.isArray(value) ? value : [value ?? ""]) {
        headers.append(name, each);
      }
    }
  }
  return headers;
}
