/** A real service in a process of its own, on a free port. */

import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../../../../../", import.meta.url));
/** The interpreter with the service; `make test-node` names it. */
export const PYTHON = process.env["MILEPOST_PYTHON"] ?? `${ROOT}.venv/bin/python`;
const READY = "ready address=";
const HTTP = "http address=";

/** A service, and where it listens. */
export class Service implements AsyncDisposable {
  readonly target: string;
  /** Where it is called over HTTP; "" without a port for that. */
  readonly http: string;
  readonly #process: ChildProcess;

  private constructor(process: ChildProcess, target: string, http: string) {
    this.#process = process;
    this.target = target;
    this.http = http;
  }

  /** Starts a service in memory, or with these settings. */
  static async start(settings: readonly string[] = ["--memory"]): Promise<Service> {
    const arguments_ = ["-m", "service", "--port", "0", "--access-log", "none", "--log-level", "error", ...settings];
    const child = spawn(PYTHON, arguments_, { cwd: ROOT, stdio: ["ignore", "pipe", "inherit"] });
    // A test that fails leaves nothing running.
    process.once("exit", () => child.kill("SIGKILL"));
    let http = "";
    for await (const line of createInterface({ input: child.stdout })) {
      if (line.startsWith(HTTP)) {
        http = line.slice(HTTP.length).trim();
      } else if (line.startsWith(READY)) {
        child.stdout.resume();
        return new Service(child, line.slice(READY.length).trim(), http);
      }
    }
    throw new Error("the service did not start");
  }

  get port(): string {
    return this.target.slice(this.target.lastIndexOf(":") + 1);
  }

  /** Ends the service, by default in order; SIGKILL is a crash. */
  async stop(signal: "SIGTERM" | "SIGKILL" = "SIGTERM"): Promise<void> {
    if (this.#process.exitCode === null && this.#process.signalCode === null) {
      const ended = once(this.#process, "exit");
      this.#process.kill(signal);
      await ended;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}
