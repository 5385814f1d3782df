//! Cohere: chat, embed, rerank and their kin, versions 1 and 2. What was processed is told beside what is billed:
//! the tokens are those processed, the billed ones stand in the units and are paid for.

use http::Method;
use serde_json::json;

use super::answer::Answer;
use super::asked::Places;
use super::delivered::Text;
use super::object::{Count, Object};
use super::prompt::Prompt;
use super::told::Told;
use super::{CredentialHeader, Exchange, Observer, Wire, asked, markers};
use crate::operation::Operation;

/// The wire.
#[derive(Debug)]
pub struct Cohere;

const MEMBERS: &[&str] = &[
    "usage",
    "meta",
    "finish_reason",
    "event_type",
    "type",
    "message",
    "text",
    "tool_calls",
    "generations",
    "delta.usage",
    "delta.finish_reason",
    "response.meta",
    "response.finish_reason",
];

/// Ends of paths that no other API has.
const ENDINGS: [(&str, Operation); 7] = [
    ("/v2/chat", Operation::Chat),
    ("/v2/embed", Operation::Embeddings),
    ("/v1/embed", Operation::Embeddings),
    ("/v2/rerank", Operation::Rerank),
    // Texts judged, by examples in place of a policy.
    ("/v1/classify", Operation::Moderation),
    ("/v1/tokenize", Operation::CountTokens),
    ("/v1/detokenize", Operation::CountTokens),
];

/// Ends of paths that other APIs have too.
const PLAIN_ENDINGS: [(&str, Operation); 6] = [
    ("/v1/chat", Operation::Chat),
    ("/v1/generate", Operation::TextCompletion),
    ("/v1/summarize", Operation::TextCompletion),
    ("/v1/rerank", Operation::Rerank),
    ("/v1/datasets", Operation::Other),
    ("/v1/check-api-key", Operation::Other),
];

fn of_ending(endings: &[(&str, Operation)], method: &Method, path: &str) -> Option<Exchange<'static>> {
    let path = path.trim_end_matches('/');
    let (_, operation) = endings.iter().find(|(ending, _)| path.ends_with(ending))?;
    let is_free = matches!(operation, Operation::CountTokens | Operation::Other);
    (method == Method::POST)
        .then(|| if is_free { Exchange::free(&Cohere, *operation) } else { Exchange::new(&Cohere, *operation) })
}

/// Where a request has what counts as prompt.
const PLACES: Places = Places {
    instructions: &["/preamble"],
    texts: &["/chat_history", "/messages", "/prompt", "/text", "/texts", "/inputs", "/query"],
    said: &["/message"],
    beside: &["/documents", "/tool_results"],
    tools: &["/tools"],
    schemas: &["/response_format"],
};

impl Wire for Cohere {
    fn name(&self) -> &'static str {
        "cohere"
    }

    fn recognise<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
        of_ending(&ENDINGS, method, path)
    }

    fn recognise_own<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
        of_ending(&PLAIN_ENDINGS, method, path)
    }

    fn credential(&self) -> CredentialHeader {
        CredentialHeader { name: "authorization", prefix: "Bearer " }
    }

    fn error_body(&self, _status: u16, code: &str, message: &str) -> String {
        json!({"message": message, "code": code}).to_string()
    }

    fn members(&self) -> &'static [&'static str] {
        MEMBERS
    }

    fn observer(&self, operation: Operation, _provider: &str) -> Box<dyn Observer> {
        let answer = Answer::new(read);
        let has_text = matches!(operation, Operation::Chat | Operation::TextCompletion);
        Box::new(if has_text { answer.with_text(read_text) } else { answer })
    }

    fn prompt(&self, _operation: Operation, body: &[u8]) -> Option<Prompt> {
        asked::prompt(body, &PLACES)
    }
}

/// Usage comes once: in a whole answer, in version 2's `message-end`, in the last line of version 1.
fn read(answer: &mut Answer, unit: &[u8]) {
    if unit == b"[DONE]" {
        answer.is_terminal = true;
        return;
    }
    let is_worth_it = [&markers::FINISH_REASON, &markers::USAGE, &markers::META];
    if !is_worth_it.into_iter().any(|marker| markers::has_value(marker, unit)) {
        return;
    }
    let Some(object) = Object::parse(unit) else { return };
    let kind = object.text("type").or_else(|| object.text("event_type"));
    answer.is_terminal |= matches!(kind.as_deref(), Some("message-end" | "stream-end"));
    let inner = object.object("delta").or_else(|| object.object("response"));
    for holder in inner.iter().chain([&object]) {
        let reason = holder.text("finish_reason");
        answer.is_error |= reason.as_deref() == Some("ERROR");
        answer.is_finished |= reason.is_some();
        if let Some(raw) = holder.get_any(&["usage", "meta"]) {
            take(answer, raw.get());
            answer.settle();
        }
    }
}

fn take(answer: &mut Answer, raw: &str) {
    let Some(usage) = Object::parse(raw.as_bytes()) else { return };
    let (tokens, billed) = (usage.object("tokens"), usage.object("billed_units"));
    let (tokens, billed) = (tokens.as_ref(), billed.as_ref());
    let mut told = Told::default();
    told.input = told.first(tokens, &["input_tokens"]);
    told.output = told.first(tokens, &["output_tokens"]);
    told.reasoning = told.first(tokens, &["reasoning_tokens"]);
    // Cached tokens are within those processed, not within those billed.
    if told.input.is_some() {
        told.cache_read = told.first(Some(&usage), &["cached_tokens"]);
    }
    let billed_tokens = [
        ("billed_input_tokens", told.first(billed, &["input_tokens"]), told.input),
        ("billed_output_tokens", told.first(billed, &["output_tokens"]), told.output),
    ];
    if tokens.is_none() {
        [told.input, told.output] = billed_tokens.map(|(_, billed, _)| billed);
        // Servers that took over rerank alone tell a total.
        told.input = told.input.or_else(|| told.first(Some(&usage), &["prompt_tokens", "total_tokens"]));
    }
    for (name, billed, processed) in billed_tokens {
        // Told both: kept also where it is 0, for it is what is paid.
        if let (Some(billed), Some(_)) = (billed, processed) {
            answer.units.insert(name.to_owned(), billed);
        }
    }
    // Billed beside the tokens: one that is no count is not worth an anomaly.
    let mut beside = Told::default();
    for name in ["search_units", "classifications", "images"] {
        let count = beside.first(billed, &[name]);
        answer.note(name, count);
    }
    // Tokens of pictures are in no other count.
    let pictures = beside.first(tokens, &["image_tokens"]).or_else(|| beside.first(billed, &["image_tokens"]));
    answer.note("image_tokens", pictures);
    if told.is_empty() && !answer.units.is_empty() {
        answer.keep(raw);
    }
    answer.take(told, raw);
}

fn read_text(unit: &[u8], text: &mut Text) {
    let Some(object) = Object::parse(unit) else { return };
    // The last line of version 1 repeats all text.
    if object.text("event_type").is_some_and(|kind| kind == "stream-end") {
        return;
    }
    text.push_raw(object.get("text"));
    for (choice, generation) in (0..).zip(object.objects("generations")) {
        text.of_choice(Count::Of(choice));
        text.push_raw(generation.get("text"));
    }
    read_calls(&object, Count::Absent, text);
    let message = object.object("delta").and_then(|delta| delta.object("message")).or_else(|| object.object("message"));
    let Some(message) = message else { return };
    text.push_raw(message.get("tool_plan"));
    // A stream has one part at a time, a whole answer an array of them.
    for part in message.objects("content").chain(message.object("content")) {
        text.think(part.get("thinking"));
        text.push_raw(part.get("text"));
    }
    read_calls(&message, object.count("index"), text);
}

/// Version 2 has functions with arguments, version 1 names with parameters. An event has one call, of that number.
fn read_calls(holder: &Object<'_>, number: Count, text: &mut Text) {
    let whole = holder.objects("tool_calls").map(|call| (Count::Absent, call));
    for (number, call) in whole.chain(holder.object("tool_calls").map(|call| (number, call))) {
        let function = call.object("function").unwrap_or(call);
        text.call(number, function.get("name"), function.get_any(&["arguments", "parameters"]));
    }
}
