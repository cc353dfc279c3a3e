/** Cuts data into batches below the limits of one request, and adds up what became of them. */

import { toBinary, type DescMessage, type MessageShape } from "@bufbuild/protobuf";
import type { Rejection } from "./gen/milepost/v1/ingest_service_pb.js";
import type { MilepostError } from "./errors.js";

export const BATCH_ROWS_MAX = 10_000;
const BATCH_BYTES_MAX = 4 * 1024 * 1024;
/** Bytes reserved in a batch for parent, input and request id. */
const REQUEST_OVERHEAD_BYTES = 4_096;
/** Maximum bytes of a row's tag and length in a request. */
const ROW_OVERHEAD_BYTES = 6;
const KEPT_REJECTIONS_MAX = 1_000;
const BATCH_REFUSED = "BATCH_REFUSED";

/** A rejected row: its index among all rows sent, from 0, and the reason. */
export interface Rejected {
  readonly index: number;
  readonly reason: string;
  readonly field: string;
  readonly description: string;
}

/**
 * Result of the rows sent so far. `revision` is the last acknowledged one: a read with `atLeast` set to it sees all rows.
 * At most 1,000 rejections are kept; `rejected` counts all.
 */
export class Sent {
  accepted = 0;
  duplicates = 0;
  rejected = 0;
  revision = "";
  readonly rejections: Rejected[] = [];

  /** Rows acknowledged: accepted, duplicate or rejected. */
  get rows(): number {
    return this.accepted + this.duplicates + this.rejected;
  }

  /** Adds what the service answered to a batch whose first row has that index. */
  add(
    answer: { accepted: number; duplicates?: number; revision: string; rejections: readonly Rejection[] },
    firstIndex: number,
  ): void {
    this.accepted += answer.accepted;
    this.duplicates += answer.duplicates ?? 0;
    this.revision = answer.revision || this.revision;
    this.#reject(
      answer.rejections.length,
      answer.rejections.map(({ index, reason, field, description }) => ({
        index: firstIndex + index,
        reason,
        field,
        description,
      })),
    );
  }

  /** Adds a batch that was refused as a whole. Throws the error when it says something else. */
  addRefused(error: MilepostError, rows: number, firstIndex: number): void {
    if (error.reason !== BATCH_REFUSED) {
      throw error;
    }
    this.#reject(
      rows,
      error.violations.map(({ field, description, reason }) => ({
        index: firstIndex + Number(/\[(\d+)\]/.exec(field)?.[1] ?? 0),
        reason: reason || error.reason,
        // The requests of a stream have their batch in a field.
        field: field.replace(/^batch\./, ""),
        description,
      })),
    );
  }

  #reject(rows: number, found: readonly Rejected[]): void {
    this.rejected += rows;
    this.rejections.push(...found.slice(0, KEPT_REJECTIONS_MAX - this.rejections.length));
  }
}

/** Rows, the index of the first one among all, and the request id that they are sent under. */
export interface Batch<Row> {
  readonly rows: Row[];
  readonly firstIndex: number;
  readonly requestId: string;
}

/** Rows in batches below the limits of one request, with request ids made of `requestId` and a number. */
export async function* batches<Desc extends DescMessage>(
  schema: Desc,
  rows: Iterable<MessageShape<Desc>> | AsyncIterable<MessageShape<Desc>>,
  requestId: string,
  rowsMax: number,
): AsyncGenerator<Batch<MessageShape<Desc>>> {
  let [batch, bytes, firstIndex, number]: [MessageShape<Desc>[], number, number, number] = [
    [],
    REQUEST_OVERHEAD_BYTES,
    0,
    0,
  ];
  for await (const row of rows) {
    const rowBytes = toBinary(schema, row).length + ROW_OVERHEAD_BYTES;
    if (batch.length > 0 && (batch.length === rowsMax || bytes + rowBytes > BATCH_BYTES_MAX)) {
      yield { rows: batch, firstIndex, requestId: `${requestId}-${number}` };
      [firstIndex, number] = [firstIndex + batch.length, number + 1];
      [batch, bytes] = [[], REQUEST_OVERHEAD_BYTES];
    }
    batch.push(row);
    bytes += rowBytes;
  }
  if (batch.length > 0) {
    yield { rows: batch, firstIndex, requestId: `${requestId}-${number}` };
  }
}
