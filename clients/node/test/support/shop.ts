/** A journey with three kinds of users, and an output that watches. */

import { Client, makeUserUpdate, type ClientOptions } from "../../src/index.js";
import { attribute } from "../../src/criteria.js";

export const INPUT = "shop/web";
export const GOLD = "tiers/gold";

/** A client whose account has users ann and bob in tier gold and cat in tin, and a journey over the tiers. */
export async function shop(target: string, options: ClientOptions = {}): Promise<Client> {
  const client = new Client(target, { account: "acme", ...options });
  await client.ensureAccount({ displayName: "Acme" });
  await client.ensureInput("shop", "web");
  await setTier(client, { ann: "gold", bob: "gold", cat: "tin" });
  await client.ensureJourney("tiers", { displayName: "Tiers" });
  await client.ensureMilestone("tiers", "gold", { criteria: attribute("tier").equals("gold") });
  return client;
}

/** Sets the tier of users. */
export async function setTier(client: Client, tiers: Record<string, string>): Promise<void> {
  const updates = Object.entries(tiers).map(([user, tier]) => makeUserUpdate(user, { tier }));
  await client.upsertUsers(updates, INPUT);
}

/** Calculates the audience of tier gold. */
export async function activate(client: Client): Promise<void> {
  await client.ensureOutput("consumers", { case: "watch", value: {} });
  await client.ensureConnection("gold", { target: GOLD, output: "consumers" });
  await client.activateConnection("gold");
}
