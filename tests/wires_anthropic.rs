//! Anthropic's answers beyond Messages: batches, legacy completions, iterations, and servers that speak alike.

#[path = "support/answers.rs"]
mod answers;

use answers::{Answer, EVENTS, JSON, LINES, read, reads_spoilt, recognised};
use http::Method;
use proptest::prelude::*;
use tokenmeter::operation::Operation;
use tokenmeter::usage::{Anomaly, TokenCounts};
use tokenmeter::wires::{self, UsageSeen};

const RESULTS: Answer<'static> =
    ("anthropic", Operation::Batch, LINES, include_bytes!("fixtures/anthropic/batch_results.jsonl"));

fn message<'a>(operation: Operation, content_type: &'static str, body: &'a [u8]) -> Answer<'a> {
    ("anthropic", operation, content_type, body)
}

#[test]
fn the_lines_of_a_batch_are_summed_and_only_those_that_succeeded() {
    let reading = read(RESULTS).reading();
    let expected = TokenCounts {
        input: Some(42),
        cache_read: Some(100),
        cache_write: Some(40),
        cache_write_1h: Some(30),
        output: Some(12),
        reasoning: Some(3),
        ..TokenCounts::default()
    };
    assert_eq!((reading.tokens, reading.anomaly), (expected, None));
    assert_eq!(reading.model.as_deref(), Some("claude-haiku-4-5-20251001"));
    assert_eq!(reading.service_tier.as_deref(), Some("batch"));
    assert_eq!(reading.units.get("searches"), Some(&1));
    assert!(reading.usage_raw.unwrap().get().contains("\"succeeded\":2"));
    // Only the end of the connection says that all lines came.
    assert_eq!(reading.usage, UsageSeen::Interim);
}

#[test]
fn a_batch_of_several_models_has_no_one_model_and_names_them_all() {
    let body = br#"{"result":{"type":"succeeded","message":{"model":"a","usage":{"input_tokens":1,"output_tokens":2}}}}
{"result":{"type":"succeeded","message":{"model":"b","usage":{"input_tokens":3,"output_tokens":4}}}}"#;
    let reading = read(message(Operation::Batch, LINES, body)).reading();
    assert_eq!((reading.model, reading.tokens.total()), (None, 10));
    assert!(reading.usage_raw.unwrap().get().contains(r#""models":["a","b"]"#));
}

#[test]
fn a_result_too_long_to_hold_still_counts() {
    let text = "x".repeat(2 << 20);
    let line = format!(
        r#"{{"custom_id":"a","result":{{"type":"succeeded","message":{{"model":"m","content":[{{"text":"{text}"}}],"usage":{{"input_tokens":3,"output_tokens":4}}}}}}}}"#
    );
    let reading = answers::observed(message(Operation::Batch, LINES, line.leak().as_bytes()), 64 << 10).reading();
    assert_eq!((reading.tokens.total(), reading.model.as_deref()), (7, Some("m")));
}

#[test]
fn a_batch_asked_for_too_early_is_an_error_without_usage() {
    let body = br#"{"type":"error","error":{"type":"not_found_error","message":"no results yet"}}"#;
    let reading = read(message(Operation::Batch, JSON, body)).reading();
    assert_eq!((reading.usage, reading.is_error), (UsageSeen::Nothing, true));
}

#[test]
fn a_batch_whose_counts_are_none_says_so() {
    let body = br#"{"result":{"type":"succeeded","message":{"usage":{"input_tokens":-1,"output_tokens":4}}}}"#;
    let reading = read(message(Operation::Batch, LINES, body)).reading();
    assert_eq!((reading.tokens.output, reading.anomaly), (Some(4), Some(Anomaly::CountInvalid)));
}

#[test]
fn a_legacy_completion_tells_its_text_and_model_and_no_usage() {
    let whole = include_bytes!("fixtures/anthropic/complete.json");
    let stream = include_bytes!("fixtures/anthropic/complete_stream.sse");
    for (content_type, body) in [(JSON, whole.as_slice()), (EVENTS, stream.as_slice())] {
        let mut observer = read(message(Operation::TextCompletion, content_type, body));
        let reading = observer.reading();
        assert_eq!(observer.delivered().text, " Hi there");
        assert_eq!((reading.model.as_deref(), reading.usage), (Some("claude-2.1"), UsageSeen::Nothing));
        assert!(reading.is_finished && observer.is_terminal());
    }
    let request = br#"{"model":"claude-2.1","prompt":"\n\nHuman: Hi\n\nAssistant:","max_tokens_to_sample":3}"#;
    let prompt = wires::by_name("anthropic").unwrap().prompt(Operation::TextCompletion, request).unwrap();
    assert_eq!((prompt.texts.concat().as_str(), prompt.messages.len()), ("\n\nHuman: Hi\n\nAssistant:", 0));
}

#[test]
fn what_other_models_and_compactions_consumed_stands_beside_the_tokens_of_the_one_that_answered() {
    let body = include_bytes!("fixtures/anthropic/fallback.json");
    let reading = read(message(Operation::Chat, JSON, body)).reading();
    assert_eq!(
        (reading.tokens.input, reading.tokens.cache_read, reading.tokens.output),
        (Some(412), Some(10), Some(264))
    );
    let units: Vec<_> = reading.units.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    let beside = [("side_cache_write_tokens", 5000), ("side_input_tokens", 508), ("side_output_tokens", 131)];
    assert_eq!(units, beside);
}

#[test]
fn iterations_that_are_all_in_the_top_level_are_not_counted_again() {
    let body = br#"{"type":"message","model":"m","usage":{"input_tokens":10,"output_tokens":4,
        "iterations":[{"type":"message","input_tokens":6,"output_tokens":1},{"type":"message","input_tokens":9,"output_tokens":3}]}}"#;
    let reading = read(message(Operation::Chat, JSON, body)).reading();
    assert_eq!((reading.tokens.total(), reading.units.len()), (14, 0));
}

#[test]
fn servers_that_speak_alike_may_tell_less_and_a_split_of_nothing_unsays_nothing() {
    let body = include_bytes!("fixtures/anthropic/compatible_stream.sse");
    let reading = read(message(Operation::Chat, EVENTS, body)).reading();
    let expected = TokenCounts {
        input: Some(30),
        cache_write: Some(60),
        cache_write_1h: Some(30),
        output: Some(9),
        ..TokenCounts::default()
    };
    assert_eq!((reading.tokens, reading.usage), (expected, UsageSeen::Final));
    assert!(reading.usage_raw.unwrap().get().contains("\"cost\":0.0012"));
}

#[test]
fn a_split_of_more_than_the_whole_is_a_contradiction() {
    let body =
        br#"{"type":"message","model":"m","usage":{"input_tokens":1,"output_tokens":1,"cache_creation_input_tokens":10,
        "cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":11}}}"#;
    let reading = read(message(Operation::Chat, JSON, body)).reading();
    assert_eq!((reading.tokens.cache_write_1h, reading.anomaly), (Some(10), Some(Anomaly::TotalDiffers)));
}

#[test]
fn paths_say_what_costs_and_what_does_not() {
    let of = |method, path| recognised("anthropic", &method, path);
    assert_eq!(of(Method::POST, "/v1/messages"), "anthropic chat now");
    assert_eq!(of(Method::POST, "/v1/messages/count_tokens"), "anthropic count_tokens free");
    assert_eq!(of(Method::POST, "/v1/complete"), "anthropic text_completion now");
    assert_eq!(of(Method::GET, "/v1/messages/batches/msgbatch_1/results"), "anthropic batch result msgbatch_1 whole");
    for (method, path) in [
        (Method::POST, "/v1/messages/batches"),
        (Method::GET, "/v1/messages/batches"),
        (Method::GET, "/v1/messages/batches/msgbatch_1"),
        (Method::POST, "/v1/messages/batches/msgbatch_1/cancel"),
        (Method::DELETE, "/v1/messages/batches/msgbatch_1"),
        (Method::POST, "/v1/files"),
        (Method::GET, "/v1/files/file_1/content"),
        (Method::POST, "/v1/skills/skill_1/versions"),
        (Method::GET, "/v1/models"),
    ] {
        assert_eq!(of(method, path), "anthropic other free", "{path}");
    }
}

proptest! {
    #[test]
    fn a_spoilt_answer_is_read_without_a_panic(
        index in 0..4_usize,
        spoilt in prop::collection::vec((any::<usize>(), prop::sample::select(b"\"\\{}[]:,09-. \n".to_vec())), 1..30),
        size in 1..200_usize,
    ) {
        let answers = [
            RESULTS,
            message(Operation::TextCompletion, EVENTS, include_bytes!("fixtures/anthropic/complete_stream.sse")),
            message(Operation::Chat, JSON, include_bytes!("fixtures/anthropic/fallback.json")),
            message(Operation::Chat, EVENTS, include_bytes!("fixtures/anthropic/compatible_stream.sse")),
        ];
        prop_assert!(reads_spoilt(answers[index], &spoilt, size));
    }
}
