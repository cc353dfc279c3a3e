import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { test } from "node:test";
import { Code, MilepostError, TooStaleError } from "../src/index.js";
import { eventually } from "./support/eventually.js";
import { Service } from "./support/service.js";
import { activate, GOLD, INPUT, setTier, shop } from "./support/shop.js";
import { makeEvent } from "../src/data.js";

test("checks without a call follow every change", async () => {
  const service = await Service.start();
  const client = await shop(service.target);
  await assert.rejects(client.local([GOLD]), (error: unknown) => error instanceof MilepostError);
  await activate(client);
  const name = client.names.target(GOLD);
  const local = await client.local([GOLD], { progressInterval: 100 });
  assert.deepEqual(["ann", "bob", "cat", "none"].map((user) => local.check(user, GOLD)), [true, true, false, false]);
  assert.equal(local.check("ann", name), true);
  assert.throws(() => local.check("ann", "tiers/other"), TypeError);

  await setTier(client, { bob: "tin", dan: "gold" });
  await eventually(() => local.check("dan", GOLD) && !local.check("bob", GOLD));
  assert.deepEqual(
    local.checkMany(["ann", "bob"], [GOLD]),
    new Map([["ann", new Set([name])], ["bob", new Set()]]),
  );
  const answer = local.answer("ann", GOLD);
  assert.deepEqual([answer.member, answer.cursor > 0n], [true, true]);
  assert.deepEqual(local.status().get(name)?.users, 2);

  // An audience that is not calculated any more is not followed any more.
  await client.deactivateConnection("gold");
  await eventually(() => local.status().get(name)?.error !== undefined);
  assert.throws(() => local.check("ann", GOLD), MilepostError);
  assert.equal(await local.checkOrCall("ann", GOLD), true);
  local.close();
  client.close();
  await service.stop();
});

test("answers outlive the service and grow stale, then go on", async () => {
  const directory = await mkdtemp(`${tmpdir()}/milepost-`);
  const settings = ["--data-dir", directory];
  let service = await Service.start(settings);
  const client = await shop(service.target);
  await activate(client);
  const local = await client.local([GOLD], { progressInterval: 100 });
  const strict = await client.local([GOLD], { progressInterval: 100, maxStaleness: 500 });
  const { port } = service;
  await service.stop("SIGKILL");
  assert.equal(local.check("ann", GOLD), true);
  await eventually(() => {
    try {
      strict.check("ann", GOLD);
      return false;
    } catch (error) {
      return error instanceof TooStaleError && error.code === Code.Unavailable;
    }
  });
  service = await Service.start([...settings, "--port", port]);
  await setTier(client, { eve: "gold", ann: "tin" });
  await eventually(() => local.check("eve", GOLD) && !local.check("ann", GOLD));
  await eventually(() => {
    try {
      return strict.check("eve", GOLD);
    } catch {
      return false;
    }
  });
  local.close();
  strict.close();
  client.close();
  await service.stop();
  await rm(directory, { recursive: true });
});

test("several audiences are watched in one stream, which resumes at one position", async () => {
  const service = await Service.start();
  const client = await shop(service.target);
  await activate(client);
  const seen: string[] = [];
  let reached = "";
  // The second is none: it ends, and the first goes on.
  const watch = client.watchTogether([GOLD, "tiers/none"], { progressInterval: 100 });
  for await (const { target, audience, update } of watch) {
    seen.push(`${target} ${update.$typeName.split(".").at(-1) ?? ""}`);
    reached = audience;
    if (watch.position !== "") {
      break;
    }
  }
  assert.ok(seen.includes("tiers/none WatchEnd"), seen.join());
  assert.ok(seen.includes(`${GOLD} MembershipSnapshot`), seen.join());
  assert.match(reached, /^accounts\/.+\/audiences\/.+$/);
  await setTier(client, { dan: "gold" });
  const later = client.watchTogether([GOLD], { position: watch.position, progressInterval: 100 });
  for await (const { update } of later) {
    assert.notEqual(update.$typeName, "milepost.v1.SnapshotBegin");
    if (update.$typeName === "milepost.v1.MembershipChange") {
      assert.deepEqual([update.userId, update.entered], ["dan", true]);
      break;
    }
  }
  client.close();
  await service.stop();
});

test("a watch resumes from its cursor, and a connection's from what was acknowledged", async () => {
  const service = await Service.start();
  const client = await shop(service.target);
  await activate(client);
  const watch = client.watch(GOLD, { progressInterval: 100 });
  const members: string[] = [];
  for await (const update of watch) {
    if (update.$typeName === "milepost.v1.MembershipSnapshot") {
      members.push(...update.userIds);
    } else if (update.$typeName === "milepost.v1.ProgressMark") {
      break;
    }
  }
  assert.deepEqual(members.sort(), ["ann", "bob"]);
  await setTier(client, { dan: "gold" });
  const later = client.watch(GOLD, { cursor: watch.cursor, epoch: watch.epoch, progressInterval: 100 });
  for await (const update of later) {
    assert.notEqual(update.$typeName, "milepost.v1.MembershipSnapshot");
    if (update.$typeName === "milepost.v1.MembershipChange") {
      assert.deepEqual([update.userId, update.entered], ["dan", true]);
      break;
    }
  }
  // Closing ends it also while an update is awaited.
  const awaited = (async () => {
    for await (const _ of later) {
      // Nothing of interest.
    }
  })();
  later.close();
  await awaited;

  const connection = await client.watchConnection("gold", { progressInterval: 100 });
  for await (const update of connection) {
    if (update.$typeName === "milepost.v1.ProgressMark") {
      await connection.acknowledge();
      break;
    }
  }
  await setTier(client, { eve: "gold" });
  const resumed = await client.watchConnection("gold", { progressInterval: 100 });
  for await (const update of resumed) {
    assert.notEqual(update.$typeName, "milepost.v1.MembershipSnapshot");
    if (update.$typeName === "milepost.v1.MembershipChange") {
      assert.deepEqual([update.userId, update.entered], ["eve", true]);
      break;
    }
  }
  await assert.rejects(watch.acknowledge(), TypeError);
  client.close();
  await service.stop();
});

test("a stream of events holds back, names rejected rows, and outlives a crash of the service", async () => {
  const directory = await mkdtemp(`${tmpdir()}/milepost-`);
  const settings = ["--data-dir", directory];
  let service = await Service.start(settings);
  const client = await shop(service.target);
  const stream = client.eventStream(INPUT, { unacknowledgedMax: 2 });
  const now = new Date();
  for (const minute of [1, 2, 3, 4, 5]) {
    await stream.send([makeEvent("ann", "view", now, { minute }), makeEvent("", "view", now)]);
    assert.ok(stream.unacknowledged <= 2);
  }
  assert.equal((await stream.flush()).accepted, 5);
  assert.deepEqual([stream.sent.rejected, stream.sent.rejections[4]?.index], [5, 9]);
  // A batch of which every event is rejected has fields of the same form, and others follow.
  await stream.send([makeEvent("", "view", now)]);
  await stream.flush();
  assert.deepEqual(
    stream.sent.rejections.slice(4).map(({ index, field }) => [index, field]),
    [
      [9, "events[1].user_id"],
      [10, "events[0].user_id"],
    ],
  );

  const { port } = service;
  await stream.send([makeEvent("ann", "view", now)]);
  await service.stop("SIGKILL");
  const rest = (async () => {
    for (let n = 0; n < 20; n += 1) {
      await stream.send([makeEvent(`s${n}`, "view", now)]);
    }
    return await stream.close();
  })();
  service = await Service.start([...settings, "--port", port]);
  assert.equal((await rest).accepted, 26);
  const { eventNames } = await client.catalog.listEventNames({ parent: client.names.account });
  assert.deepEqual(
    eventNames.map(({ name, events }) => [name, events]),
    [["view", 26n]],
  );
  assert.throws(() => client.eventStream(INPUT, { unacknowledgedMax: 0 }), RangeError);
  client.close();
  await service.stop();
  await rm(directory, { recursive: true });
});
