/**
 * Several connections in the place of one, because a service limits the calls on one (`--connection-calls-max`).
 *
 * A call goes over the first connection that has room, and a further one is opened when none has.
 */

import type { ClientHttp2Stream, ClientSessionRequestOptions, OutgoingHttpHeaders } from "node:http2";
import type { Http2SessionManager } from "@connectrpc/connect-node";

/**
 * Calls at a time on one connection: half of what a service takes that is set up for callers it does not trust. A
 * service counts a call until it has cleared up after its answer. Where the next calls come in the meantime, it refuses
 * some of them.
 */
export const CALLS_MAX = 50;
/** Beyond, connections share the calls evenly. */
export const CONNECTIONS_MAX = 100;

/** What calls need of a connection, or of several. */
export type Opening = Pick<Http2SessionManager, "authority" | "request" | "notifyResponseByteRead">;

interface Connection {
  readonly sessions: Http2SessionManager;
  /** Running calls. */
  calls: number;
}

/** The connections of a client. */
export class Sessions implements Opening {
  readonly authority: string;
  readonly #connect: () => Http2SessionManager;
  readonly #connections: Connection[];
  readonly #of = new WeakMap<ClientHttp2Stream, Http2SessionManager>();

  /** `connect` makes what manages one connection. */
  constructor(connect: () => Http2SessionManager) {
    const first = connect();
    this.authority = first.authority;
    this.#connect = connect;
    this.#connections = [{ sessions: first, calls: 0 }];
  }

  /** Opens the stream of a call. */
  async request(
    method: string,
    path: string,
    headers: OutgoingHttpHeaders,
    options: Omit<ClientSessionRequestOptions, "signal">,
  ): Promise<ClientHttp2Stream> {
    const connection = this.#withRoom();
    connection.calls += 1;
    try {
      const stream = await connection.sessions.request(method, path, headers, options);
      this.#of.set(stream, connection.sessions);
      stream.once("close", () => (connection.calls -= 1));
      return stream;
    } catch (error) {
      connection.calls -= 1;
      throw error;
    }
  }

  /** Says that data of a stream have come, so that its connection needs no ping. */
  notifyResponseByteRead(stream: ClientHttp2Stream): void {
    this.#of.get(stream)?.notifyResponseByteRead(stream);
  }

  /** Ends every connection, and the calls with it. */
  abort(): void {
    for (const { sessions } of this.#connections) {
      sessions.abort();
    }
  }

  #withRoom(): Connection {
    const found = this.#connections.find(({ calls }) => calls < CALLS_MAX);
    if (found !== undefined) {
      return found;
    }
    if (this.#connections.length < CONNECTIONS_MAX) {
      const further = { sessions: this.#connect(), calls: 0 };
      this.#connections.push(further);
      return further;
    }
    return this.#connections.reduce((least, each) => (each.calls < least.calls ? each : least));
  }
}
