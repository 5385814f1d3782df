// The Vercel AI SDK: nothing set but base URL and key. The variables are those of checks.py;
// TOKENMETER_TEST_NODE_MODULES says where the packages are.

import { answer, check, finish, load, prompt, promised, refused } from "./checks.mjs";

const { generateText, streamText } = load("ai");
const { createOpenAI } = load("@ai-sdk/openai");
const { createAnthropic } = load("@ai-sdk/anthropic");

const base = process.env.TOKENMETER_SDK_BASE_URL.replace(/\/$/, "");
const key = process.env.TOKENMETER_SDK_KEY ?? "sk-fake";
const refusedKey = process.env.TOKENMETER_SDK_REFUSED_KEY;
const counts = (usage) => ({ input: usage.inputTokens, output: usage.outputTokens });

const openai = (apiKey) => createOpenAI({ baseURL: `${base}/openai/v1`, apiKey });
const anthropic = (apiKey) => createAnthropic({ baseURL: `${base}/anthropic/v1`, apiKey });
const responses = (apiKey) => openai(apiKey);
const chat = (apiKey) => openai(apiKey).chat;

for (const [name, connect, model] of [
  ["responses", responses, "gpt-4o-mini"],
  ["chat", chat, "gpt-4o-mini"],
  ["anthropic", anthropic, "claude-opus-4-6"],
]) {
  const whole = await generateText({ model: connect(key)(model), prompt });
  check(`${name} generateText`, { text: answer, usage: promised }, { text: whole.text, usage: counts(whole.usage) });

  const stream = streamText({ model: connect(key)(model), prompt });
  let text = "";
  for await (const part of stream.textStream) text += part;
  check(`${name} streamText`, { text: answer, usage: promised }, { text, usage: counts(await stream.usage) });

  try {
    const refusing = refusedKey ? connect(refusedKey)(model) : connect(key)("error-401");
    await generateText({ model: refusing, prompt, maxRetries: 0 });
    check("refused", { status: 401 }, { status: 200 });
  } catch (error) {
    refused("APICallError", { error: error.name.replace("AI_", ""), status: error.statusCode, message: error.message });
  }
}

finish();
