/**
 * What calls throw.
 *
 * Every refusal by the service is a `MilepostError`: a `ConnectError` with the `reason` to switch on, the `info` that
 * goes with it, and the fields at fault. The reasons are those of `ErrorReason` in milepost/v1/errors.proto, without
 * the prefix.
 */

import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";

const ERROR_DOMAIN = "milepost";
const CONNECTION_CODE = /^(ECONN|EPIPE|ETIMEDOUT|EAI_|ENOTFOUND|EHOSTUNREACH|ENETUNREACH|ERR_HTTP2_|ERR_STREAM_)/;

/** One fault in a request: the path of the field, and a description. */
export interface Violation {
  readonly field: string;
  readonly description: string;
  /** Of rows of a batch: why this one was rejected. Otherwise "", and the error has the reason. */
  readonly reason: string;
}

/**
 * A refusal: `code`, `rawMessage` for people, `reason` and `info` for programs, invalid fields. Its `name` is that of
 * ConnectError, by which Connect recognises its errors.
 */
export class MilepostError extends ConnectError {
  /** Only these. ConnectError itself takes every error of its name, as there may be several copies of it. */
  static override [Symbol.hasInstance](thrown: unknown): boolean {
    return typeof thrown === "object" && thrown !== null && this.prototype.isPrototypeOf(thrown);
  }

  /** UPPER_SNAKE and stable, such as RESOURCE_NOT_FOUND; "" for failures of the connection. */
  readonly reason: string;
  /** What the reason is about, such as `resource` or `limit`. */
  readonly info: Readonly<Record<string, string>>;
  /** The fields at fault. */
  readonly violations: readonly Violation[];
  /** When the service says to try again, in milliseconds; undefined when it does not. */
  readonly retryAfterMs: number | undefined;

  constructor(
    message: string,
    code: Code,
    found: {
      reason?: string;
      info?: Record<string, string>;
      violations?: readonly Violation[];
      retryAfterMs?: number | undefined;
      headers?: Headers | undefined;
      cause?: unknown;
    } = {},
  ) {
    super(message, code, found.headers, undefined, found.cause);
    this.reason = found.reason ?? "";
    this.info = found.info ?? {};
    this.violations = found.violations ?? [];
    this.retryAfterMs = found.retryAfterMs;
  }
}

/** The local state of an audience is further behind than allowed, or missing. No call was made. */
export class TooStaleError extends MilepostError {
  constructor(audience: string, stalenessMs: number, maxStalenessMs: number) {
    const message = Number.isFinite(stalenessMs)
      ? `${audience} is ${Math.round(stalenessMs)} ms behind; answers may be ${maxStalenessMs} ms old`
      : `${audience} is not followed yet`;
    super(message, Code.Unavailable, { info: { resource: audience } });
  }
}

/** The error of a call with its details read. */
export function toMilepostError(thrown: unknown): MilepostError {
  if (thrown instanceof MilepostError) {
    return thrown;
  }
  const error = ConnectError.from(thrown);
  if (isOfConnection(error)) {
    return new MilepostError(error.rawMessage, Code.Unavailable, { cause: thrown });
  }
  const info = error.findDetails(ErrorInfoSchema).find((each) => each.domain === ERROR_DOMAIN);
  const delay = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
  return new MilepostError(error.rawMessage, error.code, {
    reason: info?.reason ?? "",
    info: info?.metadata ?? {},
    violations: error
      .findDetails(BadRequestSchema)
      .flatMap((each) => each.fieldViolations)
      .map(({ field, description, reason }) => ({ field, description, reason })),
    retryAfterMs: delay === undefined ? undefined : Number(delay.seconds) * 1_000 + delay.nanos / 1_000_000,
    headers: error.metadata,
    cause: thrown,
  });
}

/** Whether the connection failed, and not the call: Node's own errors have codes such as ECONNRESET. */
function isOfConnection(error: ConnectError): boolean {
  for (let cause: unknown = error.cause; cause instanceof Error; cause = cause.cause) {
    if ("code" in cause && typeof cause.code === "string" && CONNECTION_CODE.test(cause.code)) {
      return true;
    }
  }
  return false;
}

/** Whether the code says that nothing of that name exists. */
export function isNotFound(thrown: unknown): boolean {
  return thrown instanceof ConnectError && thrown.code === Code.NotFound;
}
