import { requireSeveral } from "./arguments.js";

/** Full names of resources from what callers write: ids in the client's account, or names. */
export class Names {
  readonly #account: string;

  constructor(account: string) {
    this.#account = account.slice(account.lastIndexOf("/") + 1);
  }

  /** `accounts/{a}`. Throws when the client was made without an account. */
  get account(): string {
    if (this.#account === "") {
      throw new TypeError("no account set: pass new Client(target, { account })");
    }
    return `accounts/${this.#account}`;
  }

  /** The id in `accounts/{a}`. */
  get accountId(): string {
    return this.account.slice("accounts/".length);
  }

  /** A workspace, given by name or id. */
  workspace(given: string): string {
    return given.includes("/") ? given : `${this.account}/workspaces/${given}`;
  }

  /** An input, given by name or as "workspace/input". */
  input(given: string): string {
    if (given.startsWith("accounts/")) {
      return given;
    }
    const [workspace, input, ...more] = given.split("/");
    if (workspace === undefined || input === undefined || more.length > 0) {
      throw new TypeError(`expected an input as workspace/input, got ${JSON.stringify(given)}`);
    }
    return `${this.account}/workspaces/${workspace}/inputs/${input}`;
  }

  /** A journey, given by name or id. */
  journey(given: string): string {
    return given.includes("/") ? given : `${this.account}/journeys/${given}`;
  }

  /** A milestone ("journey/milestone"), an audience (an id), or the full name of either. */
  target(given: string): string {
    if (given.startsWith("accounts/")) {
      return given;
    }
    const at = given.indexOf("/");
    return at < 0
      ? `${this.account}/audiences/${given}`
      : `${this.account}/journeys/${given.slice(0, at)}/milestones/${given.slice(at + 1)}`;
  }

  /** Milestones and audiences, each as in `target`. */
  targets(given: Iterable<string>): string[] {
    requireSeveral("targets", given);
    return [...given].map((each) => this.target(each));
  }

  /** A milestone given by its id in the journey, as "journey/milestone", or by name. */
  milestone(given: string, journey: string): string {
    return given.includes("/") ? this.target(given) : `${this.journey(journey)}/milestones/${given}`;
  }

  /** An output, given by name or id. */
  output(given: string): string {
    return given.includes("/") ? given : `${this.account}/outputs/${given}`;
  }

  /** A connection, given by name or id. */
  connection(given: string): string {
    return given.includes("/") ? given : `${this.account}/connections/${given}`;
  }
}

/** The id at the end of a name. */
export function lastId(name: string): string {
  return name.slice(name.lastIndexOf("/") + 1);
}
