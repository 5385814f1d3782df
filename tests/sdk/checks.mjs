// What the scripts for Node share: packages, what the fake provider promises, one JSON line a check. See checks.py.

import { createRequire } from "node:module";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";

export const load = createRequire(join(process.env.TOKENMETER_TEST_NODE_MODULES ?? "node_modules", "of-tests.js"));
export const prompt = "how many words are in here";
export const answer = `echo ${prompt}`;
export const promised = { input: prompt.split(" ").length, output: answer.split(" ").length };

const failed = [];

export function check(name, expected, saw) {
  const ok = Object.entries(expected).every(([word, value]) => isDeepStrictEqual(saw[word], value));
  console.log(JSON.stringify({ check: name, ok, ...saw, ...(ok ? {} : { expected }) }));
  if (!ok) failed.push(name);
}

// A refusal that an application sees: its kind, its status, and a message for the person who reads it.
export function refused(kind, saw) {
  check("refused", { error: kind, status: 401 }, saw);
  if (!saw.message) failed.push("refused without a message");
}

export function finish() {
  if (failed.length > 0) {
    console.error(`not as promised: ${failed.join(", ")}`);
    process.exitCode = 1;
  }
}
