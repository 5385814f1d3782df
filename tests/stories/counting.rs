//! Counting: what a provider does not report is counted here, by whose tokenizer it is, and not without bounds.

use std::io::Write as _;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::asks::{self, Ask};
use crate::stand::{Stand, upstreams};

/// Whole words, and nothing else.
const WORDS: &str = r#"{
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
    "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"}}"#;

/// What `count` with `arguments` says of `input`.
fn count(stand: &Stand, arguments: &[&str], input: &[u8]) -> Output {
    let arguments: Vec<&str> = ["count"].iter().chain(arguments).copied().collect();
    let mut command = stand.command(&arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn found(stand: &Stand, arguments: &[&str], input: &str) -> Value {
    let arguments: Vec<&str> = arguments.iter().chain(&["--format", "json"]).copied().collect();
    let Output { status, stdout, stderr } = count(stand, &arguments, input.as_bytes());
    assert!(status.success(), "{}", String::from_utf8(stderr).unwrap());
    serde_json::from_slice(&stdout).unwrap()
}

#[test]
fn a_developer_counts_a_text_or_a_request() {
    let stand = Stand::stopped(upstreams);
    let Output { stdout, .. } = count(&stand, &["-", "--model", "gpt-4o-mini"], b"tiktoken is great!");
    insta::assert_snapshot!(String::from_utf8(stdout).unwrap(), @r"
    6 tokens of gpt-4o-mini
      read as       text
      counted by    o200k
    ");
    let file = stand.path().join("request.json");
    std::fs::write(&file, asks::chat().body.to_string()).unwrap();
    let file = file.to_str().unwrap();
    insta::assert_snapshot!(stand.run(&["count", file, "--model", "gpt-4o-mini", "--upstream", "openai"]), @r"
    11 tokens of gpt-4o-mini at openai, probably 10 to 12
      read as       chat
      counted by    o200k
      learned from  0 calls
      text          4
      messages      1
    ");
    let text = found(&stand, &["--model", "gpt-4o-mini", "--as", "text"], &asks::chat().body.to_string());
    assert!(text["as"] == "text" && text["operation"].is_null() && text["tokens"].as_u64() > Some(20), "{text}");
    assert!(!stand.data().exists(), "nothing was begun");
}

#[test]
fn what_cannot_be_counted_says_why() {
    let stand = Stand::stopped(upstreams);
    let said = |arguments: &[&str], input: &[u8]| {
        let Output { status, stderr, stdout } = count(&stand, arguments, input);
        assert!(status.code() == Some(1) && stdout.is_empty());
        String::from_utf8(stderr).unwrap()
    };
    insta::assert_snapshot!(said(&["--model", "m", "--upstream", "nobody"], b"text"), @"tokenmeter: upstream `nobody` is not configured; known: keyless, openai, anthropic, gemini");
    insta::assert_snapshot!(said(&["--model", "m", "--wire", "morse"], b"text"), @"tokenmeter: wire `morse` is unknown; known: bedrock, anthropic, vertex, gemini, openai, azure, cohere, ollama, cloudflare, dashscope, tgi, watsonx, alephalpha");
    insta::assert_snapshot!(said(&["--model", "m", "--as", "request"], b"text"), @"tokenmeter: this is no request: a JSON object with `messages`, `input`, `contents`, `prompt` or `inputs` is expected");
    insta::assert_snapshot!(said(&["--model", "m"], b"\xff\xfe"), @"tokenmeter: this is no UTF-8 text, and no request: invalid utf-8 sequence of 1 bytes from index 0");
    insta::assert_snapshot!(said(&["nowhere/to/be/found", "--model", "m"], b""), @"tokenmeter: cannot read `nowhere/to/be/found`: No such file or directory (os error 2)");
}

#[tokio::test]
async fn a_call_whose_provider_reports_nothing_counts_what_the_command_says() {
    let stand = Stand::start();
    let asks = [asks::chat(), asks::responses(), asks::messages(), asks::embeddings()];
    for ask in &asks {
        stand.ask(ask).fake("no_usage").send().await;
    }
    let records = stand.records_when(asks.len());
    for Ask { path, body } in &asks {
        let model = body["model"].as_str().unwrap();
        let operation = path.rsplit('/').next().unwrap();
        let found = found(&stand, &["--model", model], &body.to_string());
        let is_it =
            |record: &&Value| record["model_requested"] == body["model"] && record["operation"] == found["operation"];
        let record = records.iter().find(is_it).unwrap();
        assert_eq!(record["tokens"]["input"], found["tokens"], "{operation}");
        assert_eq!(record["estimate"]["method"], found["estimate"]["method"], "{operation}");
    }
}

#[tokio::test]
async fn a_tokenizer_of_the_users_own_counts_its_upstreams_calls() {
    let mut stand = Stand::stopped(|base| {
        upstreams(base) + "\n[[tokenizer]]\nfile = \"FILE\"\nupstreams = [\"openai\"]\nmodels = [\"gpt-*\"]\n"
    });
    let config = stand.path().join("tokenmeter.toml");
    let missing = stand.command(&["check"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(78));
    assert!(String::from_utf8(missing.stderr).unwrap().contains("names FILE, which cannot be read"));
    let file = stand.path().join("tokenizer.json");
    std::fs::write(&file, WORDS).unwrap();
    let text = std::fs::read_to_string(&config).unwrap().replace("FILE", file.to_str().unwrap());
    std::fs::write(&config, text).unwrap();
    stand.serve();
    stand.ask(&asks::embeddings()).fake("no_usage").send().await;
    stand.ask(&asks::chat()).fake("no_usage").send().await;
    let records = stand.records_when(2);
    let of = |operation: &str| records.iter().find(|record| record["operation"] == operation).unwrap().clone();
    assert_eq!(of("embeddings")["estimate"]["method"], "cl100k", "another model");
    assert_eq!(of("chat")["estimate"]["method"], "tokenizer_json");
    let words = found(&stand, &["--model", "gpt-4o-mini", "--upstream", "openai"], "one two three");
    assert_eq!((&words["tokens"], &words["estimate"]["method"]), (&json!(3), &json!("tokenizer_json")));
}

#[tokio::test]
async fn what_is_too_much_to_wait_is_counted_by_its_length() {
    let stand =
        Stand::with(|base| format!("[counting]\nqueue_bytes_max = 1048576\npreload = true\n{}", upstreams(base)));
    let large = asks::chat().with("user", json!("x".repeat(2 << 20)));
    stand.ask(&large).fake("no_usage").send().await;
    let record = stand.only_record();
    assert_eq!((&record["provenance"], &record["estimate"]["method"]), (&json!("estimated"), &json!("bytes")));
    assert!(record["tokens"]["input"].as_u64() > Some(1 << 19), "{record}");
    stand.metric_becomes("tokenmeter_counting_by_length_total", &[], 1.0).await;
    stand.metric_becomes("tokenmeter_counting_queued_bytes", &[], 0.0).await;
}

#[tokio::test]
async fn what_is_beyond_the_text_that_is_looked_at_is_said() {
    let stand = Stand::with(|base| format!("[counting]\ntext_bytes_max = 65536\n{}", upstreams(base)));
    let long = asks::embeddings().with("input", json!("one two three four ".repeat(7_000)));
    stand.ask(&long).fake("no_usage").send().await;
    let record = stand.only_record();
    let (input, estimate) = (record["tokens"]["input"].as_u64().unwrap(), &record["estimate"]);
    assert_eq!(estimate["method"], "cl100k+extrapolated");
    assert!(input.abs_diff(28_000) < 50, "four tokens each: {record}");
    let (low, high) = (estimate["low"].as_u64().unwrap(), estimate["high"].as_u64().unwrap());
    assert!(low < 20_000 && high > 36_000, "half of it was not looked at: {record}");
    let model = long.body["model"].as_str().unwrap();
    let found = found(&stand, &["--model", model, "--upstream", "openai"], &long.body.to_string());
    assert_eq!((&found["tokens"], &found["estimate"]["method"]), (&record["tokens"]["input"], &estimate["method"]));
}
