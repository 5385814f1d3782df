// The `openai` package of npm: nothing set but base URL and key. The variables are those of checks.py;
// TOKENMETER_TEST_NODE_MODULES says where the package is.

import { answer, check, finish, load, prompt, promised, refused } from "./checks.mjs";

const OpenAI = load("openai").default;

const baseURL = `${process.env.TOKENMETER_SDK_BASE_URL.replace(/\/$/, "")}/v1`;
const apiKey = process.env.TOKENMETER_SDK_KEY ?? "sk-fake";
const refusedKey = process.env.TOKENMETER_SDK_REFUSED_KEY;
const client = new OpenAI({ baseURL, apiKey });

const messages = [{ role: "user", content: prompt }];
const counts = (usage) => usage && { input: usage.prompt_tokens, output: usage.completion_tokens };

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
  refused("AuthenticationError", { error: error.constructor.name, status: error.status, message: error.error?.message });
}

finish();
