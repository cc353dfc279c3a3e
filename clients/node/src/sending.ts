/** Sends rows in concurrent batches, each repeated under its request id until it is acknowledged. */

import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { batches, Sent, type Batch } from "./batches.js";
import { toMilepostError } from "./errors.js";
import type { Rejection } from "./gen/milepost/v1/ingest_service_pb.js";
import { withRetry } from "./retrying.js";

/** What the service answers to a batch. */
export interface BatchAnswer {
  accepted: number;
  duplicates?: number;
  revision: string;
  rejections: Rejection[];
}

/** How rows are sent. */
export interface SendOptions {
  /** Makes a repetition of the whole call harmless: the same rows under the same id are applied once. */
  requestId?: string;
  /** Batches on their way at a time. */
  concurrency?: number;
  batchRows?: number;
}

/**
 * Sends every row. The last batch is sent alone after all others, so that its revision covers them. The first permanent
 * error is thrown once the calls in flight have ended; remaining batches are not sent.
 */
export async function sendRows<Desc extends DescMessage>(
  schema: Desc,
  rows: Iterable<MessageShape<Desc>> | AsyncIterable<MessageShape<Desc>>,
  sendBatch: (batch: Batch<MessageShape<Desc>>) => Promise<BatchAnswer>,
  { requestId, concurrency, batchRows }: Required<SendOptions>,
): Promise<Sent> {
  const sent = new Sent();
  const running = new Set<Promise<void>>();
  let failure: unknown;
  let held: Batch<MessageShape<Desc>> | undefined;

  const send = async (batch: Batch<MessageShape<Desc>>): Promise<void> => {
    try {
      sent.add(await withRetry(() => sendBatch(batch), { timeouts: true }), batch.firstIndex);
    } catch (thrown) {
      const error = toMilepostError(thrown);
      if (error.code !== Code.InvalidArgument) {
        throw error;
      }
      sent.addRefused(error, batch.rows.length, batch.firstIndex);
    }
  };
  const start = (batch: Batch<MessageShape<Desc>>): void => {
    const call: Promise<void> = send(batch)
      .catch((error: unknown) => {
        failure ??= error;
      })
      .finally(() => running.delete(call));
    running.add(call);
  };

  for await (const batch of batches(schema, rows, requestId, batchRows)) {
    if (held !== undefined) {
      start(held);
    }
    held = batch;
    while (running.size >= concurrency) {
      await Promise.race(running);
    }
    if (failure !== undefined) {
      break;
    }
  }
  await Promise.all(running);
  if (failure === undefined && held !== undefined) {
    start(held);
    await Promise.all(running);
  }
  if (failure !== undefined) {
    throw failure;
  }
  return sent;
}
