// The `openai` package of npm: nothing set but base URL and key. The variables are those of checks.py;
// TOKENMETER_TEST_NODE_MODULES says where the package is.

import { createRequire } from "node:module";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";

const require = createRequire(join(process.env.TOKENMETER_TEST_NODE_MODULES ?? "node_modules", "of-tests.js"));
const OpenAI = require("openai").default;

const baseURL = `${process.env.TOKENMETER_SDK_BASE_URL.replace(/\/$/, "")}/v1`;
const apiKey = process.env.TOKENMETER_SDK_KEY ?? "sk-fake";
const refusedKey = process.env.TOKENMETER_SDK_REFUSED_KEY;
const client = new OpenAI({ baseURL, apiKey });

const prompt = "how many words are in here";
const answer = `echo ${prompt}`;
const promised = { input: prompt.split(" ").length, output: answer.split(" ").length };
const messages = [{ role: "user", content: prompt }];
const counts = (usage) => usage && { input: usage.prompt_tokens, output: usage.completion_tokens };

const failed = [];
function check(name, expected, saw) {
  const ok = Object.entries(expected).every(([word, value]) => isDeepStrictEqual(saw[word], value));
  console.log(JSON.stringify({ check: name, ok, ...saw, ...(ok ? {} : { expected }) }));
  if (!ok) failed.push(name);
}

const chat = await client.chat.completions.create({ model: "gpt-4o-mini", messages });
check("chat", { text: answer, usage: promised }, { text: chat.choices[0].message.content, usage: counts(chat.usage) });

for (const [name, options, usage] of [
  ["chat stream", {}, []],
  ["chat stream with usage", { stream_options: { include_usage: true } }, [promised]],
]) {
  let text = "";
  const saw = [];
  const stream = await client.chat.completions.create({ model: "gpt-4o-mini", messages, stream: true, ...options });
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    if (chunk.usage) saw.push(counts(chunk.usage));
  }
  check(name, { text: answer, usage }, { text, usage: saw });
}

const response = await client.responses.create({ model: "gpt-4o-mini", input: prompt });
const used = { input: response.usage.input_tokens, output: response.usage.output_tokens };
check("responses", { text: answer, usage: promised }, { text: response.output_text, usage: used });

try {
  const refusing = refusedKey ? client.withOptions({ apiKey: refusedKey }) : client;
  await refusing.chat.completions.create({ model: refusedKey ? "gpt-4o-mini" : "error-401", messages });
  check("refused", { status: 401 }, { status: 200 });
} catch (error) {
  const saw = { error: error.constructor.name, status: error.status, message: error.error?.message };
  check("refused", { error: "AuthenticationError", status: 401 }, saw);
  if (!saw.message) failed.push("refused without a message");
}

if (failed.length > 0) {
  console.error(`not as promised: ${failed.join(", ")}`);
  process.exitCode = 1;
}
