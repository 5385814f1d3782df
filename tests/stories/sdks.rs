//! The official SDKs through tokenmeter, with nothing set but base URL and key.
//!
//! The scripts in `tests/sdk` check what an application sees; here it is checked what was recorded of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::fake_upstream::promise;
use crate::machine::tool;
use crate::stand::{CREDENTIAL, PAYERS, Stand, upstreams};

/// A key that nobody made.
const UNKNOWN_KEY: &str = "tm_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[tokio::test]
async fn the_python_sdk_of_openai_notices_nothing_and_every_call_is_counted() {
    let Some(python) = tool("PYTHON") else { return };
    let stand = stand();
    let key = stand.key("support-bot").await;
    let refused = revoked_key(&stand).await;
    let lines = run(&stand, &python, "with_openai.py", "/openai", &key, &refused);
    assert!(refusals(&lines).all(|message| message.contains("this tokenmeter key was revoked")), "{lines:?}");
    records_are_as_promised(&stand, 6);
}

#[tokio::test]
async fn the_python_sdk_of_anthropic_notices_nothing_and_every_call_is_counted() {
    counts_every_call_of("PYTHON", "with_anthropic.py", 4).await;
}

#[tokio::test]
async fn the_python_sdk_of_google_notices_nothing_and_every_call_is_counted() {
    counts_every_call_of("PYTHON", "with_google_genai.py", 2).await;
}

#[tokio::test]
async fn the_azure_client_of_openai_notices_nothing_and_every_call_is_counted() {
    counts_every_call_of("PYTHON", "with_azure.py", 5).await;
}

#[tokio::test]
async fn boto3_with_a_bedrock_api_key_notices_nothing_and_every_call_is_counted() {
    counts_every_call_of("PYTHON", "with_boto3.py", 5).await;
}

#[tokio::test]
async fn the_python_sdk_of_cohere_notices_nothing_and_every_call_is_counted() {
    counts_every_call_of("PYTHON", "with_cohere.py", 4).await;
}

#[tokio::test]
async fn the_python_sdk_of_mistral_notices_nothing_and_every_call_is_counted() {
    counts_every_call_of("PYTHON", "with_mistralai.py", 2).await;
}

#[tokio::test]
async fn the_python_sdk_of_ollama_notices_nothing_and_every_call_is_counted() {
    counts_every_call_of("PYTHON", "with_ollama.py", 3).await;
}

#[tokio::test]
async fn langchain_notices_nothing_and_every_call_is_counted() {
    counts_every_call_of("PYTHON", "with_langchain.py", 6).await;
}

#[tokio::test]
async fn litellm_notices_nothing_and_every_call_is_counted() {
    counts_every_call_of("PYTHON_LITELLM", "with_litellm.py", 6).await;
}

#[tokio::test]
async fn the_node_sdk_of_openai_notices_nothing_and_every_call_is_counted() {
    counts_every_call_of("NODE", "openai.mjs", 4).await;
}

#[tokio::test]
async fn the_ai_sdk_of_vercel_notices_nothing_and_every_call_is_counted() {
    counts_every_call_of("NODE", "vercel_ai.mjs", 6).await;
}

/// Runs `script` with a virtual key, and where it wants to be refused with one that nobody made: its own checks must
/// hold, its errors must show why, and the ledger must know all of its calls. It names its upstream itself, or none: then
/// the path tells it.
async fn counts_every_call_of(program: &str, script: &str, at_least: usize) {
    if program == "NODE" && tool("NODE_MODULES").is_none() {
        return;
    }
    let Some(program) = tool(program) else { return };
    let stand = stand();
    let key = stand.key("support-bot").await;
    let lines = run(&stand, &program, script, "", &key, UNKNOWN_KEY);
    assert!(refusals(&lines).all(|message| message.contains("this tokenmeter key is unknown")), "{lines:?}");
    records_are_as_promised(&stand, at_least);
}

/// A stand whose upstreams come before the one without a credential, so that a path alone finds them.
fn stand() -> Stand {
    Stand::with(|base| {
        let all = upstreams(base);
        let (keyless, rest) = all.split_at(all[1..].find("[[upstream]]").unwrap() + 1);
        let more = [("azure", "azure"), ("bedrock", "bedrock"), ("cohere", "cohere"), ("mistral", "openai"), ("ollama", "ollama")]
            .map(|(name, wire)| {
                format!("[[upstream]]\nname = \"{name}\"\nwire = \"{wire}\"\nprovider = \"{name}\"\nbase_url = \"{base}\"\napi_key_env = \"TOKENMETER_STAND_KEY\"\n")
            })
            .join("\n");
        format!("{rest}\n{more}\n{keyless}\n{PAYERS}")
    })
}

/// Where the providers of an upstream look for a credential, and what stands before it.
fn credential_of(upstream: &str) -> (&'static str, &'static str) {
    match upstream {
        "anthropic" => ("x-api-key", ""),
        "azure" => ("api-key", ""),
        "gemini" => ("x-goog-api-key", ""),
        _ => ("authorization", "Bearer "),
    }
}

/// A virtual key that worked once.
async fn revoked_key(stand: &Stand) -> String {
    let key = stand.key("lab").await;
    let list = stand.run(&["keys", "list"]);
    let id = list.lines().find(|line| line.contains(" lab ")).unwrap().split(' ').next().unwrap();
    stand.run(&["keys", "revoke", id]);
    let probe =
        async || stand.call("/openai/v1/models").method(http::Method::GET).header("x-api-key", &key).send().await;
    while probe().await.status != 401 {}
    stand.fake.forget();
    key
}

/// Runs a script of `tests/sdk`; every check of its own must hold. What it printed.
fn run(stand: &Stand, program: &Path, script: &str, upstream: &str, key: &str, refused: &str) -> Vec<Value> {
    let output = Command::new(program)
        .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(script))
        .env("TOKENMETER_SDK_BASE_URL", format!("{}{upstream}", stand.proxy()))
        .env("TOKENMETER_SDK_KEY", key)
        .env("TOKENMETER_SDK_REFUSED_KEY", refused)
        .env("NO_PROXY", "127.0.0.1")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{script}:\n{text}{}", String::from_utf8(output.stderr).unwrap());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The messages that the SDK's error objects showed.
fn refusals(lines: &[Value]) -> impl Iterator<Item = &str> {
    assert!(lines.iter().any(|line| line["check"] == "refused"), "{lines:?}");
    lines.iter().filter(|line| line["check"] == "refused").map(|line| line["message"].as_str().unwrap())
}

/// One record a call that the provider received, each with what it promised; and the provider saw its own credential.
fn records_are_as_promised(stand: &Stand, at_least: usize) {
    let calls = stand.fake.requests();
    assert!(calls.len() >= at_least, "{calls:?}");
    let revoked_probes = stand.records().len() - calls.len();
    let records = stand.records_when(calls.len() + revoked_probes).split_off(revoked_probes);
    for (call, record) in calls.iter().zip(&records) {
        // All upstreams are the one fake: that a call was meant for another would not show in its answer.
        assert!(record["wire"] == "openai" || record["wire"] == record["upstream"], "{record}");
        let (name, prefix) = credential_of(record["upstream"].as_str().unwrap());
        assert_eq!(call.header(name), Some(format!("{prefix}{CREDENTIAL}").as_str()), "{call:?}");
        assert_eq!(record["team"], "support-bot");
        if record["operation"] == "count_tokens" {
            assert_eq!((&record["provenance"], &record["tokens"]), (&Value::from("none"), &serde_json::json!({})));
            continue;
        }
        let path = call.target.split('?').next().unwrap();
        let truth = promise(path, &call.body, "");
        let count = |name: &str| record["tokens"][name].as_u64().unwrap_or(0);
        assert_eq!((count("input"), count("output")), (truth.input, truth.output), "{record}");
        assert_eq!((count("cache_read"), count("reasoning")), (0, truth.reasoning), "{record}");
        assert_eq!(record["model"], truth.model.as_str());
        let searches = if record["operation"] == "rerank" { serde_json::json!(1) } else { Value::Null };
        assert_eq!(record["units"]["search_units"], searches, "{record}");
        assert_eq!((&record["provenance"], &record["outcome"]), (&"reported".into(), &"completed".into()), "{record}");
    }
}
