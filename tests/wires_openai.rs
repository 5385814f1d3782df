//! Handwritten answers of `OpenAI`, of those who speak its dialect, and of Azure: what each tells, whole and in pieces.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

#[path = "support/prompts.rs"]
mod prompts;
#[path = "support/replay.rs"]
mod replay;

use http::Method;
use tokenmeter::operation::Operation;
use tokenmeter::usage::TokenCounts;
use tokenmeter::wires::{self, Consumption, Job, Observer, Reading, UsageSeen};

use replay::{facts, replay};

const EVENTS: &str = "text/event-stream";
const JSON: &str = "application/json";
const LINES: &str = "application/jsonl";

/// File, operation, content type, body.
type Fixture = (&'static str, Operation, &'static str, &'static [u8]);

macro_rules! fixtures {
    ($($file:literal: $operation:ident $content_type:ident,)*) => {
        &[$(($file, Operation::$operation, $content_type, include_bytes!(concat!("fixtures/", $file)))),*]
    };
}

const FIXTURES: &[Fixture] = fixtures! {
    "azure/chat_stream.sse": Chat EVENTS,
    "azure/grok.json": Chat JSON,
    "openai/batch_output.jsonl": Batch LINES,
    "openai/conversation_stream.sse": InvokeAgent EVENTS,
    "openai/groq_stream.sse": Chat EVENTS,
    "openai/image.json": ImageGeneration JSON,
    "openai/image_stream.sse": ImageGeneration EVENTS,
    "openai/images_without_usage.json": ImageGeneration JSON,
    "openai/llama_completion_many.json": TextCompletion JSON,
    "openai/llama_completion_stream.sse": TextCompletion EVENTS,
    "openai/ocr.json": Ocr JSON,
    "openai/perplexity_stream.sse": Chat EVENTS,
    "openai/rerank.json": Rerank JSON,
    "openai/responses_queued.json": Responses JSON,
    "openai/responses_retrieved.json": Responses JSON,
    "openai/run_queued.json": InvokeAgent JSON,
    "openai/run_stream.sse": InvokeAgent EVENTS,
    "openai/transcription_stream.sse": Transcription EVENTS,
    "openai/transcription_verbose.json": Transcription JSON,
    "openai/vllm_continuous_stream.sse": Chat EVENTS,
    "openai/voxtral.json": Transcription JSON,
};

fn fixture(file: &str) -> Fixture {
    *FIXTURES.iter().find(|(known, ..)| *known == file).unwrap()
}

fn observed((_, operation, content_type, _): Fixture, body: &[u8], cuts: &[usize]) -> Box<dyn Observer> {
    let wire = wires::by_name("openai").unwrap();
    let mut observer = wire.observer(operation, "any");
    let mut framer = wire.framer(Some(content_type.as_bytes()), None);
    replay(&mut framer, &mut *observer, body, cuts);
    observer
}

fn observer_of(file: &str) -> Box<dyn Observer> {
    observed(fixture(file), fixture(file).3, &[])
}

fn read(file: &str) -> Reading {
    observer_of(file).reading()
}

/// What is read of the first `events` events.
fn read_cut(file: &str, events: usize) -> Reading {
    let body = std::str::from_utf8(fixture(file).3).unwrap();
    let cut: String = body.split_inclusive("\n\n").take(events).collect();
    observed(fixture(file), cut.as_bytes(), &[]).reading()
}

fn counts(reading: &Reading) -> (Option<u64>, Option<u64>, Option<u64>) {
    (reading.tokens.input, reading.tokens.cache_read, reading.tokens.output)
}

fn unit(reading: &Reading, name: &str) -> Option<u64> {
    reading.units.get(name).copied()
}

#[test]
fn a_background_response_begins_a_job_and_its_retrieval_ends_it() {
    let queued = read("openai/responses_queued.json");
    assert_eq!((queued.usage, queued.tokens), (UsageSeen::Nothing, TokenCounts::default()));
    assert_eq!(queued.job, Some(Job { id: "resp_1".into(), is_over: false }));
    let retrieved = read("openai/responses_retrieved.json");
    assert_eq!((retrieved.usage, counts(&retrieved)), (UsageSeen::Final, (Some(20), Some(10), Some(12))));
    assert_eq!(retrieved.job, Some(Job { id: "resp_1".into(), is_over: true }));
    assert_eq!(retrieved.service_tier.as_deref(), Some("default"));
}

#[test]
fn a_whole_response_that_names_a_type_is_one() {
    let body = br#"{"type":"response","object":"response","id":"resp_1","status":"completed","model":"m",
        "usage":{"input_tokens":5,"output_tokens":7,"total_tokens":12}}"#;
    let reading = observed(("", Operation::Responses, JSON, &[]), body, &[]).reading();
    assert_eq!((reading.usage, counts(&reading)), (UsageSeen::Final, (Some(5), None, Some(7))));
    assert_eq!(reading.job, Some(Job { id: "resp_1".into(), is_over: true }));
}

#[test]
fn an_empty_usage_hides_none_that_stands_elsewhere() {
    let body = br#"data: {"model":"m","choices":[{"index":0,"finish_reason":"stop"}],"usage":{},
data: "x_groq":{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}}

"#;
    let reading = observed(("", Operation::Chat, EVENTS, &[]), body, &[]).reading();
    assert_eq!((reading.usage, counts(&reading)), (UsageSeen::Final, (Some(3), None, Some(4))));
}

#[test]
fn a_run_counts_its_own_usage_and_not_that_of_its_steps() {
    let queued = read("openai/run_queued.json");
    assert_eq!((queued.usage, queued.job), (UsageSeen::Nothing, Some(Job { id: "run_1".into(), is_over: false })));
    let run = read("openai/run_stream.sse");
    assert_eq!((counts(&run), run.tokens.reasoning), ((Some(8), Some(30), Some(35)), Some(5)));
    assert_eq!((run.usage, run.job), (UsageSeen::Final, Some(Job { id: "run_1".into(), is_over: true })));
    assert_eq!(run.model.as_deref(), Some("gpt-4o"));
    let cut = read_cut("openai/run_stream.sse", 4);
    assert_eq!((cut.usage, cut.job), (UsageSeen::Nothing, Some(Job { id: "run_1".into(), is_over: false })));
}

#[test]
fn a_conversation_pays_for_what_its_connectors_fetched() {
    let reading = read("openai/conversation_stream.sse");
    assert_eq!((counts(&reading), reading.anomaly), ((Some(7300), None, Some(55)), None));
    assert_eq!((unit(&reading, "searches"), reading.model.as_deref()), (Some(2), Some("mistral-medium-2505")));
    assert_eq!(reading.usage, UsageSeen::Final);
}

#[test]
fn a_batch_is_the_sum_of_its_lines() {
    let reading = read("openai/batch_output.jsonl");
    assert_eq!((counts(&reading), reading.tokens.reasoning), ((Some(33), Some(3), Some(79)), Some(4)));
    assert_eq!((reading.usage, reading.model.as_deref()), (UsageSeen::Final, Some("gpt-5-2025-08-07")));
    let raw: serde_json::Value = serde_json::from_str(reading.usage_raw.unwrap().get()).unwrap();
    assert_eq!((&raw["requests"], &raw["input_tokens"], &raw["output_tokens"]), (&3.into(), &36.into(), &79.into()));
}

#[test]
fn lines_that_are_no_answers_are_no_usage_and_models_that_differ_are_none() {
    let batch = fixture("openai/batch_output.jsonl");
    let mut training =
        observed(batch, b"{\"prompt\":\"\\\"usage\\\"\",\"completion\":\"x\",\"usage\":{\"prompt_tokens\":1}}\n", &[]);
    assert_eq!(training.reading().usage, UsageSeen::Nothing);
    let line = |model: &str| {
        format!(
            "{{\"response\":{{\"body\":{{\"model\":\"{model}\",\"usage\":{{\"prompt_tokens\":1,\"completion_tokens\":2}}}}}}}}\n"
        )
    };
    let mixed = observed(batch, (line("a") + &line("b") + &line("a")).as_bytes(), &[]).reading();
    assert_eq!((mixed.model, mixed.tokens.output), (None, Some(6)));
}

#[test]
fn a_batch_line_of_megabytes_tells_its_usage() {
    let vectors = "0.125,".repeat(1 << 19);
    let line = format!(
        "{{\"id\":\"batch_req_1\",\"response\":{{\"status_code\":200,\"body\":{{\"object\":\"list\",\"model\":\"m\",\
         \"data\":[{vectors}1],\"usage\":{{\"prompt_tokens\":7,\"total_tokens\":7}}}}}},\"error\":null}}\n"
    );
    let reading = observed(fixture("openai/batch_output.jsonl"), line.as_bytes(), &[1 << 20, 2 << 20]).reading();
    assert_eq!((counts(&reading), reading.model.as_deref()), ((Some(7), None, None), Some("m")));
}

#[test]
fn images_are_counted_in_tokens_where_they_are_told_and_by_the_piece_where_not() {
    let image = read("openai/image.json");
    let expected = TokenCounts {
        input: Some(60),
        output: Some(1040),
        image_input: Some(50),
        image_output: Some(1000),
        ..TokenCounts::default()
    };
    assert_eq!((image.tokens, image.usage, unit(&image, "images")), (expected, UsageSeen::Final, None));
    assert_eq!(counts(&read("openai/image_stream.sse")), (Some(50), None, Some(50)));
    let pieces = read("openai/images_without_usage.json");
    assert_eq!((pieces.usage, unit(&pieces, "images")), (UsageSeen::Nothing, Some(2)));
}

#[test]
fn an_image_of_megabytes_tells_its_usage() {
    let image = "A".repeat(5 << 20);
    let usage = r#""usage":{"input_tokens":3,"output_tokens":4,"total_tokens":7}"#;
    let whole = format!(r#"{{"created":1,"data":[{{"b64_json":"{image}"}}],{usage}}}"#);
    let cuts: Vec<usize> = (0..whole.len()).step_by(1 << 14).collect();
    let reading = observed(fixture("openai/image.json"), whole.as_bytes(), &cuts).reading();
    assert_eq!((reading.usage, reading.tokens.total()), (UsageSeen::Final, 7));
    let event = format!("data: {{\"type\":\"image_generation.completed\",\"b64_json\":\"{image}\",{usage}}}\n\n");
    let reading = observed(fixture("openai/image_stream.sse"), event.as_bytes(), &cuts).reading();
    assert_eq!((reading.usage, reading.tokens.total()), (UsageSeen::Final, 7));
}

#[test]
fn a_price_alone_is_evidence_and_no_usage() {
    let body = br#"{"data":[{"url":"x"}],"usage":{"cost_in_usd_ticks": 2}}"#;
    let reading = observed(fixture("openai/image.json"), body, &[]).reading();
    assert_eq!((reading.usage, unit(&reading, "images")), (UsageSeen::Nothing, Some(1)));
    assert_eq!(reading.usage_raw.unwrap().get(), r#"{"cost_in_usd_ticks":2}"#);
}

#[test]
fn sound_is_counted_in_tokens_or_in_seconds() {
    let tokens = read("openai/transcription_stream.sse");
    assert_eq!((counts(&tokens), tokens.tokens.audio_input), ((Some(37), None, Some(12)), Some(35)));
    assert!(observer_of("openai/transcription_stream.sse").is_terminal());
    let seconds = read("openai/transcription_verbose.json");
    assert_eq!((seconds.usage, seconds.tokens), (UsageSeen::Final, TokenCounts::default()));
    assert_eq!(unit(&seconds, "audio_seconds"), Some(6));
    let old = br#"{"text":"The sun.","duration":5.49}"#;
    let old = observed(fixture("openai/transcription_verbose.json"), old, &[]).reading();
    assert_eq!((old.usage, unit(&old, "audio_seconds")), (UsageSeen::Nothing, Some(6)));
    let voxtral = read("openai/voxtral.json");
    assert_eq!((counts(&voxtral), voxtral.tokens.audio_input), ((Some(380), Some(0), Some(11)), Some(375)));
    assert_eq!((unit(&voxtral, "audio_seconds"), voxtral.service_tier.as_deref()), (Some(3), Some("standard")));
}

#[test]
fn rankings_and_pages_are_read_for_what_they_are_billed_by() {
    assert_eq!(counts(&read("openai/rerank.json")), (Some(57), None, None));
    let searched = br#"{"model":"m","results":[],"usage":{"search_units":2,"cost":0.004}}"#;
    let searched = observed(fixture("openai/rerank.json"), searched, &[]).reading();
    assert_eq!((searched.usage, unit(&searched, "searches")), (UsageSeen::Final, Some(2)));
    let pages = read("openai/ocr.json");
    assert_eq!((pages.usage, unit(&pages, "pages"), pages.tokens.total()), (UsageSeen::Final, Some(3), 0));
}

#[test]
fn llama_cpp_counts_in_its_own_words() {
    let stream = read("openai/llama_completion_stream.sse");
    assert_eq!((counts(&stream), stream.usage), ((Some(5), Some(4), Some(3)), UsageSeen::Final));
    assert_eq!(stream.model.as_deref(), Some("gpt-oss-20b"));
    assert_eq!(observer_of("openai/llama_completion_stream.sse").delivered().text, "One two");
    assert_eq!(read_cut("openai/llama_completion_stream.sse", 2).usage, UsageSeen::Interim);
    let many = read("openai/llama_completion_many.json");
    assert_eq!(counts(&many), (Some(15), None, Some(7)));
    let choices = br#"data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"timings":{"cache_n":2,"prompt_n":8,"predicted_n":3}}

data: {"choices":[{"index":1,"delta":{},"finish_reason":"stop"}],"timings":{"cache_n":2,"prompt_n":8,"predicted_n":4}}

"#;
    let choices = observed(fixture("openai/groq_stream.sse"), choices, &[]).reading();
    assert_eq!((counts(&choices), choices.usage), ((Some(8), Some(2), Some(7)), UsageSeen::Final));
}

#[test]
fn what_each_choice_tells_of_itself_is_not_the_sum() {
    let whole = read("openai/vllm_continuous_stream.sse");
    assert_eq!((counts(&whole), whole.usage), ((Some(20), None, Some(3)), UsageSeen::Final));
    let cut = read_cut("openai/vllm_continuous_stream.sse", 3);
    assert_eq!((cut.usage, cut.is_finished), (UsageSeen::Interim, false));
    // A choice that began is not forgotten among others that tell the same members.
    let event = |(index, reason, count)| {
        format!(
            "data: {{\"choices\":[{{\"index\":{index},\"delta\":{{}},\"finish_reason\":{reason}}}],\"usage\":{{\"completion_tokens\":{count}}}}}\n\n"
        )
    };
    let stop = "\"stop\"";
    let events = [(0, "null", 1), (1, "null", 2), (2, "null", 3), (0, stop, 4), (2, stop, 5)].map(event).concat();
    let unfinished = observed(fixture("openai/vllm_continuous_stream.sse"), events.as_bytes(), &[]).reading();
    assert_eq!((unfinished.usage, unfinished.is_finished), (UsageSeen::Interim, false));
    assert_eq!(unfinished.tokens.output, Some(5));
}

#[test]
fn groq_tells_the_same_twice_and_perplexity_the_sum_so_far() {
    assert_eq!(counts(&read("openai/groq_stream.sse")), (Some(50), None, Some(7)));
    let unasked = read_cut("openai/groq_stream.sse", 2);
    assert_eq!((counts(&unasked), unasked.usage), ((Some(50), None, Some(7)), UsageSeen::Final));
    let perplexity = read("openai/perplexity_stream.sse");
    assert_eq!((counts(&perplexity), perplexity.usage), ((Some(6), None, Some(4)), UsageSeen::Final));
    assert_eq!(unit(&perplexity, "searches"), Some(2));
    assert_eq!(observer_of("openai/perplexity_stream.sse").delivered().text, "A B");
}

#[test]
fn azure_names_the_model_late_and_annotates_after_the_end() {
    let reading = read("azure/chat_stream.sse");
    assert_eq!(reading.model.as_deref(), Some("gpt-4o-2024-11-20"));
    assert_eq!((counts(&reading), reading.usage), ((Some(12), Some(0), Some(2)), UsageSeen::Final));
}

#[test]
fn the_parts_of_azures_grok_add_up_to_its_total() {
    let reading = read("azure/grok.json");
    assert_eq!((reading.tokens.input_total(), reading.tokens.output), (10, Some(8)));
    assert!(reading.usage_raw.unwrap().get().contains("\"cached_tokens\":161"));
}

#[test]
fn azure_is_openai_under_another_name_header_and_path() {
    let azure = wires::by_name("azure").unwrap();
    assert_eq!((azure.credential().name, azure.credential().prefix), ("api-key", ""));
    assert!(azure.takes_stream_options() && !wires::by_name("anthropic").unwrap().takes_stream_options());
    let is = |method: Method, path: &'static str| {
        let exchange = wires::recognise(azure, &method, path);
        (exchange.wire.name(), exchange.operation, exchange.model_in_path)
    };
    let post = |path| is(Method::POST, path);
    assert_eq!(post("/openai/deployments/d1/chat/completions"), ("azure", Operation::Chat, Some("d1")));
    assert_eq!(post("/openai/deployments/d1/audio/speech"), ("azure", Operation::Speech, Some("d1")));
    assert_eq!(post("/openai/deployments/d1/images/generations"), ("azure", Operation::ImageGeneration, Some("d1")));
    assert_eq!(post("/openai/v1/responses"), ("azure", Operation::Responses, None));
    assert_eq!(post("/openai/responses"), ("azure", Operation::Responses, None));
    assert_eq!(post("/models/chat/completions"), ("azure", Operation::Chat, None));
    assert_eq!(post("/anthropic/v1/messages"), ("anthropic", Operation::Chat, None));
    assert_eq!(is(Method::GET, "/openai/v1/responses/r1"), ("azure", Operation::Responses, None));
}

#[test]
fn paths_say_what_costs_and_what_does_not() {
    let is = |method: Method, path: &'static str| {
        let exchange = wires::recognise(wires::by_name("openai").unwrap(), &method, path);
        (exchange.operation, exchange.consumption, exchange.object_in_path)
    };
    for (path, operation) in [
        ("/v1/images/edits", Operation::ImageGeneration),
        ("/v1/audio/translations", Operation::Transcription),
        ("/v1/audio/speech", Operation::Speech),
        ("/v1/threads/runs", Operation::InvokeAgent),
        ("/v1/threads/t/runs", Operation::InvokeAgent),
        ("/v1/threads/t/runs/r/submit_tool_outputs", Operation::InvokeAgent),
        ("/v1/conversations/c", Operation::InvokeAgent),
        ("/v1/fim/completions", Operation::TextCompletion),
        ("/v1/agents/completions", Operation::Chat),
        ("/v1/responses/compact", Operation::Responses),
        ("/v1/rerank", Operation::Rerank),
        ("/v1/ocr", Operation::Ocr),
        ("/v1/chat", Operation::Chat),
        ("/openai", Operation::Chat),
        ("/serving-endpoints/e/invocations", Operation::Chat),
        ("/api/v2/cortex/inference:complete", Operation::Chat),
        ("/completion", Operation::TextCompletion),
        ("//openai/deployments/d/embeddings/", Operation::Embeddings),
    ] {
        assert_eq!(is(Method::POST, path), (operation, Consumption::Now, None), "{path}");
    }
    for (path, operation) in [
        ("/v1/responses/input_tokens", Operation::CountTokens),
        ("/v1/moderations", Operation::Moderation),
        ("/tokenize", Operation::CountTokens),
        ("/v1/chat/completions/c", Operation::Other),
        ("/v1/batches", Operation::Other),
        ("/v1/batches/b/cancel", Operation::Other),
        ("/v1/batch/jobs", Operation::Other),
        ("/v1/batch/jobs/j/cancel", Operation::Other),
        ("/v1/agents", Operation::Other),
        ("/v1/files", Operation::Other),
        ("/v1/uploads/u/parts", Operation::Other),
        ("/v1/vector_stores/v/files", Operation::Other),
        ("/v1/threads/t/messages", Operation::Other),
    ] {
        assert_eq!(is(Method::POST, path), (operation, Consumption::None, None), "{path}");
    }
    for (method, path, expected) in [
        (Method::GET, "/v1/responses/r", (Operation::Responses, Consumption::Stored, Some("r"))),
        (Method::POST, "/v1/responses/r/cancel", (Operation::Responses, Consumption::Stored, Some("r"))),
        (Method::GET, "/v1/threads/t/runs/r", (Operation::InvokeAgent, Consumption::Result, Some("r"))),
        (Method::POST, "/v1/threads/t/runs/r/cancel", (Operation::InvokeAgent, Consumption::Result, Some("r"))),
        (Method::GET, "/v1/files/f/content", (Operation::Batch, Consumption::Result, Some("f"))),
        (Method::GET, "/v1/containers/c/files/f/content", (Operation::Other, Consumption::None, None)),
        (Method::GET, "/v1/chat/completions", (Operation::Other, Consumption::None, None)),
        (Method::GET, "/v1/chat/completions/c", (Operation::Other, Consumption::None, None)),
        (Method::GET, "/v1/responses/r/input_items", (Operation::Other, Consumption::None, None)),
        (Method::GET, "/v1/threads/t/runs", (Operation::Other, Consumption::None, None)),
        (Method::GET, "/v1/threads/t/runs/r/steps", (Operation::Other, Consumption::None, None)),
        (Method::GET, "/v1/batches/b", (Operation::Other, Consumption::None, None)),
        (Method::GET, "/v1/organization/usage/completions", (Operation::Other, Consumption::None, None)),
        (Method::DELETE, "/v1/responses/r", (Operation::Other, Consumption::None, None)),
        (Method::POST, "/v1/vector_stores/v/search", (Operation::Other, Consumption::Now, None)),
    ] {
        assert_eq!(is(method, path), expected, "{path}");
    }
}

#[test]
fn speech_is_billed_by_its_text_and_not_by_how_it_shall_sound() {
    let request = r#"{"model":"tts-1","voice":"alloy","instructions":"Whisper.","input":"Grüß 你好"}"#;
    assert_eq!(prompts::said("openai", Operation::Speech, request), "Grüß 你好");
}

#[test]
fn every_answer_reads_alike_byte_by_byte() {
    for fixture in FIXTURES {
        let bytes: Vec<usize> = (0..fixture.3.len()).collect();
        let whole = facts(&mut *observed(*fixture, fixture.3, &[]));
        assert_eq!(facts(&mut *observed(*fixture, fixture.3, &bytes)), whole, "{}", fixture.0);
    }
}
