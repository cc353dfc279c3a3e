/**
 * An HTTP service that decides offers.
 *
 *     GET  /offers/{user}           {"user": "ann", "offers": ["spring-sale"]}
 *     POST /purchases/{user}?price=9.50
 *     GET  /health                  200 while the answers are fresh enough
 *
 * It follows its audiences into its own memory, so an offer needs no call. Purchases go to Milepost over one stream, and
 * move users from one audience to another. MILEPOST names the service (default localhost:7443), PORT the port.
 */

import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Client, makeEvent, MilepostError } from "milepost";
import { event } from "milepost/criteria";

/** What is offered to whom. */
const OFFERS: Readonly<Record<string, string>> = { "spend/big": "free-delivery", "spend/some": "spring-sale" };
const INPUT = "shop/checkout";
/** Older answers are not given: an offer that has ended must not go on for long. */
const MAX_STALENESS = "30s";

const client = new Client(process.env["MILEPOST"] ?? "localhost:7443", { account: "offers" });

/** Creates what is missing in Milepost; what is there already stays. */
async function prepare(): Promise<void> {
  await client.ensureAccount();
  await client.ensureInput("shop", "checkout");
  const spent = event("purchase", { last: "30d" }).sum("price");
  await client.ensureJourney("spend", { displayName: "Spend in 30 days" });
  await client.ensureMilestone("spend", "big", { criteria: spent.greaterOrEqual(100) });
  await client.ensureMilestone("spend", "some", { criteria: spent.greaterThan(0) });
  await client.ensureOutput("followers", { case: "watch", value: {} });
  for (const target of Object.keys(OFFERS)) {
    const id = target.replace("/", "-");
    await client.ensureConnection(id, { target, output: "followers" });
    await client.activateConnection(id);
  }
}

await prepare();
const local = await client.local(Object.keys(OFFERS), { maxStaleness: MAX_STALENESS });
const purchases = client.eventStream(INPUT);

async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const url = new URL(request.url ?? "/", "http://localhost");
  const [, what, user] = url.pathname.split("/").map(decodeURIComponent);
  if (request.method === "GET" && what === "offers" && user) {
    const offers = Object.entries(OFFERS).filter(([target]) => local.check(user, target));
    send(response, 200, { user, offers: offers.map(([, offer]) => offer) });
  } else if (request.method === "POST" && what === "purchases" && user) {
    const price = Number(url.searchParams.get("price"));
    await purchases.send([makeEvent(user, "purchase", new Date(), { price })]);
    const { rejected } = await purchases.flush();
    send(response, rejected === 0 ? 202 : 400, { rejected });
  } else if (request.method === "GET" && what === "health") {
    send(response, local.stalenessMs < 30_000 ? 200 : 503, { stalenessMs: Math.round(local.stalenessMs) });
  } else {
    send(response, 404, {});
  }
}

function send(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
}

const server = createServer((request, response) => {
  answer(request, response).catch((error: unknown) => {
    // Without an answer from Milepost there is no offer, and the shop goes on.
    const reason = error instanceof MilepostError ? error.reason || error.message : String(error);
    send(response, 503, { reason });
  });
});

server.listen(Number(process.env["PORT"] ?? 8080), "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${(server.address() as AddressInfo).port}`);
});

process.once("SIGTERM", () => {
  server.close();
  local.close();
  void purchases.close().finally(() => client.close());
});
