//! Aleph Alpha's native API: `/complete`, `/evaluate`, `/embed` and their kin. A whole answer carries its counts beside the
//! result; a stream tells them once, in its last event. Its `/chat/completions` is `OpenAI`'s dialect.
//!
//! Paths and requests as in docs.aleph-alpha.com/api (`complete`, `evaluate`, `embed`, `batch-semantic-embed`,
//! `instructable-embed`, `tokenize`); answers, events and error codes as the provider's own clients on GitHub and their
//! tests have them, Aleph-Alpha/aleph-alpha-client (Python) and aleph-alpha-client-rs. Stored copies of all, read 2026-11-22.

use http::Method;
use serde_json::{Value, json};

use super::answer::{Answer, excerpt};
use super::delivered::Text;
use super::object::{Count, Object};
use super::prompt::{Draft, Prompt};
use super::told::Told;
use super::{CredentialHeader, Exchange, Observer, Wire, asked};
use crate::operation::Operation;

/// The wire.
#[derive(Debug)]
pub struct AlephAlpha;

/// `model_version` is not among them: it says `2022-04`, which names no model, so the one that was asked for stands.
const MEMBERS: &[&str] = &["type", "completions", "num_tokens_prompt_total", "num_tokens_generated", "error", "code"];

/// What is kept as the provider's usage.
const USAGE: [&str; 2] = ["num_tokens_prompt_total", "num_tokens_generated"];

/// Ends of paths, so plain that they mean this only here.
const ENDINGS: [(&str, Operation); 9] = [
    ("/complete", Operation::TextCompletion),
    ("/complete/json", Operation::TextCompletion),
    // A given completion judged: it is read and nothing is generated.
    ("/evaluate", Operation::TextCompletion),
    ("/embed", Operation::Embeddings),
    ("/semantic_embed", Operation::Embeddings),
    ("/batch_semantic_embed", Operation::Embeddings),
    ("/instructable_embed", Operation::Embeddings),
    ("/tokenize", Operation::CountTokens),
    ("/detokenize", Operation::CountTokens),
];

/// Members of a request that the model reads.
const PROMPTS: [&str; 5] = ["prompt", "prompts", "completion_expected", "instruction", "input"];

/// What every image of a prompt is converted into (docs.aleph-alpha.com/api/complete, read 2026-11-22).
const TOKENS_OF_IMAGE: u64 = 144;

impl Wire for AlephAlpha {
    fn name(&self) -> &'static str {
        "alephalpha"
    }

    fn recognise<'a>(&self, _method: &Method, _path: &'a str) -> Option<Exchange<'a>> {
        None
    }

    fn recognise_own<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
        let path = path.trim_end_matches('/');
        let (_, operation) = *ENDINGS.iter().find(|(ending, _)| path.ends_with(ending))?;
        let is_free = operation == Operation::CountTokens;
        (method == Method::POST)
            .then(|| if is_free { Exchange::free(&Self, operation) } else { Exchange::new(&Self, operation) })
    }

    fn credential(&self) -> CredentialHeader {
        CredentialHeader { name: "authorization", prefix: "Bearer " }
    }

    fn error_body(&self, _status: u16, code: &str, message: &str) -> String {
        json!({"error": message, "code": code.to_ascii_uppercase()}).to_string()
    }

    fn members(&self) -> &'static [&'static str] {
        MEMBERS
    }

    fn observer(&self, operation: Operation, _provider: &str) -> Box<dyn Observer> {
        // What an event is, its type says.
        let answer = Answer::new(read).retold_but_for(&["type"]);
        Box::new(if operation == Operation::TextCompletion { answer.with_text(read_text) } else { answer })
    }

    fn prompt(&self, _operation: Operation, body: &[u8]) -> Option<Prompt> {
        let request = asked::request(body)?;
        let mut draft = Draft::new();
        let mut text = String::new();
        for value in PROMPTS.iter().filter_map(|name| request.get(name)) {
            read_prompt(&mut draft, value, &mut text);
        }
        draft.text_alone(text);
        Some(draft.finish())
    }
}

/// A text, an item of text, image or token ids, or an array of such.
fn read_prompt(draft: &mut Draft, value: &Value, text: &mut String) {
    match value {
        Value::String(_) => draft.push(text, value),
        Value::Array(items) => items.iter().for_each(|item| read_prompt(draft, item, text)),
        Value::Object(item) => match (item.get("type").and_then(Value::as_str), item.get("data")) {
            (Some("image"), _) => draft.tokens(TOKENS_OF_IMAGE),
            (_, Some(Value::Array(ids))) => draft.tokens(u64::try_from(ids.len()).unwrap_or(u64::MAX)),
            (_, data) => draft.push(text, data.unwrap_or(&Value::Null)),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A whole answer has no type. Of a stream's events only the last, behind the ends of all completions, tells counts.
fn read(answer: &mut Answer, unit: &[u8]) {
    if unit == b"[DONE]" {
        answer.is_terminal = true;
        return;
    }
    let Some(object) = Object::parse(unit) else { return };
    if object.get_any(&["error", "code"]).is_some() {
        answer.is_error = true;
        return;
    }
    let kind = object.text("type");
    let is_summary = kind.as_deref() == Some("completion_summary");
    if kind.is_some() && !is_summary {
        return;
    }
    let mut told = Told::default();
    told.input = told.first(Some(&object), &["num_tokens_prompt_total"]);
    told.output = told.first(Some(&object), &["num_tokens_generated"]);
    answer.take(told, &excerpt(&object, &USAGE));
    answer.is_finished = true;
    answer.is_terminal |= is_summary;
    // What is missing of generated text is to be counted; vectors and judgements have no output.
    let is_generated = is_summary || object.get("completions").is_some();
    if told.input.is_some() && (told.output.is_some() || !is_generated) {
        answer.settle();
    }
}

fn read_text(unit: &[u8], text: &mut Text) {
    let Some(object) = Object::parse(unit) else { return };
    text.of_choice(object.count("index"));
    text.push_raw(object.get("completion"));
    for (choice, completion) in (0..).zip(object.objects("completions")) {
        text.of_choice(Count::Of(choice));
        text.push_raw(completion.get("completion"));
    }
}
