//! Handwritten answers of the smaller families' own dialects are read by rule, however they are cut.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

#[path = "support/prompts.rs"]
mod prompts;
#[path = "support/replay.rs"]
mod replay;
#[path = "support/texts.rs"]
mod texts;

use http::{HeaderMap, HeaderValue, Method};
use proptest::prelude::*;
use tokenmeter::operation::Operation;
use tokenmeter::usage::TokenCounts;
use tokenmeter::wires::{self, Consumption, Observer, Reading, UsageSeen};

use replay::{facts, replay};

const EVENTS: &str = "text/event-stream";
const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";

/// Name, wire, operation, content type, body.
type Fixture = (&'static str, &'static str, Operation, &'static str, &'static [u8]);

macro_rules! fixtures {
    ($($name:literal $wire:literal $operation:ident $kind:ident;)*) => {
        &[$(($name, $wire, Operation::$operation, $kind, include_bytes!(concat!("fixtures/", $wire, "/", $name))),)*]
    };
}

const FIXTURES: &[Fixture] = fixtures! {
    "chat.json" "cohere" Chat JSON;
    "chat_stream.sse" "cohere" Chat EVENTS;
    "chat_v1_stream.ndjson" "cohere" Chat LINES;
    "generate.json" "cohere" TextCompletion JSON;
    "embed.json" "cohere" Embeddings JSON;
    "embed_images.json" "cohere" Embeddings JSON;
    "rerank.json" "cohere" Rerank JSON;
    "chat_stream.ndjson" "ollama" Chat LINES;
    "generate.json" "ollama" TextCompletion JSON;
    "embed.json" "ollama" Embeddings JSON;
    "error_stream.ndjson" "ollama" Chat LINES;
    "generate_stream.sse" "tgi" TextCompletion EVENTS;
    "generate.json" "tgi" TextCompletion JSON;
    "run.json" "cloudflare" Chat JSON;
    "run_stream.sse" "cloudflare" Chat EVENTS;
    "generation_stream.sse" "dashscope" Chat EVENTS;
    "multimodal.json" "dashscope" Chat JSON;
    "embeddings.json" "dashscope" Embeddings JSON;
    "task.json" "dashscope" ImageGeneration JSON;
    "error_stream.sse" "dashscope" Chat EVENTS;
};

fn observed(fixture: &Fixture, headers: &HeaderMap, body: &[u8], cuts: &[usize]) -> Box<dyn Observer> {
    let (_, wire, operation, content_type, _) = *fixture;
    let wire = wires::by_name(wire).unwrap();
    let mut observer = wire.observer(operation, "");
    observer.head(headers);
    let mut framer = wire.framer(Some(content_type.as_bytes()), None);
    replay(&mut framer, &mut *observer, body, cuts);
    observer
}

fn fixture(wire: &str, name: &str) -> &'static Fixture {
    FIXTURES.iter().find(|fixture| (fixture.1, fixture.0) == (wire, name)).unwrap()
}

fn answer(wire: &str, name: &str) -> Box<dyn Observer> {
    let fixture = fixture(wire, name);
    observed(fixture, &HeaderMap::new(), fixture.4, &[])
}

fn read(wire: &str, name: &str) -> Reading {
    answer(wire, name).reading()
}

fn text(wire: &str, name: &str) -> String {
    texts::texts_of(&*answer(wire, name))
}

fn units(reading: &Reading) -> Vec<(&str, u64)> {
    reading.units.iter().map(|(name, count)| (name.as_str(), *count)).collect()
}

fn tokens(input: u64, output: u64) -> TokenCounts {
    TokenCounts { input: Some(input), output: Some(output), ..TokenCounts::default() }
}

#[test]
fn cohere_processes_more_than_it_bills_and_both_are_told() {
    let chat = read("cohere", "chat.json");
    let expected = TokenCounts { cache_read: Some(448), reasoning: Some(12), ..tokens(58, 40) };
    assert_eq!((chat.tokens, chat.usage, chat.anomaly), (expected, UsageSeen::Final, None));
    let billed = [("billed_input_tokens", 11), ("billed_output_tokens", 0), ("image_tokens", 259)];
    assert_eq!(units(&chat), billed);
    assert_eq!(text("cohere", "chat.json"), "I look it up.So: \"meta\":{}|Hm.|find|{\"q\":1}");
}

#[test]
fn cohere_streams_tell_usage_with_their_last_event_of_either_version() {
    let mut stream = answer("cohere", "chat_stream.sse");
    let expected = TokenCounts { cache_read: Some(16), ..tokens(64, 9) };
    assert_eq!((stream.reading().tokens, stream.reading().usage), (expected, UsageSeen::Final));
    assert!(stream.is_terminal() && stream.reading().is_finished);
    assert_eq!(texts::texts_of(&*stream), " He said \"usage\": {}|Okay|find|{}");
    let mut older = answer("cohere", "chat_v1_stream.ndjson");
    assert_eq!(older.reading().tokens, tokens(206, 3));
    assert_eq!(units(&older.reading()), [("billed_input_tokens", 5), ("billed_output_tokens", 3)]);
    assert!(older.is_terminal());
    assert_eq!(older.delivered().text, "Hola.");
}

#[test]
fn what_cohere_tells_as_billed_alone_is_what_was_used() {
    let generated = read("cohere", "generate.json");
    assert_eq!((generated.tokens, generated.units.len()), (tokens(7, 6), 0));
    assert_eq!(text("cohere", "generate.json"), "One.|Two.");
    let embedded = read("cohere", "embed.json");
    assert_eq!(embedded.tokens, TokenCounts { input: Some(31), ..TokenCounts::default() });
    assert_eq!(embedded.units.len(), 0);
    for (name, unit) in [("embed_images.json", ("images", 1)), ("rerank.json", ("search_units", 2))] {
        let reading = read("cohere", name);
        assert_eq!((reading.usage, units(&reading)), (UsageSeen::Final, vec![unit]));
        assert!(reading.tokens.is_empty() && reading.usage_raw.is_some());
    }
}

#[test]
fn an_error_within_a_cohere_stream_is_one_and_tells_no_usage() {
    let body =
        b"data: {\"type\":\"message-end\",\"delta\":{\"finish_reason\":\"ERROR\",\"usage\":{},\"error\":\"no\"}}\n\n";
    let reading = observed(fixture("cohere", "chat_stream.sse"), &HeaderMap::new(), body, &[]).reading();
    assert!(reading.is_error);
    assert_eq!(reading.usage, UsageSeen::Nothing);
}

#[test]
fn ollama_tells_usage_with_its_last_line() {
    let mut stream = answer("ollama", "chat_stream.ndjson");
    let reading = stream.reading();
    assert_eq!((reading.tokens, reading.usage), (tokens(18, 64), UsageSeen::Final));
    assert_eq!(reading.model.as_deref(), Some("qwen3:4b"));
    assert!(stream.is_terminal());
    assert_eq!(texts::texts_of(&*stream), " \"done\":true |Hm|find|{\"q\":1}");
    let raw = reading.usage_raw.unwrap();
    assert!(raw.get().contains("\"prompt_eval_count\":18") && !raw.get().contains("content"), "{raw}");
    let embedded = read("ollama", "embed.json");
    assert_eq!(embedded.tokens, TokenCounts { input: Some(12), ..TokenCounts::default() });
    assert_eq!(embedded.usage, UsageSeen::Final);
}

#[test]
fn a_count_that_ollama_leaves_out_is_unknown_and_not_zero() {
    let reading = read("ollama", "generate.json");
    assert_eq!((reading.tokens.input, reading.tokens.output), (None, Some(38)));
    assert_eq!(reading.usage, UsageSeen::Interim);
    let body = br#"{"model":"m","message":{"content":"Hi"},"done_reason":"stop","done":true}"#;
    let mut bare = observed(fixture("ollama", "chat_stream.ndjson"), &HeaderMap::new(), body, &[]);
    assert_eq!((bare.reading().usage, bare.reading().tokens), (UsageSeen::Nothing, TokenCounts::default()));
    assert!(bare.is_terminal());
}

#[test]
fn an_error_line_ends_ollamas_stream_without_usage() {
    let mut stream = answer("ollama", "error_stream.ndjson");
    assert!(stream.reading().is_error);
    assert_eq!((stream.reading().usage, stream.delivered().text.as_str()), (UsageSeen::Nothing, "Hel"));
}

#[test]
fn lines_that_no_content_type_announces_are_read() {
    let (name, wire, operation, _, body) = *fixture("ollama", "chat_stream.ndjson");
    let unannounced = (name, wire, operation, JSON, body);
    for cuts in [vec![], (0..body.len()).collect()] {
        let mut observer = observed(&unannounced, &HeaderMap::new(), body, &cuts);
        assert_eq!(observer.reading().tokens, tokens(18, 64));
        assert_eq!(texts::texts_of(&*observer), " \"done\":true |Hm|find|{\"q\":1}");
    }
}

#[test]
fn tgi_tells_usage_in_details_or_in_the_head() {
    let mut stream = answer("tgi", "generate_stream.sse");
    assert_eq!((stream.reading().tokens, stream.reading().usage), (tokens(9, 3), UsageSeen::Final));
    assert!(stream.is_terminal());
    assert_eq!(texts::texts_of(&*stream), "Hello");
    let whole = read("tgi", "generate.json");
    assert_eq!((whole.tokens, whole.usage), (tokens(3, 2), UsageSeen::Final));
    assert!(!whole.usage_raw.unwrap().get().contains("Hel"), "details hold text, which is never kept");

    let mut headers = HeaderMap::new();
    for (name, value) in [("x-prompt-tokens", "12"), ("x-generated-tokens", "4"), ("x-compute-characters", "40")] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let mut bare = observed(fixture("tgi", "generate.json"), &headers, br#"[{"generated_text":"Hello"}]"#, &[]);
    assert_eq!((bare.reading().tokens, bare.reading().usage), (tokens(12, 4), UsageSeen::Final));
    assert_eq!(units(&bare.reading()), [("characters", 40)]);
    let mut unasked =
        observed(fixture("tgi", "generate.json"), &HeaderMap::new(), br#"{"generated_text":"Hello"}"#, &[]);
    assert_eq!((unasked.reading().usage, unasked.delivered().text.as_str()), (UsageSeen::Nothing, "Hello"));
}

#[test]
fn cloudflare_tells_usage_in_its_result_or_before_the_end_of_a_stream() {
    let whole = read("cloudflare", "run.json");
    assert_eq!(whole.tokens, TokenCounts { cache_read: Some(16), reasoning: Some(30), ..tokens(27, 181) });
    assert_eq!((whole.usage, whole.is_error), (UsageSeen::Final, false));
    assert_eq!(text("cloudflare", "run.json"), "Quack, \"usage\":{}|find|{\"q\":1}");
    let mut stream = answer("cloudflare", "run_stream.sse");
    assert_eq!((stream.reading().tokens, stream.reading().usage), (tokens(51, 39), UsageSeen::Final));
    assert!(stream.is_terminal());
    assert_eq!(texts::texts_of(&*stream), "Quack");
    let silent = br#"{"result":{"response":{"is_fruit":true}},"success":true,"errors":[]}"#;
    let mut silent = observed(fixture("cloudflare", "run.json"), &HeaderMap::new(), silent, &[]);
    assert_eq!((silent.reading().usage, silent.delivered().text.as_str()), (UsageSeen::Nothing, "{\"is_fruit\":true}"));
    let failed = br#"{"result":null,"success":false,"errors":[{"code":1,"message":"no"}]}"#;
    assert!(observed(fixture("cloudflare", "run.json"), &HeaderMap::new(), failed, &[]).reading().is_error);
}

#[test]
fn dashscope_counts_and_texts_are_cumulative() {
    let mut stream = answer("dashscope", "generation_stream.sse");
    let reading = stream.reading();
    let expected = TokenCounts { cache_read: Some(20), reasoning: Some(4), ..tokens(6, 7) };
    assert_eq!((reading.tokens, reading.usage), (expected, UsageSeen::Final));
    assert_eq!(units(&reading), [("searches", 1)]);
    assert!(reading.is_finished && !reading.is_error);
    assert_eq!(texts::texts_of(&*stream), "Hello|Hm");
    let body = b"data:{\"output\":{\"text\":\"a\"}}\n\ndata:{\"output\":{\"text\":\"b\"}}\n\n";
    let pieces = observed(fixture("dashscope", "generation_stream.sse"), &HeaderMap::new(), body, &[]);
    assert_eq!(pieces.delivered().text, "ab");
}

#[test]
fn a_dashscope_stream_that_has_not_finished_has_interim_usage() {
    let fixture = fixture("dashscope", "generation_stream.sse");
    let body = fixture.4.get(..fixture.4.len() / 2).unwrap();
    let reading = observed(fixture, &HeaderMap::new(), body, &[]).reading();
    assert_eq!((reading.usage, reading.tokens.output), (UsageSeen::Interim, Some(4)));
    assert!(!reading.is_finished);
}

#[test]
fn dashscope_bills_pictures_vectors_and_errors_each_in_its_way() {
    let seen = read("dashscope", "multimodal.json");
    assert_eq!(seen.tokens, TokenCounts { image_input: Some(1247), ..tokens(1277, 81) });
    assert_eq!(text("dashscope", "multimodal.json"), "A cat");
    let vectors = read("dashscope", "embeddings.json");
    assert_eq!(vectors.tokens, TokenCounts { input: Some(8), ..TokenCounts::default() });
    let task = read("dashscope", "task.json");
    assert_eq!((units(&task), task.usage), (vec![("images", 2)], UsageSeen::Final));
    assert!(task.job.is_some_and(|job| job.id == "task-1" && job.is_over));
    let failed = read("dashscope", "error_stream.sse");
    assert!(failed.is_error && failed.usage == UsageSeen::Nothing);
}

/// What a POST of `path` at an upstream of `upstream` is: wire, operation, whether it consumes.
fn post(upstream: &str, path: &str) -> (&'static str, Operation, bool) {
    let exchange = wires::recognise(wires::by_name(upstream).unwrap(), &Method::POST, path);
    (exchange.wire.name(), exchange.operation, exchange.consumption == Consumption::Now)
}

#[test]
fn several_dialects_behind_one_upstream_are_told_apart_by_their_paths() {
    assert_eq!(post("cohere", "/v2/chat"), ("cohere", Operation::Chat, true));
    assert_eq!(post("cohere", "/v1/chat"), ("cohere", Operation::Chat, true));
    assert_eq!(post("cohere", "/v1/rerank"), ("cohere", Operation::Rerank, true));
    assert_eq!(post("cohere", "/v1/tokenize"), ("cohere", Operation::CountTokens, false));
    assert_eq!(post("cohere", "/compatibility/v1/chat/completions"), ("openai", Operation::Chat, true));
    assert_eq!(post("openai", "/v2/rerank"), ("cohere", Operation::Rerank, true));
    assert_eq!(post("ollama", "/api/generate"), ("ollama", Operation::TextCompletion, true));
    assert_eq!(post("openai", "/api/pull"), ("ollama", Operation::Other, false));
    assert_eq!(post("ollama", "/api/create"), ("ollama", Operation::Other, false));
    assert_eq!(post("ollama", "/v1/chat/completions"), ("openai", Operation::Chat, true));
    assert_eq!(post("ollama", "/v1/messages"), ("anthropic", Operation::Chat, true));
    assert_eq!(post("tgi", "/"), ("tgi", Operation::TextCompletion, true));
    assert_eq!(post("tgi", "/v1/chat/completions"), ("openai", Operation::Chat, true));
    assert_eq!(post("tgi", "/models/o/m"), ("tgi", Operation::TextCompletion, true));
    assert_eq!(post("tgi", "/models/o/m/v1/chat/completions"), ("openai", Operation::Chat, true));
    assert_eq!(post("cloudflare", "/client/v4/accounts/a/ai/v1/chat/completions"), ("openai", Operation::Chat, true));
    let native = "/api/v1/services/aigc/multimodal-generation/generation";
    assert_eq!(post("openai", native), ("dashscope", Operation::Chat, true));
    assert_eq!(post("dashscope", "/compatible-mode/v1/chat/completions"), ("openai", Operation::Chat, true));
}

#[test]
fn a_plain_path_is_nobodys_but_its_own_upstreams() {
    for path in ["/v1/generate", "/generate", "/", "/models/m", "/api/create"] {
        assert_eq!(post("openai", path), ("openai", Operation::Other, true), "{path}");
    }
    // Cohere's, and of those who speak OpenAI's dialect Writer's.
    assert_eq!(post("openai", "/v1/chat"), ("openai", Operation::Chat, true));
    assert_eq!(post("anthropic", "/v1/chat"), ("anthropic", Operation::Other, true));
}

#[test]
fn cloudflares_models_are_in_the_path_and_say_what_they_do() {
    let of = |path| {
        let exchange = wires::recognise(wires::by_name("openai").unwrap(), &Method::POST, path);
        (exchange.operation, exchange.model_in_path)
    };
    assert_eq!(of("/client/v4/accounts/a/ai/run/@cf/meta/llama"), (Operation::Chat, Some("@cf/meta/llama")));
    assert_eq!(of("/ai/run/@cf/baai/bge-reranker-base").0, Operation::Rerank);
    assert_eq!(of("/ai/run/@cf/baai/bge-m3").0, Operation::Embeddings);
    assert_eq!(of("/ai/run/@cf/black-forest-labs/flux-1-schnell").0, Operation::ImageGeneration);
}

#[test]
fn ollama_streams_unless_told_otherwise() {
    let ollama = wires::by_name("ollama").unwrap();
    assert!(ollama.streams_unasked(Operation::Chat) && ollama.streams_unasked(Operation::TextCompletion));
    assert!(!ollama.streams_unasked(Operation::Embeddings));
    assert!(!wires::by_name("openai").unwrap().streams_unasked(Operation::Chat));
}

#[test]
fn prompts_are_found_where_each_dialect_puts_them() {
    let prompt = |wire: &str, body: &str| prompts::said(wire, Operation::Chat, body);
    let older = r#"{"preamble":"Be kind.","chat_history":[{"role":"USER","message":"Hi"}],"message":"And?"}"#;
    assert_eq!(prompt("cohere", older), "system: Be kind. | USER: Hi | user: And?");
    assert_eq!(prompt("cohere", r#"{"documents":[{"title":"T"}],"query":"Q"}"#), r#"Q | [{"title":"T"}]"#);
    assert_eq!(prompt("cohere", r#"{"inputs":[{"content":[{"type":"text","text":"a"}]}]}"#), "a");
    assert_eq!(
        prompt("ollama", r#"{"model":"m","system":"S","prompt":"P","images":["AAAA"]}"#),
        "system: S | P | 1 images"
    );
    assert_eq!(prompt("ollama", r#"{"model":"m","input":["a","b"]}"#), "a | b");
    assert_eq!(prompt("tgi", r#"{"inputs":"a","parameters":{"details":true}}"#), "a");
    assert_eq!(prompt("cloudflare", r#"{"messages":[{"role":"user","content":"Hi"}]}"#), "user: Hi");
    assert_eq!(
        prompt(
            "dashscope",
            r#"{"model":"m","input":{"messages":[{"role":"user","content":[{"image":"x"},{"text":"Hi"}]}]}}"#
        ),
        "user: Hi | 1 images"
    );
}

proptest! {
    #[test]
    fn a_spoilt_answer_is_read_without_a_panic_however_it_is_cut(
        index in 0..FIXTURES.len(),
        spoilt in prop::collection::vec((any::<usize>(), prop::sample::select(b"\"\\{}[]:,09-. \n".to_vec())), 0..30),
        cuts in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let fixture = &FIXTURES[index];
        let mut body = fixture.4.to_vec();
        for (at, byte) in spoilt {
            let at = at % body.len();
            body[at] = byte;
        }
        let whole = facts(&mut *observed(fixture, &HeaderMap::new(), &body, &[]));
        prop_assert_eq!(facts(&mut *observed(fixture, &HeaderMap::new(), &body, &cuts)), whole);
    }
}
