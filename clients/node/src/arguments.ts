/** Checks of arguments: a slip is a TypeError that names the argument, what came, and what is expected. */

/** Throws a TypeError for one value in the place of several: a string would be taken as its characters. */
export function requireSeveral(argument: string, values: unknown): void {
  if (typeof values === "string" || !isIterable(values)) {
    const form = typeof values === "string" ? `: write [${JSON.stringify(values)}]` : "";
    throw new TypeError(`${argument}: expected several in an array, not ${shown(values)}${form}`);
  }
}

/** Throws a TypeError for anything but a valid Date. */
export function requireDate(argument: string, value: unknown): void {
  if (!(value instanceof Date) || Number.isNaN(value.getTime())) {
    throw new TypeError(`${argument}: expected a valid Date, not ${shown(value)}`);
  }
}

function isIterable(values: unknown): boolean {
  return typeof values === "object" && values !== null && (Symbol.iterator in values || Symbol.asyncIterator in values);
}

/** A value for a message: its type, and what it is where that is short. */
function shown(value: unknown): string {
  if (typeof value === "string") {
    return `string ${JSON.stringify(value)}`;
  }
  return typeof value === "object" && value !== null ? value.constructor.name : `${typeof value} ${String(value)}`;
}
