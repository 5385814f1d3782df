//! Promise: what the fake will answer and report, known from the request alone.
//!
//! - The prompt's tokens are its words: every run of non-space in the text of system prompt, instructions, messages,
//!   input or contents; a token number of a tokenised input counts one.
//! - The answer is `echo` and the words of the last message (of the whole input, where there are no messages), at most
//!   the request's output limit; its tokens are its words, times the choices asked for.
//! - Where thinking is asked for (`thinking`, `reasoning_effort`, `reasoning`, `thinkingConfig`), four words of
//!   thinking come first and are output too: `reasoning` of `output`.
//! - Embeddings have no output; a rerank consumes no tokens at all.
//! - Under `bytes=N` the answer is `word ` again and again, in pieces of 13107 words, and no text is kept.
//! - Nothing is cached unless the script says so; then `cache_read` and `cache_write` are taken from the prompt.
//!
//! The counts are disjoint, as tokenmeter records them; each API reports them in its own convention.

use bytes::Bytes;
use serde_json::Value;

use super::answer::Pieces;
use super::script::Script;

/// What the fake thinks, where it is asked to.
pub(crate) const THINKING: &str = "let me think first";

/// The text of one piece of an answer whose length is scripted in bytes.
pub(crate) fn bulk_text() -> String {
    "word ".repeat(BULK_WORDS)
}

/// Words of it: just under 64 KiB.
const BULK_WORDS: usize = 13_107;

/// Members of a request that hold its prompt.
const TEXTS: [&str; 8] =
    ["system", "instructions", "systemInstruction", "messages", "input", "texts", "prompt", "contents"];

/// Where a request limits its output.
const LIMITS: [&str; 6] = [
    "/max_tokens",
    "/max_completion_tokens",
    "/max_output_tokens",
    "/generationConfig/maxOutputTokens",
    "/inferenceConfig/maxTokens",
    "/options/num_predict",
];

/// What will be answered and reported.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Promise {
    /// Prompt tokens neither read from nor written to the cache.
    pub(crate) input: u64,
    /// Prompt tokens read from the cache.
    pub(crate) cache_read: u64,
    /// Prompt tokens written to the cache.
    pub(crate) cache_write: u64,
    /// Tokens generated, over all choices, thinking included.
    pub(crate) output: u64,
    /// Of `output`: thinking.
    pub(crate) reasoning: u64,
    /// The text of each choice.
    pub(crate) text: String,
    /// Pieces of [`bulk_text`] that stand instead of the text, where the script asks for so many bytes.
    pub(crate) bulk: usize,
    /// The model that answers.
    pub(crate) model: String,
    /// Whether the output limit cut the text short.
    pub(crate) is_cut_short: bool,
    /// The status, where it is an error by the model's name or the script.
    pub(crate) error: Option<u16>,
}

impl Promise {
    /// Every prompt token.
    pub(crate) fn prompt(&self) -> u64 {
        self.input.saturating_add(self.cache_read).saturating_add(self.cache_write)
    }

    /// Whether it thinks.
    pub(crate) fn thinks(&self) -> bool {
        self.reasoning > 0
    }

    /// The words of the text, each with the space before it that makes them the text again.
    pub(crate) fn pieces_of_text(&self) -> Vec<String> {
        let words = self.text.split(' ').filter(|word| !word.is_empty()).enumerate();
        words.map(|(at, word)| if at == 0 { word.to_owned() } else { format!(" {word}") }).collect()
    }

    /// The text as events of a stream, each made by `event` from its part of the text.
    pub(crate) fn stream_text(&self, event: impl Fn(&str) -> Bytes) -> Pieces {
        if self.bulk > 0 {
            return Box::new(std::iter::repeat_n(event(&bulk_text()), self.bulk));
        }
        let events: Vec<Bytes> = self.pieces_of_text().iter().map(|word| event(word)).collect();
        Box::new(events.into_iter())
    }
}

/// What the fake promises for a request `body` to `path` under the `x-fake` header `script`.
pub(crate) fn promise(path: &str, body: &[u8], script: &str) -> Promise {
    let request = serde_json::from_slice::<Value>(body).unwrap_or_default();
    of(path, &request, &script.parse().unwrap_or_default())
}

pub(crate) fn of(path: &str, request: &Value, script: &Script) -> Promise {
    let model = model(path, request);
    let error = script.status.or_else(|| model.strip_prefix("error-").and_then(|status| status.parse().ok()));
    let texts = if path.ends_with("/rerank") { [].as_slice() } else { &TEXTS };
    let prompt: u64 = texts.iter().filter_map(|member| request.get(member)).map(words).sum();
    let mut text = vec!["echo".to_owned()];
    match script.words {
        Some(count) => text = (0..count).map(|_| "word".to_owned()).collect(),
        None => last_turn(request).into_iter().for_each(|turn| collect_words(turn, &mut text)),
    }
    let limit = LIMITS
        .into_iter()
        .find_map(|member| request.pointer(member)?.as_u64())
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(usize::MAX);
    let is_cut_short = text.len() > limit;
    text.truncate(limit);
    let choices = request.get("n").and_then(Value::as_u64).unwrap_or(1);
    let has_output =
        !["/embeddings", "/embed", "/rerank"].iter().any(|verb| path.ends_with(verb)) && !path.contains("count");
    let thinking = ["/thinking", "/reasoning_effort", "/reasoning/effort", "/generationConfig/thinkingConfig"]
        .into_iter()
        .any(|member| request.pointer(member).is_some_and(asks_for_thinking));
    let thought = if thinking { u64::try_from(THINKING.split(' ').count()).unwrap_or(0) } else { 0 };
    let reasoning = if has_output { script.reasoning.unwrap_or(thought) } else { 0 };
    let bulk = script.bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0).div_ceil(BULK_WORDS * 5);
    let words = if bulk > 0 { bulk.saturating_mul(BULK_WORDS) } else { text.len() };
    let answered = u64::try_from(words).unwrap_or(u64::MAX).saturating_mul(choices);
    let output = if has_output { script.output.unwrap_or(answered.saturating_add(reasoning)) } else { 0 };
    let (cache_read, cache_write) = (script.cached.unwrap_or(0), script.cache_write.unwrap_or(0));
    Promise {
        input: script.input.unwrap_or(prompt).saturating_sub(cache_read).saturating_sub(cache_write),
        cache_read,
        cache_write,
        output,
        reasoning,
        text: if bulk > 0 { String::new() } else { text.join(" ") },
        bulk,
        model: script.model.clone().unwrap_or(model),
        is_cut_short,
        error: error.filter(|status| *status >= 400),
    }
}

/// The body's model, else the path's: `…/models/NAME:verb`, `…/deployments/NAME/…`, `…/model/NAME/verb`.
fn model(path: &str, request: &Value) -> String {
    let after = |mark: &str| path.split_once(mark).and_then(|(_, rest)| rest.split(['/', ':']).next());
    let named = request.get("model").and_then(Value::as_str);
    let in_path = || after("/models/").or_else(|| after("/deployments/")).or_else(|| after("/model/"));
    named.or_else(in_path).map_or_else(|| "fake-1".to_owned(), decoded)
}

/// A model's name in a path has its colon encoded, where it is Bedrock's.
fn decoded(name: &str) -> String {
    percent_encoding::percent_decode_str(name).decode_utf8().map_or_else(|_| name.to_owned(), Into::into)
}

fn asks_for_thinking(member: &Value) -> bool {
    match member {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => false,
        Value::String(effort) => effort != "none",
        Value::Object(settings) => {
            settings.get("type").is_none_or(|kind| kind != "disabled")
                && settings.get("thinkingBudget").is_none_or(|b| b != 0)
        }
    }
}

/// What the answer echoes.
fn last_turn(request: &Value) -> Option<&Value> {
    let turns =
        ["/messages", "/contents", "/input", "/prompt"].into_iter().find_map(|member| request.pointer(member))?;
    match turns {
        Value::Array(turns) => turns.last(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => Some(turns),
    }
}

fn words(value: &Value) -> u64 {
    let mut found = Vec::new();
    collect_words(value, &mut found);
    u64::try_from(found.len()).unwrap_or(u64::MAX)
}

/// Words of a text, or of whatever holds texts under `content`, `parts`, `text`; a bare number is a token.
fn collect_words(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.extend(text.split_whitespace().map(str::to_owned)),
        Value::Number(token) => found.push(token.to_string()),
        Value::Array(items) => items.iter().for_each(|item| collect_words(item, found)),
        Value::Object(members) => {
            for member in ["content", "parts", "text"].into_iter().filter_map(|name| members.get(name)) {
                collect_words(member, found);
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}
