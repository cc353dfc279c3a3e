/**
 * The Node client under load, against a real service: `npm run bench -- [--seconds N] [--watch-minutes N] [--users N]`.
 *
 * Prints checks a second of one process by number of calls in flight, local checks a second, and the memory of a
 * process that follows an audience while it changes, minute by minute.
 */

import { parseArgs } from "node:util";
import { setTimeout as sleep } from "node:timers/promises";
import { makeUserUpdate, type Client } from "../src/index.js";
import { Service } from "../test/support/service.js";
import { activate, GOLD, INPUT, shop } from "../test/support/shop.js";

const IN_FLIGHT = [1, 8, 32, 128];
const LOCAL_CHECKS = 5_000_000;
const CHANGES_A_SECOND = 200;
const MIB = 1024 * 1024;

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "5" },
    "watch-minutes": { type: "string", default: "1" },
    users: { type: "string", default: "100000" },
    readers: { type: "string", default: "0" },
  },
});
const seconds = Number(values.seconds);
const users = Number(values.users);

/** Checks a second with so many calls in flight. */
async function checks(client: Client, inFlight: number): Promise<number> {
  const end = performance.now() + seconds * 1_000;
  let done = 0;
  const caller = async (first: number): Promise<void> => {
    for (let n = first; performance.now() < end; n += inFlight) {
      await client.check(`u${n % users}`, GOLD);
      done += 1;
    }
  };
  await Promise.all(Array.from({ length: inFlight }, (_, first) => caller(first)));
  return done / seconds;
}

async function localChecks(client: Client): Promise<[number, number]> {
  const local = await client.local([GOLD]);
  const ids = Array.from({ length: users }, (_, n) => `u${n}`);
  const began = performance.now();
  let members = 0;
  for (let n = 0; n < LOCAL_CHECKS; n += 1) {
    members += local.check(ids[n % users] as string, GOLD) ? 1 : 0;
  }
  const rate = LOCAL_CHECKS / ((performance.now() - began) / 1_000);
  local.close();
  return [rate, members / LOCAL_CHECKS];
}

/** Memory after each minute of following an audience whose members change all the time. */
async function watching(client: Client, minutes: number): Promise<void> {
  const local = await client.local([GOLD]);
  let round = 0;
  for (let minute = 0; minute <= minutes; minute += 1) {
    globalThis.gc?.();
    const { rss, heapUsed } = process.memoryUsage();
    const { users: members = 0, cursor } = local.status().get(client.names.target(GOLD)) ?? {};
    console.log(
      `watching, minute ${minute}: rss ${(rss / MIB).toFixed(1)} MiB, heap ${(heapUsed / MIB).toFixed(1)} MiB,` +
        ` ${members} members, cursor ${cursor}`,
    );
    const end = performance.now() + (minute < minutes ? 60_000 : 0);
    while (performance.now() < end) {
      round += 1;
      const tier = round % 2 === 0 ? "gold" : "tin";
      const updates = Array.from({ length: CHANGES_A_SECOND }, (_, n) => makeUserUpdate(`u${n}`, { tier }));
      await client.upsertUsers(updates, INPUT);
      await sleep(1_000);
    }
  }
  local.close();
}

const service = await Service.start(["--memory", "--readers", values.readers]);
const client = await shop(service.target);
const joined = await shop(service.target, { coalesceChecks: true });
const many = (function* () {
  for (let n = 0; n < users; n += 1) {
    yield makeUserUpdate(`u${n}`, { tier: n % 2 === 0 ? "gold" : "tin" });
  }
})();
await client.upsertUsers(many, INPUT);
await activate(client);
console.log(`${users} users, half of them in the audience; readers: ${values.readers}`);
for (const inFlight of IN_FLIGHT) {
  const { user: before } = process.cpuUsage();
  const rate = await checks(client, inFlight);
  const cpu = (process.cpuUsage().user - before) / (rate * seconds);
  console.log(`checks, ${inFlight} in flight: ${Math.round(rate)} a second, ${Math.round(cpu)} µs of this process each`);
}
for (const inFlight of IN_FLIGHT.slice(1)) {
  const joinedRate = await checks(joined, inFlight);
  console.log(`coalesced checks, ${inFlight} in flight: ${Math.round(joinedRate)} a second`);
}
const [rate, share] = await localChecks(client);
console.log(`local checks: ${Math.round(rate).toLocaleString("en")} a second, ${(share * 100).toFixed(1)} % members`);
await watching(client, Number(values["watch-minutes"]));
client.close();
joined.close();
await service.stop();
