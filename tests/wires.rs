//! Handwritten answers of each wire are read alike, whole, in pieces, and compressed.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

#[path = "support/replay.rs"]
mod replay;
#[path = "support/texts.rs"]
mod texts;

use std::io::Write;

use proptest::prelude::*;
use tokenmeter::operation::Operation;
use tokenmeter::usage::{Anomaly, TokenCounts};
use tokenmeter::wires::{self, Observer, Reading, UsageSeen};

use replay::{facts, replay};

const EVENTS: &str = "text/event-stream; charset=utf-8";
const JSON: &str = "application/json";

/// Name, wire, operation, content type, body.
type Fixture = (&'static str, &'static str, Operation, &'static str, &'static [u8]);

const FIXTURES: [Fixture; 7] = [
    ("chat", "openai", Operation::Chat, EVENTS, include_bytes!("fixtures/openai/chat_stream.sse")),
    ("responses", "openai", Operation::Responses, EVENTS, include_bytes!("fixtures/openai/responses_stream.sse")),
    ("embeddings", "openai", Operation::Embeddings, JSON, include_bytes!("fixtures/openai/embeddings.json")),
    ("messages", "anthropic", Operation::Chat, EVENTS, include_bytes!("fixtures/anthropic/messages_stream.sse")),
    ("message", "anthropic", Operation::Chat, JSON, include_bytes!("fixtures/anthropic/message.json")),
    ("sse", "gemini", Operation::GenerateContent, EVENTS, include_bytes!("fixtures/gemini/generate_stream.sse")),
    ("array", "gemini", Operation::GenerateContent, JSON, include_bytes!("fixtures/gemini/generate_array.json")),
];

fn fixture(name: &str) -> Fixture {
    FIXTURES.into_iter().find(|(known, ..)| *known == name).unwrap()
}

fn observed(fixture: Fixture, encoding: Option<&str>, body: &[u8], cuts: &[usize]) -> Box<dyn Observer> {
    observed_of(fixture, "", encoding, body, cuts)
}

fn observed_of(
    (_, wire, operation, content_type, _): Fixture,
    provider: &str,
    encoding: Option<&str>,
    body: &[u8],
    cuts: &[usize],
) -> Box<dyn Observer> {
    let wire = wires::by_name(wire).unwrap();
    let mut observer = wire.observer(operation, provider);
    let mut framer = wire.framer(Some(content_type.as_bytes()), encoding.map(str::as_bytes));
    replay(&mut framer, &mut *observer, body, cuts);
    assert!(!framer.unreadable());
    observer
}

fn read(name: &str) -> Reading {
    observed(fixture(name), None, fixture(name).4, &[]).reading()
}

/// An answer to a chat, whole, with this usage.
fn read_usage(provider: &str, usage: &str) -> Reading {
    let body = format!(r#"{{"model":"m","choices":[{{"finish_reason":"stop"}}],"usage":{usage}}}"#);
    let chat = ("", "openai", Operation::Chat, JSON, [].as_slice());
    observed_of(chat, provider, None, body.as_bytes(), &[]).reading()
}

fn text_of(name: &str) -> String {
    texts::texts_of(&*observed(fixture(name), None, fixture(name).4, &[]))
}

#[test]
fn a_chat_is_read_to_the_token_and_a_null_behind_its_usage_overwrites_nothing() {
    let reading = read("chat");
    let expected = TokenCounts {
        input: Some(812),
        cache_read: Some(1024),
        output: Some(391),
        reasoning: Some(128),
        audio_input: Some(0),
        ..TokenCounts::default()
    };
    assert_eq!(reading.tokens, expected);
    assert_eq!(reading.model.as_deref(), Some("gpt-5-2025-08-07"));
    assert_eq!(reading.service_tier.as_deref(), Some("default"));
    assert_eq!((reading.usage, reading.anomaly), (UsageSeen::Final, None));
    assert!(reading.is_finished && !reading.is_error);
    assert_eq!(text_of("chat"), "He said \"usage\": {\\ 你好");
}

#[test]
fn responses_are_read_where_their_usage_is_and_not_where_it_looks_alike() {
    let reading = read("responses");
    let expected = TokenCounts {
        input: Some(50),
        cache_read: Some(40),
        cache_write: Some(10),
        output: Some(20),
        reasoning: Some(5),
        ..TokenCounts::default()
    };
    assert_eq!(reading.tokens, expected);
    assert_eq!(reading.service_tier.as_deref(), Some("flex"));
    assert_eq!(text_of("responses"), "Hi|find|{\"q\":1}");
}

#[test]
fn embeddings_are_read_past_their_vectors() {
    let reading = read("embeddings");
    assert_eq!(reading.tokens, TokenCounts { input: Some(9), ..TokenCounts::default() });
    assert_eq!(reading.usage_raw.unwrap().get(), r#"{"prompt_tokens":9,"total_tokens":9}"#);
}

#[test]
fn messages_are_merged_from_start_and_deltas() {
    let reading = read("messages");
    let expected = TokenCounts {
        input: Some(15),
        cache_read: Some(2000),
        cache_write: Some(300),
        cache_write_1h: Some(200),
        output: Some(25),
        ..TokenCounts::default()
    };
    assert_eq!(reading.tokens, expected);
    assert_eq!(reading.units.get("searches"), Some(&2));
    assert_eq!(reading.usage, UsageSeen::Final);
    let raw = reading.usage_raw.unwrap();
    assert!(raw.get().starts_with(r#"{"input_tokens":15,"cache_creation_input_tokens":300,"#), "{raw}");
    assert_eq!(text_of("messages"), "Hello there");
}

#[test]
fn a_message_whose_delta_never_came_has_interim_usage() {
    let (.., body) = fixture("messages");
    let cut = body.len() / 3;
    let mut observer = observed(fixture("messages"), None, body.get(..cut).unwrap(), &[]);
    assert_eq!(observer.reading().usage, UsageSeen::Interim);
    assert!(!observer.is_terminal() && !observer.reading().is_finished);
}

#[test]
fn a_zero_is_told_and_what_stands_beside_the_top_level_is_kept() {
    let reading = read("message");
    assert_eq!(reading.tokens.output, Some(0));
    assert_eq!(reading.units.get("side_input_tokens"), Some(&100));
    assert_eq!(reading.units.get("side_output_tokens"), Some(&31));
    assert_eq!(text_of("message"), "Yes|f|{\"a\":1}");
}

#[test]
fn gemini_thinks_beside_its_output_and_calls_tools_beside_its_prompt() {
    let reading = read("sse");
    let expected = TokenCounts {
        input: Some(13),
        cache_read: Some(4),
        output: Some(38),
        reasoning: Some(30),
        audio_input: Some(3),
        ..TokenCounts::default()
    };
    assert_eq!((reading.tokens, reading.anomaly), (expected, None));
    assert!(reading.is_finished);
    assert_eq!(text_of("sse"), "One two|f|{\"a\":1}");
    let array = read("array");
    assert_eq!((array.tokens.input, array.tokens.output), (Some(10), Some(8)));
    assert_eq!(text_of("array"), "One ]} \"[{two");
}

#[test]
fn the_sums_decide_where_reasoning_is() {
    let within = read_usage(
        "any",
        r#"{"prompt_tokens":10,"completion_tokens":9,"total_tokens":19,"completion_tokens_details":{"reasoning_tokens":5}}"#,
    );
    assert_eq!((within.tokens.output, within.tokens.reasoning), (Some(9), Some(5)));
    let beside = read_usage(
        "any",
        r#"{"prompt_tokens":10,"completion_tokens":9,"total_tokens":24,"completion_tokens_details":{"reasoning_tokens":5}}"#,
    );
    assert_eq!((beside.tokens.output, beside.tokens.reasoning), (Some(14), Some(5)));
    let hidden = read_usage("gemini", r#"{"prompt_tokens":10,"completion_tokens":9,"total_tokens":49}"#);
    assert_eq!((hidden.tokens.output, hidden.tokens.reasoning), (Some(39), Some(30)));
    let odd = read_usage("any", r#"{"prompt_tokens":10,"completion_tokens":9,"total_tokens":21}"#);
    assert_eq!((odd.tokens.output, odd.anomaly), (Some(9), Some(Anomaly::TotalDiffers)));
}

#[test]
fn the_last_value_of_each_count_stands_and_absence_overwrites_nothing() {
    let body = br#"data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":5,"completion_tokens":3}}

data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":6,"completion_tokens":null}}

data: {"choices":[{"delta":{}}],"usage":{}}

"#;
    let reading = observed(fixture("chat"), None, body, &[]).reading();
    assert_eq!((reading.tokens.input, reading.tokens.output), (Some(6), Some(3)));
    assert_eq!(reading.usage, UsageSeen::Interim);
    assert_eq!(reading.usage_raw.unwrap().get(), r#"{"prompt_tokens":6,"completion_tokens":null}"#);
}

#[test]
fn a_count_that_is_none_is_absent_and_said_so() {
    let reading = read_usage("any", r#"{"prompt_tokens":-3,"completion_tokens":7.0}"#);
    assert_eq!((reading.tokens.input, reading.tokens.output), (None, Some(7)));
    assert_eq!(reading.anomaly, Some(Anomaly::CountInvalid));
    let cached = read_usage("any", r#"{"prompt_tokens":10,"completion_tokens":1,"prompt_cache_hit_tokens":25}"#);
    assert_eq!((cached.tokens.input_total(), cached.anomaly), (10, Some(Anomaly::CachedExceedsInput)));
    assert_eq!(read_usage("any", "{}").usage, UsageSeen::Nothing);
}

#[test]
fn a_terminal_event_of_megabytes_still_tells_its_usage() {
    let image = "A".repeat(3 << 20);
    let body = format!(
        "data: {{\"type\":\"response.completed\",\"response\":{{\"model\":\"m\",\"output\":[{{\"result\":\"{image}\"}}],\
         \"usage\":{{\"input_tokens\":3,\"output_tokens\":4,\"total_tokens\":7}}}}}}\n\n"
    );
    let mut observer = observed(fixture("responses"), None, body.as_bytes(), &[1 << 20, 2 << 20]);
    assert!(observer.is_terminal());
    assert_eq!(observer.reading().tokens.total(), 7);
    assert_eq!(observer.reading().model.as_deref(), Some("m"));
}

#[test]
fn a_whole_answer_of_megabytes_tells_its_final_usage() {
    let image = "A".repeat(3 << 20);
    let body = format!(
        "{{\"candidates\":[{{\"content\":{{\"parts\":[{{\"inlineData\":{{\"data\":\"{image}\"}}}}]}},\"finishReason\":\"STOP\"}}],\
         \"usageMetadata\":{{\"promptTokenCount\":3,\"candidatesTokenCount\":1290,\"totalTokenCount\":1293}}}}"
    );
    let generate = ("", "gemini", Operation::GenerateContent, JSON, [].as_slice());
    let reading = observed_of(generate, "", None, body.as_bytes(), &[1 << 20, 2 << 20]).reading();
    assert_eq!((reading.usage, reading.tokens.total()), (UsageSeen::Final, 1293));
}

#[test]
fn an_error_under_200_is_an_error_and_plain_json_under_an_event_stream_is_read() {
    let body = br#"{"error":{"code":400,"message":"no","status":"INVALID_ARGUMENT"}}"#;
    let reading = observed(fixture("sse"), None, body, &[]).reading();
    assert!(reading.is_error);
    assert_eq!(reading.usage, UsageSeen::Nothing);
    let mut chat = observed(fixture("chat"), None, b"data: {\"error\":{\"message\":\"x\"}}\n\ndata: [DONE]\n\n", &[]);
    assert!(chat.reading().is_error && chat.is_terminal());
}

#[test]
fn errors_of_our_own_speak_each_dialect() {
    for wire in wires::REGISTRY {
        let body: serde_json::Value =
            serde_json::from_str(&wire.error_body(401, "key_unknown", "no such key")).unwrap();
        let places = ["/error/message", "/message", "/errors/0/message", "/error"];
        let told = places.into_iter().find_map(|place| body.pointer(place)?.as_str());
        assert_eq!(told, Some("no such key"), "{wire:?}");
        assert!(body.to_string().to_lowercase().contains("key_unknown"), "{wire:?}");
    }
}

#[test]
fn paths_say_what_an_exchange_is_whatever_upstream_they_go_to() {
    let recognised = |method: http::Method, path: &'static str| {
        let exchange = wires::recognise(wires::by_name("openai").unwrap(), &method, path);
        (exchange.wire.name(), exchange.operation, exchange.model_in_path, exchange.stream_in_path)
    };
    let post = |path| recognised(http::Method::POST, path);
    assert_eq!(post("/openai/deployments/x/chat/completions"), ("openai", Operation::Chat, None, None));
    assert_eq!(post("/v1beta/openai/chat/completions"), ("openai", Operation::Chat, None, None));
    assert_eq!(post("/v1/completions"), ("openai", Operation::TextCompletion, None, None));
    assert_eq!(post("/v1/responses/input_tokens"), ("openai", Operation::CountTokens, None, None));
    assert_eq!(post("/anthropic/v1/messages"), ("anthropic", Operation::Chat, None, None));
    assert_eq!(post("/v1/messages/count_tokens"), ("anthropic", Operation::CountTokens, None, None));
    assert_eq!(
        post("/v1/projects/p/locations/l/publishers/anthropic/models/claude-3@1:streamRawPredict"),
        ("anthropic", Operation::Chat, Some("claude-3@1"), Some(true))
    );
    assert_eq!(post("/v1/threads/t/messages"), ("openai", Operation::Other, None, None));
    assert_eq!(
        post("/v1beta/models/gemini-2.5-flash:streamGenerateContent"),
        ("gemini", Operation::GenerateContent, Some("gemini-2.5-flash"), Some(true))
    );
    assert_eq!(recognised(http::Method::GET, "/v1/responses/r1"), ("openai", Operation::Responses, None, None));
    assert_eq!(recognised(http::Method::GET, "/v1/chat/completions"), ("openai", Operation::Other, None, None));
}

#[test]
fn text_that_comes_twice_is_counted_once() {
    let text = |content_type, body: &[u8]| {
        let chat = ("", "openai", Operation::Chat, content_type, [].as_slice());
        texts::texts_of(&*observed_of(chat, "perplexity", None, body, &[]))
    };
    let whole = br#"{"object":"chat.completion","choices":[{"delta":{"content":""},"message":{"content":"ab"}}]}"#;
    assert_eq!(text(JSON, whole), "ab");
    let stream =
        br#"data: {"object":"chat.completion.chunk","choices":[{"delta":{"content":"a"},"message":{"content":"a"}}]}

data: {"object":"chat.completion.chunk","choices":[{"delta":{"content":"b"},"message":{"content":"ab"}}]}

"#;
    assert_eq!(text(EVENTS, stream), "ab");
    let both =
        br#"{"choices":[{"message":{"reasoning":"r","reasoning_content":"r","content":[{"type":"text","text":"t"}],
        "tool_calls":[{"function":{"name":"f","arguments":"{}"}}],"audio":{"data":"AAAA","transcript":"s"}}}]}"#;
    assert_eq!(text(JSON, both), "ts|r|f|{}");
}

#[test]
fn text_beyond_what_is_kept_is_counted_in_bytes() {
    let piece = "é".repeat(500);
    let event = format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{piece}\"}}}}]}}\n\n");
    let observer = observed(fixture("chat"), None, event.repeat(1000).as_bytes(), &[]);
    let countable = observer.delivered();
    assert!(countable.text.len() <= 256 << 10);
    assert_eq!(countable.text.len() as u64 + countable.bytes_beyond, 1_000_000);
}

fn compressed(encoding: &str, body: &[u8]) -> Vec<u8> {
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    match encoding {
        "gzip" => {
            // Two members, the first with a name.
            let (first, second) = body.split_at(body.len() / 2);
            let mut named = flate2::GzBuilder::new()
                .filename("n")
                .comment("c")
                .extra([1, 2])
                .write(Vec::new(), Compression::fast());
            named.write_all(first).unwrap();
            let mut bytes = named.finish().unwrap();
            let mut plain = GzEncoder::new(Vec::new(), Compression::best());
            plain.write_all(second).unwrap();
            bytes.extend(plain.finish().unwrap());
            bytes
        }
        "deflate" => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "Deflate" => {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "br" => {
            let mut bytes = Vec::new();
            let mut encoder = brotli::CompressorWriter::new(&mut bytes, 4096, 5, 22);
            encoder.write_all(body).unwrap();
            drop(encoder);
            bytes
        }
        "zstd" => zstd::encode_all(body, 3).unwrap(),
        _ => body.to_vec(),
    }
}

/// What is read does not depend on the coding: each decoder against the plain text, whole and byte by byte.
#[test]
fn every_encoding_reads_alike() {
    for fixture in FIXTURES {
        let plain = facts(&mut *observed(fixture, None, fixture.4, &[]));
        for encoding in ["gzip", "deflate", "Deflate", "br", "zstd"] {
            let body = compressed(encoding, fixture.4);
            assert_eq!(facts(&mut *observed(fixture, Some(encoding), &body, &[])), plain, "{encoding} {}", fixture.0);
            let bytes: Vec<usize> = (0..body.len()).collect();
            assert_eq!(
                facts(&mut *observed(fixture, Some(encoding), &body, &bytes)),
                plain,
                "{encoding} {}",
                fixture.0
            );
        }
    }
}

proptest! {
    #[test]
    fn reading_ignores_chunking(
        index in 0..FIXTURES.len(),
        encoding in prop::sample::select(vec!["identity", "gzip", "deflate", "br", "zstd"]),
        cuts in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let fixture = FIXTURES[index];
        let body = compressed(encoding, fixture.4);
        let whole = facts(&mut *observed(fixture, None, fixture.4, &[]));
        prop_assert_eq!(facts(&mut *observed(fixture, Some(encoding), &body, &cuts)), whole);
    }
}
