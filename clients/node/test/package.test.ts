/** The package as others get it: packed, installed by its archive into the example, compiled there and run. */

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { promisify } from "node:util";
import { eventually } from "./support/eventually.js";
import { ROOT, Service } from "./support/service.js";

const run = promisify(execFile);
const PACKAGE = `${ROOT}clients/node`;

test("the archive installs, compiles and answers in a project of its own", async () => {
  const directory = await mkdtemp(`${tmpdir()}/milepost-`);
  const packed = await run("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", directory], { cwd: PACKAGE });
  const [{ filename, files }] = JSON.parse(packed.stdout) as [{ filename: string; files: { path: string }[] }];
  const paths = files.map(({ path }) => path);
  for (const path of ["LICENSE", "README.md", "package.json", "dist/index.js", "dist/index.d.ts"]) {
    assert.ok(paths.includes(path), path);
  }
  assert.deepEqual(paths.filter((path) => /^(src|test|build|node_modules)\//.test(path)), []);

  const example = `${directory}/example`;
  await cp(`${ROOT}examples/node`, example, {
    recursive: true,
    filter: (path) => !/\/(node_modules|dist)$/.test(path),
  });
  await run("npm", ["install", "--no-audit", "--no-fund", "--prefer-offline", `${directory}/${filename}`], { cwd: example });
  await run("npm", ["run", "build"], { cwd: example });
  await usesTheExample(example);
  await usesTheProgramOfThePage(example);
  await rm(directory, { recursive: true });
});

async function usesTheExample(example: string): Promise<void> {
  const service = await Service.start();
  const child = spawn("node", ["dist/server.js"], {
    cwd: example,
    env: { ...process.env, MILEPOST: service.target, PORT: "0" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  process.once("exit", () => child.kill("SIGKILL"));
  const [line] = (await once(createInterface({ input: child.stdout }), "line")) as [string];
  const url = line.slice("listening on ".length);
  const offers = async (user: string) => (await (await fetch(`${url}/offers/${user}`)).json()) as { offers: string[] };

  assert.deepEqual((await offers("ann")).offers, []);
  assert.equal((await fetch(`${url}/purchases/ann?price=20`, { method: "POST" })).status, 202);
  await eventually(async () => (await offers("ann")).offers.includes("spring-sale"));
  assert.equal((await fetch(`${url}/purchases/ann?price=90`, { method: "POST" })).status, 202);
  await eventually(async () => (await offers("ann")).offers.join() === "free-delivery");
  assert.equal((await fetch(`${url}/health`)).status, 200);
  assert.equal((await fetch(`${url}/purchases/ann?price=x`, { method: "POST" })).status, 400);

  const ended = once(child, "exit");
  child.kill("SIGTERM");
  assert.deepEqual(await ended, [0, null]);
  await service.stop();
}

/** The first program of README.md prints what the page says, in a project that has the package. */
async function usesTheProgramOfThePage(directory: string): Promise<void> {
  const page = await readFile(`${PACKAGE}/README.md`, "utf-8");
  const [, program = ""] = /^```ts\n(.*?)^```/ms.exec(page) ?? [];
  const service = await Service.start();
  await writeFile(`${directory}/first.mjs`, program.replace("localhost:7443", service.target));
  const { stdout } = await run("node", ["first.mjs"], { cwd: directory });
  assert.equal(stdout, "true\n");
  assert.match(page, /`node first\.mjs` prints `true`/);
  await service.stop();
}

test("the lock file names no index of packages", async () => {
  const lock = await readFile(`${PACKAGE}/package-lock.json`, "utf-8");
  assert.equal(/https?:\/\/|"resolved"/.test(lock.replace(/"(url|funding)": "[^"]*"/g, "")), false);
});
