//! Bedrock's answers are read to the token, whichever API and vendor they are of. Fixtures of
//! streams are readable, a line a message: here they become what AWS sends.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail and report like the test")]

#[path = "support/prompts.rs"]
mod prompts;
#[path = "support/texts.rs"]
mod texts;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use tokenmeter::operation::Operation;
use tokenmeter::usage::{Anomaly, TokenCounts};
use tokenmeter::wires::{self, Consumption, Observer, Reading, UsageSeen, Wire};

const JSON: &str = "application/json";
const MESSAGES: &str = "application/vnd.amazon.eventstream";

fn bedrock() -> &'static dyn Wire {
    wires::by_name("bedrock").unwrap()
}

fn header(name: &str, value: &str) -> Vec<u8> {
    let mut header = vec![u8::try_from(name.len()).unwrap()];
    header.extend(name.as_bytes());
    header.push(7);
    header.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
    header.extend(value.as_bytes());
    header
}

/// One message of an AWS event stream. An exception is known by its name.
fn message(name: &str, payload: &[u8]) -> Vec<u8> {
    let kind = if name.ends_with("Exception") { "exception" } else { "event" };
    let headers =
        [header(&format!(":{kind}-type"), name), header(":content-type", JSON), header(":message-type", kind)].concat();
    let whole = u32::try_from(16 + headers.len() + payload.len()).unwrap();
    let mut message = whole.to_be_bytes().to_vec();
    message.extend(u32::try_from(headers.len()).unwrap().to_be_bytes());
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message.extend([&headers, payload].concat());
    message.extend(crc32fast::hash(&message).to_be_bytes());
    message
}

/// A stream of lines of a name and a payload; a chunk's payload is the model's JSON.
fn stream(lines: &str) -> Vec<u8> {
    let messages = lines.lines().map(|line| {
        let (name, payload) = line.split_once(' ').unwrap();
        if name == "chunk" {
            let chunk = format!(r#"{{"bytes":"{}","p":"abcdefgh"}}"#, STANDARD.encode(payload));
            message(name, chunk.as_bytes())
        } else {
            message(name, payload.as_bytes())
        }
    });
    messages.collect::<Vec<_>>().concat()
}

fn fixture(name: &str) -> &'static str {
    match name {
        "converse" => include_str!("fixtures/bedrock/converse.json"),
        "converse_stream" => include_str!("fixtures/bedrock/converse_stream.txt"),
        "claude" => include_str!("fixtures/bedrock/claude_stream.txt"),
        "nova" => include_str!("fixtures/bedrock/nova_stream.txt"),
        "titan" => include_str!("fixtures/bedrock/titan_stream.txt"),
        "llama" => include_str!("fixtures/bedrock/llama_stream.txt"),
        "jamba" => include_str!("fixtures/bedrock/jamba_stream.txt"),
        "cohere" => include_str!("fixtures/bedrock/cohere_stream.txt"),
        "mistral_text" => include_str!("fixtures/bedrock/mistral_text_stream.txt"),
        other => unreachable!("no fixture `{other}`"),
    }
}

/// The observer of `chunks`, and whether all of them could be read.
fn observed<'a>(
    content_type: Option<&str>,
    headers: &[(&'static str, &str)],
    chunks: impl Iterator<Item = &'a [u8]>,
) -> (Box<dyn Observer>, bool) {
    let mut observer = bedrock().observer(Operation::Chat, "bedrock");
    let head: HeaderMap = headers
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
        .collect();
    observer.head(&head);
    let mut framer = bedrock().framer(content_type.map(str::as_bytes), None);
    for chunk in chunks {
        framer.feed(chunk, &mut |unit| observer.unit(unit));
    }
    framer.end(&mut |unit| observer.unit(unit));
    (observer, !framer.unreadable())
}

fn streamed(lines: &str) -> Box<dyn Observer> {
    let (observer, is_readable) = observed(Some(MESSAGES), &[], std::iter::once(stream(lines).as_slice()));
    assert!(is_readable);
    observer
}

fn answered(headers: &[(&'static str, &str)], body: &str) -> Reading {
    observed(Some(JSON), headers, std::iter::once(body.as_bytes())).0.reading()
}

fn counts(input: u64, output: u64) -> TokenCounts {
    TokenCounts { input: Some(input), output: Some(output), ..TokenCounts::default() }
}

#[test]
fn converse_counts_cached_tokens_beside_the_input_and_each_once() {
    let (mut observer, _) = observed(Some(JSON), &[], std::iter::once(fixture("converse").as_bytes()));
    let reading = observer.reading();
    let expected =
        TokenCounts { cache_read: Some(100), cache_write: Some(1000), cache_write_1h: Some(600), ..counts(40, 25) };
    assert_eq!((reading.tokens, reading.usage, reading.anomaly), (expected, UsageSeen::Final, None));
    assert_eq!(reading.units.get("searches"), Some(&2));
    assert_eq!(reading.service_tier.as_deref(), Some("priority"));
    assert!(reading.usage_raw.unwrap().get().starts_with(r#"{"inputTokens":40,"#));
    let texts = texts::texts_of(&*observer);
    assert_eq!(texts, "Sunny, \"usage\": {\"inputTokens\": 9}. |Think. |weather|{\"city\":\"Lyon\"}");
}

#[test]
fn a_converse_stream_is_over_with_its_metadata_and_not_before() {
    let lines: Vec<&str> = fixture("converse_stream").lines().collect();
    let mut without_metadata = streamed(&lines[..lines.len() - 1].join("\n"));
    let reading = without_metadata.reading();
    assert_eq!((reading.usage, reading.is_finished), (UsageSeen::Nothing, true));
    assert!(!without_metadata.is_terminal());
    let mut observer = streamed(fixture("converse_stream"));
    let reading = observer.reading();
    assert_eq!(reading.tokens, TokenCounts { cache_read: Some(10), ..counts(12, 7) });
    assert_eq!(reading.service_tier.as_deref(), Some("flex"));
    assert!(observer.is_terminal() && !reading.is_error && reading.anomaly.is_none());
    assert_eq!(texts::texts_of(&*observer), " Bonjour|weather|{\"usage\":1}| hm");
    let mut behind_another = streamed(&format!("initial-response {{}}\n{}", fixture("converse_stream")));
    assert_eq!(behind_another.reading().tokens, reading.tokens);
}

#[test]
fn a_total_that_is_not_the_sum_is_an_anomaly() {
    let reading = answered(&[], r#"{"stopReason":"x","usage":{"inputTokens":4,"outputTokens":5,"totalTokens":10}}"#);
    assert_eq!((reading.tokens, reading.anomaly), (counts(4, 5), Some(Anomaly::TotalDiffers)));
}

#[test]
fn every_vendors_stream_is_read_and_over_with_its_metrics() {
    let cached = |read, write| TokenCounts { cache_read: Some(read), cache_write: Some(write), ..counts(5, 10) };
    let vendors = [
        ("nova", cached(3, 0), "Blue"),
        ("titan", counts(13, 64), "Once upon"),
        ("llama", counts(23, 3), "ABC"),
        ("jamba", counts(17, 8), " Paris"),
        ("mistral_text", counts(19, 20), " I'm"),
    ];
    for (vendor, tokens, text) in vendors {
        let mut observer = streamed(fixture(vendor));
        let reading = observer.reading();
        assert_eq!((reading.tokens, reading.usage), (tokens, UsageSeen::Final), "{vendor}");
        assert_eq!((reading.anomaly, reading.is_error), (None, false), "{vendor}");
        assert_eq!(observer.delivered().text, text, "{vendor}");
        assert!(observer.is_terminal() && reading.is_finished && reading.usage_raw.is_some(), "{vendor}");
    }
}

#[test]
fn where_aws_counts_otherwise_the_models_count_stands_and_both_are_kept() {
    let claude = streamed(fixture("claude")).reading();
    assert_eq!(claude.tokens, TokenCounts { cache_read: Some(0), ..counts(392, 133) });
    assert_eq!(
        (claude.anomaly, claude.model.as_deref()),
        (Some(Anomaly::CountsDiffer), Some("claude-3-5-sonnet-20240620"))
    );
    let cohere = streamed(fixture("cohere")).reading();
    assert_eq!((cohere.tokens, cohere.anomaly), (counts(71, 2), Some(Anomaly::CountsDiffer)));
    for reading in [claude, cohere] {
        let raw = reading.usage_raw.unwrap();
        assert!(raw.get().starts_with(r#"{"usage":{"#), "{raw}");
        assert!(raw.get().contains(r#""amazon-bedrock-invocationMetrics":{"inputTokenCount":"#), "{raw}");
    }
}

#[test]
fn a_cut_stream_tells_what_was_counted_until_then() {
    let lines: Vec<&str> = fixture("llama").lines().collect();
    let mut observer = streamed(&lines[..2].join("\n"));
    let reading = observer.reading();
    assert_eq!((reading.tokens, reading.usage), (counts(23, 2), UsageSeen::Interim));
    assert!(!observer.is_terminal() && !reading.is_finished);
    let lines: Vec<&str> = fixture("claude").lines().collect();
    let reading = streamed(&lines[..3].join("\n")).reading();
    assert_eq!((reading.tokens.input, reading.tokens.output), (Some(392), None));
    assert_eq!(reading.usage, UsageSeen::Interim);
}

const INPUT: &str = "x-amzn-bedrock-input-token-count";
const OUTPUT: &str = "x-amzn-bedrock-output-token-count";
const READ: &str = "x-amzn-bedrock-cache-read-input-token-count";

#[test]
fn whole_bodies_of_every_vendor_are_read() {
    let bodies = [
        (r#"{"inputTextTokenCount":28.0,"results":[{"tokenCount":197.0,"outputText":"x"}]}"#, counts(28, 197)),
        (
            r#"{"generation":"x","prompt_token_count":7,"generation_token_count":512,"stop_reason":"length"}"#,
            counts(7, 512),
        ),
        (
            r#"{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":16,"completion_tokens":19,"total_tokens":35}}"#,
            counts(16, 19),
        ),
        (
            r#"{"id":"m","type":"message","content":[],"stop_reason":"end_turn","usage":{"input_tokens":13,"output_tokens":35}}"#,
            counts(13, 35),
        ),
        (
            r#"{"output":{"message":{"content":[{"text":"x"}]}},"stopReason":"x","usage":{"inputTokens":16,"outputTokens":27}}"#,
            counts(16, 27),
        ),
        (r#"{"text":"x","meta":{"billed_units":{"input_tokens":4,"output_tokens":3}}}"#, counts(4, 3)),
    ];
    for (body, tokens) in bodies {
        let reading = answered(&[], body);
        assert_eq!((reading.tokens, reading.usage, reading.anomaly), (tokens, UsageSeen::Final, None), "{body}");
    }
    let embedding = answered(&[], r#"{"embedding":[0.1,-0.2],"inputTextTokenCount":10}"#);
    assert_eq!((embedding.tokens.input, embedding.tokens.output), (Some(10), None));
}

#[test]
fn headers_complete_a_body_that_tells_less() {
    let alone = answered(&[(INPUT, "3")], r#"{"id":"e","embeddings":{"float":[[0.1]]},"texts":["a"]}"#);
    assert_eq!((alone.tokens.input, alone.tokens.output, alone.usage), (Some(3), None, UsageSeen::Final));
    assert_eq!(alone.usage_raw.unwrap().get(), r#"{"x-amzn-bedrock-input-token-count":3}"#);
    let silent = answered(&[(INPUT, "8"), (OUTPUT, "129")], r#"{"outputs":[{"text":"x","stop_reason":"stop"}]}"#);
    assert_eq!((silent.tokens, silent.anomaly), (counts(8, 129), None));
    let headers = [(INPUT, "30"), (OUTPUT, "51"), (READ, "4")];
    let half = answered(&headers, r#"{"stopReason":"end_turn","usage":{"inputTokens":30}}"#);
    assert_eq!(half.tokens, TokenCounts { cache_read: Some(4), ..counts(30, 51) });
    assert!(half.usage_raw.unwrap().get().starts_with(r#"{"usage":{"inputTokens":30},"headers":{"#));
    let nothing = answered(&[], r#"{"results":[{"index":2,"relevance_score":0.8}]}"#);
    assert_eq!(
        (nothing.usage, nothing.tokens, nothing.usage_raw.is_none()),
        (UsageSeen::Nothing, TokenCounts::default(), true)
    );
}

#[test]
fn headers_that_agree_add_nothing_and_others_are_an_anomaly() {
    let body = r#"{"type":"message","content":[],"usage":{"input_tokens":4,"cache_read_input_tokens":1209,"output_tokens":10}}"#;
    let expected = TokenCounts { cache_read: Some(1209), ..counts(4, 10) };
    for same in [[(INPUT, "4"), (OUTPUT, "10")], [(INPUT, "1213"), (OUTPUT, "10")]] {
        let reading = answered(&same, body);
        assert_eq!((reading.tokens, reading.anomaly), (expected, None), "{same:?}");
        assert!(reading.usage_raw.unwrap().get().starts_with(r#"{"input_tokens":4,"#));
    }
    let other = answered(&[(INPUT, "4"), (OUTPUT, "11")], body);
    assert_eq!((other.tokens, other.anomaly), (expected, Some(Anomaly::CountsDiffer)));
    let odd = answered(&[(INPUT, "4"), (OUTPUT, "-1")], body);
    assert_eq!((odd.tokens, odd.anomaly), (expected, Some(Anomaly::CountInvalid)));
    let tier = answered(&[("x-amzn-bedrock-service-tier", "flex")], body);
    assert_eq!(tier.service_tier.as_deref(), Some("flex"));
    let fast = answered(&[("x-amzn-bedrock-performanceconfig-latency", "optimized")], body);
    assert_eq!(fast.service_tier.as_deref(), Some("optimized"));
}

#[test]
fn an_exception_in_the_middle_is_an_error_and_keeps_what_was_told() {
    for name in ["modelStreamErrorException", "throttlingException", "internalServerException"] {
        let lines: Vec<&str> = fixture("claude").lines().collect();
        let exception = format!("{name} {{\"message\":\"no\",\"originalStatusCode\":424}}");
        let mut observer = streamed(&[&lines[..3], &[exception.as_str()]].concat().join("\n"));
        let reading = observer.reading();
        assert!(reading.is_error && !observer.is_terminal(), "{name}");
        assert_eq!(reading.tokens.input, Some(392), "{name}");
        assert_eq!(observer.delivered().text, "Two calls.", "{name}");
        let mut alone = streamed(&exception);
        assert!(alone.reading().is_error && alone.delivered().text.is_empty(), "{name}");
    }
}

#[test]
fn a_stream_is_known_by_its_bytes_and_a_broken_one_is_said_to_be() {
    let whole = stream(fixture("claude"));
    let (mut observer, is_readable) = observed(None, &[], std::iter::once(whole.as_slice()));
    assert_eq!((observer.reading().tokens.output, is_readable), (Some(133), true));
    let mut broken = whole.clone();
    let last = broken.len() - 1;
    broken[last] ^= 1;
    let (mut observer, is_readable) = observed(Some(MESSAGES), &[], std::iter::once(broken.as_slice()));
    assert_eq!((observer.reading().tokens.output, is_readable), (Some(133), false));
    let (mut observer, is_readable) = observed(Some(MESSAGES), &[], std::iter::once(br#"{"message":"no"}"#.as_slice()));
    assert_eq!((observer.reading().usage, is_readable), (UsageSeen::Nothing, true));
}

#[test]
fn usage_is_found_behind_a_trace_of_any_length() {
    let trace = "x".repeat(3 << 20);
    let usage = r#""usage":{"inputTokens":1,"outputTokens":2,"totalTokens":3}"#;
    let reading = streamed(&format!(r#"metadata {{"trace":{{"guardrail":"{trace}"}},{usage}}}"#)).reading();
    assert_eq!(reading.tokens, counts(1, 2));
}

#[test]
fn paths_say_operation_model_and_whether_it_streams() {
    let recognised = |upstream: &str, path: &'static str| {
        let exchange = wires::recognise(wires::by_name(upstream).unwrap(), &Method::POST, path);
        (exchange.wire.name(), exchange.operation, exchange.model(), exchange.stream_in_path, exchange.consumption)
    };
    let arn = "arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Ainference-profile%2Fus.anthropic.claude-v2%3A0";
    let invoke =
        |model: &str, operation, stream| ("bedrock", operation, Some(model.to_owned()), Some(stream), Consumption::Now);
    let expected = [
        ("/model/amazon.nova-lite-v1%3A0/converse", invoke("amazon.nova-lite-v1:0", Operation::Chat, false)),
        ("/model/amazon.nova-lite-v1:0/converse-stream", invoke("amazon.nova-lite-v1:0", Operation::Chat, true)),
        ("/model/cohere.embed-v4%3A0/invoke", invoke("cohere.embed-v4:0", Operation::Embeddings, false)),
        ("/model/cohere.rerank-v3-5%3A0/invoke", invoke("cohere.rerank-v3-5:0", Operation::Rerank, false)),
        ("/model/amazon.nova-canvas-v1:0/invoke", invoke("amazon.nova-canvas-v1:0", Operation::ImageGeneration, false)),
        ("/model/meta.llama/invoke-with-response-stream", invoke("meta.llama", Operation::Chat, true)),
        (
            "/model/arn:aws:sagemaker:us-east-1:123456789012:endpoint/my-endpoint/invoke",
            invoke("my-endpoint", Operation::Chat, false),
        ),
    ];
    for (path, expected) in expected {
        assert_eq!(recognised("bedrock", path), expected, "{path}");
        assert_eq!(recognised("openai", path), expected, "{path}");
    }
    let named = format!("/model/{arn}/converse");
    let exchange = wires::recognise(bedrock(), &Method::POST, &named);
    assert_eq!(exchange.model().unwrap(), "us.anthropic.claude-v2:0");
    let count = recognised("bedrock", "/model/anthropic.claude-v2/count-tokens");
    assert_eq!((count.1, count.4), (Operation::CountTokens, Consumption::None));
    let guardrail = recognised("bedrock", "/guardrail/g1/version/1/apply");
    assert_eq!((guardrail.1, guardrail.4), (Operation::Other, Consumption::None));
    assert_eq!(recognised("bedrock", "/async-invoke").4, Consumption::Now);
    for path in ["/openai/v1/chat/completions", "/v1/chat/completions"] {
        assert_eq!(recognised("bedrock", path).0, "openai", "{path}");
    }
    assert_eq!(recognised("bedrock", "/anthropic/v1/messages").0, "anthropic");
}

#[test]
fn prompts_of_every_shape_are_read_for_counting() {
    let text = |body: &str| prompts::said("bedrock", Operation::Chat, body);
    let converse = r#"{"system":[{"text":"S"}],"messages":[{"role":"user","content":[{"text":"T"},{"image":{"source":{"bytes":"AAAA"}}},
        {"toolResult":{"toolUseId":"t","content":[{"text":"R"},{"json":{"a":1}}]}},{"toolUse":{"name":"N","input":{"b":2}}}]}]}"#;
    assert_eq!(text(converse), "system: S | user: TR{\"a\":1} N({\"b\":2}) | 1 images");
    let claude =
        r#"{"anthropic_version":"bedrock-2023-05-31","system":"S","messages":[{"role":"user","content":"T"}]}"#;
    assert_eq!(text(claude), "system: S | user: T");
    assert_eq!(text(r#"{"messages":[{"role":"user","content":"T"}],"max_tokens":1}"#), "user: T");
    assert_eq!(text(r#"{"prompt":"T","max_gen_len":1}"#), "T");
    assert_eq!(text(r#"{"inputText":"T"}"#), "T");
    assert_eq!(text(r#"{"message":"T","chat_history":[{"role":"USER","message":"H"}]}"#), "USER: H | user: T");
    assert_eq!(text(r#"{"texts":["A","B"],"input_type":"x"}"#), "A | B");
    let bedrock_prompt = r#"{"promptVariables":{"a":{"text":"b"}}}"#;
    assert_eq!(text(bedrock_prompt), "1 unseen");
}

proptest! {
    #[test]
    fn readings_ignore_chunking(size in 1_usize..300, which in 0_usize..8) {
        let names = ["converse_stream", "claude", "nova", "titan", "llama", "jamba", "cohere", "mistral_text"];
        let bytes = stream(fixture(names[which]));
        let (mut cut, _) = observed(Some(MESSAGES), &[], bytes.chunks(size));
        let mut whole = streamed(fixture(names[which]));
        prop_assert_eq!(format!("{:?}", cut.reading()), format!("{:?}", whole.reading()));
        prop_assert_eq!(cut.delivered(), whole.delivered());
    }
}
