/** Streams events over one call, and goes on over another one when it breaks. */

import { create } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { setTimeout as sleep } from "node:timers/promises";
import { batches, Sent, type Batch } from "./batches.js";
import { toMilepostError, type MilepostError } from "./errors.js";
import { EventSchema, type Event } from "./gen/milepost/v1/data_pb.js";
import {
  StreamEventsRequestSchema,
  type StreamEventsRequest,
  type StreamEventsResponse,
} from "./gen/milepost/v1/ingest_service_pb.js";
import { Backoff } from "./retrying.js";

const STREAM_ATTEMPTS_MAX = 10;
/** Reason with which a service ends a call that has been idle. */
const STREAM_IDLE = "STREAM_IDLE";

/** Opens a call of StreamEvents. */
export type OpenStream = (
  requests: AsyncIterable<StreamEventsRequest>,
  options: { signal: AbortSignal },
) => AsyncIterable<StreamEventsResponse>;

/** Where events go, and in which portions. */
export interface EventStreamOptions {
  parent: string;
  input: string;
  requestId: string;
  unacknowledgedMax: number;
  batchRows: number;
}

interface Pending {
  readonly batch: Batch<Event>;
  readonly request: StreamEventsRequest;
}

/**
 * Sends events as they come, over one call. At most `unacknowledgedMax` batches await their acknowledgement: `send` waits
 * for the service rather than let them pile up. When the connection breaks, or the service restarts, batches without an
 * acknowledgement are sent again under their request ids, so no event is lost or stored twice. `close` flushes first.
 */
export class EventStream implements AsyncDisposable {
  /** What has become of the events acknowledged so far. */
  readonly sent = new Sent();
  readonly #open: OpenStream;
  readonly #options: EventStreamOptions;
  readonly #backoff = new Backoff({ attemptsMax: STREAM_ATTEMPTS_MAX, timeouts: true });
  #pending: Pending[] = [];
  #call: Call | undefined;
  #connectAt = 0;
  #sequence = 0n;
  #rows = 0;
  /**
   * After a failure one batch is sent alone until it is acknowledged. That tells which batch ended a call, and spares a
   * service that is coming back.
   */
  #isTrying = false;

  constructor(open: OpenStream, options: EventStreamOptions) {
    if (options.unacknowledgedMax < 1) {
      throw new RangeError(`expected at least one unacknowledged batch, got ${options.unacknowledgedMax}`);
    }
    this.#open = open;
    this.#options = options;
  }

  /** Batches that were sent and are not acknowledged. */
  get unacknowledged(): number {
    return this.#pending.length;
  }

  /** Sends events. Does not wait for acknowledgements while there is room: `flush` does. */
  async send(events: Iterable<Event> | AsyncIterable<Event>): Promise<void> {
    const { requestId, batchRows, unacknowledgedMax } = this.#options;
    for await (const { rows } of batches(EventSchema, events, "", batchRows)) {
      while (this.#pending.length >= unacknowledgedMax) {
        await this.#acknowledge();
      }
      const batch = { rows, firstIndex: this.#rows, requestId: `${requestId}-${this.#sequence}` };
      this.#submit(batch);
    }
  }

  /** Waits until every event is acknowledged, which means stored or rejected. */
  async flush(): Promise<Sent> {
    while (this.#pending.length > 0) {
      await this.#acknowledge();
    }
    return this.sent;
  }

  /** Flushes, then ends the call. */
  async close(): Promise<Sent> {
    try {
      return await this.flush();
    } finally {
      this.cancel();
    }
  }

  /** Ends the call. What is not acknowledged may or may not be stored. */
  cancel(): void {
    this.#call?.cancel();
    this.#call = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #submit(batch: Batch<Event>): void {
    const { parent, input } = this.#options;
    const request = create(StreamEventsRequestSchema, {
      sequence: this.#sequence,
      batch: { parent, input, events: batch.rows, requestId: batch.requestId },
    });
    this.#sequence += 1n;
    this.#rows += batch.rows.length;
    this.#pending.push({ batch, request });
    if (this.#call !== undefined) {
      this.#fill(this.#call);
    } else if (performance.now() >= this.#connectAt) {
      this.#connect();
    }
  }

  /** Waits for the acknowledgement of the oldest batch; connects again while the service is out of reach. */
  async #acknowledge(): Promise<void> {
    for (;;) {
      if (this.#call === undefined) {
        await sleep(Math.max(0, this.#connectAt - performance.now()));
      }
      const call = this.#call ?? this.#connect();
      try {
        const { result } = await call.receive();
        const oldest = this.#taken(call);
        this.sent.add(
          {
            accepted: result?.accepted ?? 0,
            duplicates: result?.duplicates ?? 0,
            revision: result?.revision ?? "",
            rejections: result?.rejections ?? [],
          },
          oldest.batch.firstIndex,
        );
        return;
      } catch (error) {
        if (this.#ended(toMilepostError(error))) {
          return;
        }
      }
    }
  }

  #taken(call: Call): Pending {
    this.#backoff.succeeded();
    this.#isTrying = false;
    const oldest = this.#pending.shift();
    if (oldest === undefined) {
      throw new Error("the service acknowledged a batch that was not sent");
    }
    call.sent -= 1;
    this.#fill(call);
    return oldest;
  }

  /** Whether the call ended by refusing the oldest batch as a whole, which is then acknowledged. */
  #ended(error: MilepostError): boolean {
    this.cancel();
    if (error.reason === STREAM_IDLE) {
      return false;
    }
    this.#isTrying = true;
    const oldest = this.#pending[0];
    if (error.code !== Code.InvalidArgument || oldest === undefined) {
      this.#connectAt = performance.now() + this.#backoff.failed(error);
      return false;
    }
    this.sent.addRefused(error, oldest.batch.rows.length, oldest.batch.firstIndex);
    this.#pending.shift();
    return true;
  }

  #connect(): Call {
    const call = new Call(this.#open);
    this.#call = call;
    this.#fill(call);
    return call;
  }

  #fill(call: Call): void {
    const limit = this.#isTrying ? 1 : this.#pending.length;
    for (const { request } of this.#pending.slice(call.sent, limit)) {
      call.send(request);
    }
  }
}

/** One call: requests as they are given, answers as they come. */
class Call {
  /** Number of pending batches sent over this call. */
  sent = 0;
  readonly #controller = new AbortController();
  readonly #queue: StreamEventsRequest[] = [];
  readonly #answers: AsyncIterator<StreamEventsResponse>;
  #first: Promise<IteratorResult<StreamEventsResponse>> | undefined;
  #wake: () => void = () => undefined;

  constructor(open: OpenStream) {
    this.#answers = open(this.#requests(), { signal: this.#controller.signal })[Symbol.asyncIterator]();
    // A call may fail before anybody receives. Until then its error waits here: one that nothing waits for ends Node.
    this.#first = this.#answers.next();
    this.#first.catch(() => undefined);
  }

  send(request: StreamEventsRequest): void {
    this.sent += 1;
    this.#queue.push(request);
    this.#wake();
  }

  async receive(): Promise<StreamEventsResponse> {
    const next = this.#first ?? this.#answers.next();
    this.#first = undefined;
    const { done, value } = await next;
    if (done === true) {
      throw toMilepostError(new Error("the service ended the stream"));
    }
    return value;
  }

  cancel(): void {
    this.#controller.abort();
    this.#wake();
  }

  async *#requests(): AsyncGenerator<StreamEventsRequest> {
    while (!this.#controller.signal.aborted) {
      const next = this.#queue.shift();
      if (next !== undefined) {
        yield next;
        continue;
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}
