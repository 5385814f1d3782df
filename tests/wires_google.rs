//! Google's answers beyond `generateContent`: embeddings, predictions, batches, interactions, and what Vertex adds.

#[path = "support/answers.rs"]
mod answers;
#[path = "support/prompts.rs"]
mod prompts;
#[path = "support/texts.rs"]
mod texts;

use answers::{Answer, EVENTS, JSON, LINES, observed, read, reads_spoilt, recognised};
use http::Method;
use proptest::prelude::*;
use tokenmeter::operation::Operation;
use tokenmeter::usage::TokenCounts;
use tokenmeter::wires::{self, Job, UsageSeen};

const EMBEDDINGS: Answer<'static> =
    ("gemini", Operation::Embeddings, JSON, include_bytes!("fixtures/gemini/embeddings.json"));
const INTERACTION: Answer<'static> =
    ("gemini", Operation::Interaction, JSON, include_bytes!("fixtures/gemini/interaction.json"));
const INTERACTION_STREAM: Answer<'static> =
    ("gemini", Operation::Interaction, EVENTS, include_bytes!("fixtures/gemini/interaction_stream.sse"));
const IN_BACKGROUND: Answer<'static> =
    ("gemini", Operation::Interaction, JSON, include_bytes!("fixtures/gemini/interaction_background.json"));
const BATCH: Answer<'static> =
    ("gemini", Operation::GenerateContent, JSON, include_bytes!("fixtures/gemini/batch.json"));
const BATCH_FILE: Answer<'static> =
    ("gemini", Operation::Batch, LINES, include_bytes!("fixtures/gemini/batch_file.jsonl"));
const PREDICT: Answer<'static> =
    ("vertex", Operation::Embeddings, JSON, include_bytes!("fixtures/vertex/predict.json"));
const IMAGEN: Answer<'static> =
    ("vertex", Operation::ImageGeneration, JSON, include_bytes!("fixtures/vertex/imagen.json"));
const VERTEX_STREAM: Answer<'static> =
    ("vertex", Operation::GenerateContent, EVENTS, include_bytes!("fixtures/vertex/generate_stream.sse"));

fn job(id: &str, is_over: bool) -> Job {
    Job { id: id.to_owned(), is_over }
}

#[test]
fn embeddings_tell_their_prompt_alone() {
    let reading = read(EMBEDDINGS).reading();
    let expected = TokenCounts { input: Some(14), image_input: Some(4), ..TokenCounts::default() };
    assert_eq!((reading.tokens, reading.usage, reading.anomaly), (expected, UsageSeen::Final, None));
}

#[test]
fn predicted_vectors_are_summed_with_the_characters_billed() {
    let reading = read(PREDICT).reading();
    assert_eq!(reading.tokens, TokenCounts { input: Some(11), ..TokenCounts::default() });
    assert_eq!((reading.usage, reading.units.get("characters")), (UsageSeen::Final, Some(&35)));
    let raw = r#"{"statistics":[{"truncated":false,"token_count":5},{"token_count":6,"truncated":false}],"metadata":{"billableCharacterCount":35}}"#;
    assert_eq!(reading.usage_raw.unwrap().get(), raw);
}

#[test]
fn many_long_vectors_are_counted_without_being_held() {
    let values = "-0.012894756160676479,".repeat(3072);
    let one = format!(r#"{{"embeddings":{{"values":[{values}0],"statistics":{{"token_count":7}}}}}}"#);
    let body = format!(r#"{{"predictions":[{}]}}"#, vec![one; 100].join(","));
    let (wire, operation, content_type, _) = PREDICT;
    let reading = observed((wire, operation, content_type, body.leak().as_bytes()), 16 << 10).reading();
    assert_eq!(reading.tokens.input, Some(700));
}

#[test]
fn pictures_made_are_units_and_those_withheld_are_not() {
    let reading = read(IMAGEN).reading();
    assert_eq!((reading.units.get("images"), reading.tokens.is_empty()), (Some(&2), true));
}

#[test]
fn an_interaction_counts_tools_as_prompt_and_thoughts_as_output() {
    let mut observer = read(INTERACTION);
    let reading = observer.reading();
    let expected = TokenCounts {
        input: Some(39),
        cache_read: Some(20),
        output: Some(59),
        reasoning: Some(56),
        image_input: Some(10),
        ..TokenCounts::default()
    };
    assert_eq!((reading.tokens, reading.usage, reading.anomaly), (expected, UsageSeen::Final, None));
    assert_eq!((reading.model.as_deref(), reading.service_tier.as_deref()), (Some("gemini-3-flash"), Some("flex")));
    assert_eq!(reading.units.get("searches"), Some(&2));
    assert_eq!(texts::texts_of(&*observer), "Said |Hmm.|f|{\"a\":1}");
    // It waits for its client, who begins another.
    assert_eq!(reading.job, Some(job("v1_a", true)));
}

#[test]
fn an_interaction_that_streams_is_over_with_its_usage_and_its_text_counts_once() {
    let mut observer = read(INTERACTION_STREAM);
    let reading = observer.reading();
    assert_eq!((reading.tokens.input, reading.tokens.output), (Some(10), Some(203)));
    assert_eq!((reading.usage, reading.job), (UsageSeen::Final, Some(job("v1_b", true))));
    assert!(observer.is_terminal() && reading.is_finished);
    assert_eq!(observer.delivered().text, "In \"usage\" now");
    let (wire, operation, content_type, body) = INTERACTION_STREAM;
    let mut cut = observed((wire, operation, content_type, body.get(..600).unwrap()), 100);
    assert_eq!((cut.reading().usage, cut.is_terminal()), (UsageSeen::Nothing, false));
}

#[test]
fn an_interaction_in_the_background_begins_a_job() {
    let reading = read(IN_BACKGROUND).reading();
    assert_eq!((reading.usage, reading.job), (UsageSeen::Nothing, Some(job("v1_c", false))));
    assert_eq!(reading.model.as_deref(), Some("deep-research-pro"));
}

#[test]
fn a_batch_that_holds_its_responses_is_summed_and_one_that_runs_is_not_over() {
    let reading = read(BATCH).reading();
    let expected = TokenCounts {
        input: Some(12),
        cache_read: Some(6),
        output: Some(29),
        reasoning: Some(20),
        ..TokenCounts::default()
    };
    assert_eq!((reading.tokens, reading.usage, reading.anomaly), (expected, UsageSeen::Interim, None));
    assert_eq!((reading.model.as_deref(), reading.service_tier.as_deref()), (Some("gemini-2.5-flash"), Some("batch")));
    assert_eq!(reading.job, Some(job("b1", true)));
    let (wire, operation, content_type, _) = BATCH;
    let running = br#"{"name":"batches/b1","metadata":{"state":"BATCH_STATE_RUNNING"}}"#;
    let reading = read((wire, operation, content_type, running)).reading();
    assert_eq!((reading.usage, reading.job), (UsageSeen::Nothing, Some(job("b1", false))));
}

#[test]
fn a_batch_of_thousands_is_summed_past_what_was_generated() {
    let text = "x".repeat(2000);
    let one = format!(
        r#"{{"response":{{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}]}}}}],"usageMetadata":{{"promptTokenCount":2,"candidatesTokenCount":1,"totalTokenCount":3}},"modelVersion":"g"}}}}"#
    );
    let many = vec![one; 4000].join(",");
    let body = format!(
        r#"{{"name":"batches/b2","done":true,"response":{{"inlinedResponses":{{"inlinedResponses":[{many}]}}}}}}"#
    );
    let (wire, operation, content_type, _) = BATCH;
    let reading = observed((wire, operation, content_type, body.leak().as_bytes()), 16 << 10).reading();
    assert_eq!((reading.tokens.input, reading.tokens.output), (Some(8000), Some(4000)));
}

#[test]
fn the_lines_of_a_batchs_file_are_summed() {
    let reading = read(BATCH_FILE).reading();
    assert_eq!((reading.tokens.input, reading.tokens.output, reading.tokens.reasoning), (Some(17), Some(7), Some(2)));
    assert_eq!((reading.model, reading.usage, reading.is_error), (None, UsageSeen::Interim, false));
}

#[test]
fn vertex_tells_its_tier_by_the_traffic_and_its_enums_may_be_numbers() {
    let mut observer = read(VERTEX_STREAM);
    let reading = observer.reading();
    let expected = TokenCounts {
        input: Some(39),
        output: Some(7),
        reasoning: Some(5),
        audio_input: Some(3),
        ..TokenCounts::default()
    };
    assert_eq!((reading.tokens, reading.usage, reading.anomaly), (expected, UsageSeen::Final, None));
    assert_eq!((reading.service_tier.as_deref(), reading.units.get("searches")), (Some("flex"), Some(&2)));
    assert!(reading.is_finished);
    assert_eq!(observer.delivered().text, "One two");
}

#[test]
fn a_stream_that_fails_in_the_middle_ends_in_a_bare_error() {
    let body = b"data: {\"candidates\": [{\"content\": {\"parts\": [{\"text\": \"On\"}]}}]}\r\n\r\n{\n  \"error\": {\n    \"code\": 499\n  }\n}\n";
    let mut observer = read(("vertex", Operation::GenerateContent, EVENTS, body));
    let reading = observer.reading();
    assert_eq!((reading.is_error, reading.is_finished, reading.usage), (true, false, UsageSeen::Nothing));
    assert_eq!(observer.delivered().text, "On");
}

#[test]
fn prompts_are_read_where_each_api_has_them() {
    let prompt = |operation, body: &str| prompts::said("vertex", operation, body);
    let predict = r#"{"instances":[{"title":"t","content":"one","task_type":"X"},{"content":" two"}]}"#;
    assert_eq!(prompt(Operation::Embeddings, predict), "t | one |  two");
    assert_eq!(
        prompt(Operation::Interaction, r#"{"model":"m","input":"hello","system_instruction":"be brief"}"#),
        "system: be brief | user: hello"
    );
    let steps = r#"{"input":[{"type":"user_input","content":[{"type":"text","text":"a"},{"type":"image","data":"AA"}]},
        {"role":"user","content":"b"},{"type":"text","text":"c"},{"type":"function_result","call_id":"1","name":"f","result":{"r":1}}]}"#;
    assert_eq!(prompt(Operation::Interaction, steps), "user: a | user: b | user: c | tool: {\"r\":1} | 1 images");
    let generate = r#"{"system_instruction":{"parts":{"text":"S"}},"contents":[{"role":"user","parts":[{"text":"T"},
        {"inlineData":{"mimeType":"image/png","data":"AA"}}]},{"role":"model","parts":[{"functionCall":{"name":"f","args":{"a":1}}}]},
        {"role":"user","parts":[{"functionResponse":{"name":"f","response":{"b":2}}},{"fileData":{"fileUri":"gs://f"}}]}],
        "tools":[{"functionDeclarations":[{"name":"f"}]},{"googleSearch":{}}]}"#;
    assert_eq!(
        prompt(Operation::GenerateContent, generate),
        "system: S | user: T | model:  f({\"a\":1}) | user: {\"b\":2} | {f} | 1 images | 1 unseen"
    );
}

const PROJECT: &str = "/v1beta1/projects/p/locations/global";

#[test]
fn paths_say_what_costs_and_what_does_not() {
    let of = |method, path| recognised("gemini", &method, path);
    let post = |path| of(Method::POST, path);
    assert_eq!(post("/v1beta/models/g:generateContent"), "gemini generate_content now g whole");
    assert_eq!(post("/v1beta/tunedModels/t:streamGenerateContent"), "gemini generate_content now t stream");
    assert_eq!(post("/v1beta/models/my-models%3AgenerateContent"), "gemini generate_content now my-models whole");
    assert_eq!(post("/gemini/models/google/g:generateContent"), "gemini generate_content now google/g whole");
    assert_eq!(post("/v1beta/models/g/operations/o:cancel"), "gemini other free");
    assert_eq!(post("/v1beta/models/e:batchEmbedContents"), "gemini embeddings now e whole");
    assert_eq!(post("/v1beta/models/imagen-4.0:predict"), "gemini image_generation now imagen-4.0 whole");
    assert_eq!(post("/v1beta/models/g:countTokens"), "gemini count_tokens free g");
    assert_eq!(post("/v1beta/interactions"), "gemini interaction now");
    assert_eq!(of(Method::GET, "/v1beta/interactions/v1_c"), "gemini interaction stored v1_c");
    assert_eq!(of(Method::GET, "/v1beta/batches/b1"), "gemini generate_content result b1 whole");
    assert_eq!(of(Method::GET, "/download/v1beta/files/batch-1:download"), "gemini batch result batch-1 whole");
    assert_eq!(post("/v1beta/openai/chat/completions"), "openai chat now");
    for (method, path) in [
        (Method::POST, "/v1beta/cachedContents"),
        (Method::PATCH, "/v1beta/cachedContents/c"),
        (Method::DELETE, "/v1beta/cachedContents/c"),
        (Method::POST, "/upload/v1beta/files"),
        (Method::GET, "/v1beta/batches"),
        (Method::POST, "/v1beta/batches/b1:cancel"),
        (Method::POST, "/v1beta/interactions/v1_c/cancel"),
        (Method::DELETE, "/v1beta/interactions/v1_c"),
        (Method::GET, "/v1beta/models"),
        (Method::GET, "/v1beta/models/g/operations/o"),
    ] {
        assert_eq!(of(method, path), "gemini other free", "{path}");
    }
    assert_eq!(post("/v1beta/models/g:batchGenerateContent"), "gemini other free g");
    let live = "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent";
    assert_eq!(of(Method::GET, live), "gemini realtime now");
    let live = "/ws/google.cloud.aiplatform.v1.LlmBidiService/BidiGenerateContent";
    assert_eq!(of(Method::GET, live), "vertex realtime now");
    // What OpenAI keeps under the same names is not Google's.
    assert!(!recognised("openai", &Method::GET, "/v1/batches/batch_1").starts_with("gemini"));
}

#[test]
fn vertex_is_known_by_its_paths_whatever_upstream_they_go_to() {
    for upstream in ["vertex", "openai", "gemini"] {
        let post = |path: &str| recognised(upstream, &Method::POST, &[PROJECT, path].concat());
        let google = |verb: &str| post(&["/publishers/google/models/", verb].concat());
        assert_eq!(google("g-2.5:streamGenerateContent"), "vertex generate_content now g-2.5 stream");
        assert_eq!(google("text-embedding-005:predict"), "vertex embeddings now text-embedding-005 whole");
        assert_eq!(google("g:countTokens"), "vertex count_tokens free g");
        assert_eq!(google("veo-3.0:predictLongRunning"), "vertex image_generation now veo-3.0 whole");
        assert_eq!(google("veo-3.0:fetchPredictOperation"), "vertex other free veo-3.0");
        assert_eq!(post("/endpoints/123:generateContent"), "vertex generate_content now  whole");
        assert_eq!(post("/endpoints/openapi/chat/completions"), "openai chat now");
        assert_eq!(post("/cachedContents"), "vertex other free");
        assert_eq!(post("/batchPredictionJobs"), "vertex other free");
        let anthropic = |verb: &str| post(&["/publishers/anthropic/models/", verb].concat());
        assert_eq!(anthropic("claude-x@1:streamRawPredict"), "anthropic chat now claude-x@1 stream");
        assert_eq!(anthropic("claude-x%401:rawPredict/"), "anthropic chat now claude-x%401 whole");
        assert_eq!(anthropic("claude-x%3ArawPredict"), "anthropic chat now claude-x whole");
        assert_eq!(anthropic("count-tokens:rawPredict"), "anthropic count_tokens free");
        let mistral = post("/publishers/mistralai/models/mistral-medium-3:rawPredict");
        assert_eq!(mistral, "openai chat now mistral-medium-3 whole");
        let express = recognised(upstream, &Method::POST, "/v1/publishers/google/models/g:generateContent");
        assert_eq!(express, "vertex generate_content now g whole");
    }
    let vertex = wires::by_name("vertex").unwrap();
    assert_eq!((vertex.credential().name, vertex.credential().prefix), ("authorization", "Bearer "));
    assert!(vertex.error_body(404, "no_route", "nothing there").contains("\"status\":\"NOT_FOUND\""));
}

#[test]
fn an_interactions_thoughts_are_output_under_their_older_name_too() {
    let body =
        br#"{"id":"v1_x","status":"completed","model":"g","usage":{"total_input_tokens":10,"total_output_tokens":5,
        "total_reasoning_tokens":7,"total_tokens":22}}"#;
    let reading = read(("gemini", Operation::Interaction, JSON, body)).reading();
    assert_eq!((reading.tokens.output, reading.tokens.reasoning, reading.anomaly), (Some(12), Some(7), None));
}

proptest! {
    #[test]
    fn a_spoilt_answer_is_read_without_a_panic(
        index in 0..8_usize,
        spoilt in prop::collection::vec((any::<usize>(), prop::sample::select(b"\"\\{}[]:,09-. \n".to_vec())), 1..30),
        size in 1..200_usize,
    ) {
        let answers = [EMBEDDINGS, INTERACTION, INTERACTION_STREAM, BATCH, BATCH_FILE, PREDICT, IMAGEN, VERTEX_STREAM];
        prop_assert!(reads_spoilt(answers[index], &spoilt, size));
    }
}
