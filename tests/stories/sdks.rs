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
    assert!(refusal(&lines).contains("this tokenmeter key was revoked"), "{lines:?}");
    records_are_as_promised(&stand, 6, "Bearer ");
}

#[tokio::test]
async fn the_python_sdk_of_anthropic_notices_nothing_and_every_call_is_counted() {
    let Some(python) = tool("PYTHON") else { return };
    let stand = stand();
    let key = stand.key("support-bot").await;
    // No upstream is named: the path tells it.
    let lines = run(&stand, &python, "with_anthropic.py", "", &key, UNKNOWN_KEY);
    assert!(refusal(&lines).contains("this tokenmeter key is unknown"), "{lines:?}");
    records_are_as_promised(&stand, 4, "");
}

#[tokio::test]
async fn the_python_sdk_of_google_notices_nothing_and_every_call_is_counted() {
    let Some(python) = tool("PYTHON") else { return };
    let stand = stand();
    let key = stand.key("support-bot").await;
    let lines = run(&stand, &python, "with_google_genai.py", "/gemini", &key, UNKNOWN_KEY);
    assert!(refusal(&lines).contains("this tokenmeter key is unknown"), "{lines:?}");
    records_are_as_promised(&stand, 2, "");
}

#[tokio::test]
async fn the_node_sdk_of_openai_notices_nothing_and_every_call_is_counted() {
    let (Some(node), Some(_)) = (tool("NODE"), tool("NODE_MODULES")) else { return };
    let stand = stand();
    let key = stand.key("support-bot").await;
    let lines = run(&stand, &node, "openai.mjs", "", &key, UNKNOWN_KEY);
    assert!(refusal(&lines).contains("this tokenmeter key is unknown"), "{lines:?}");
    records_are_as_promised(&stand, 4, "Bearer ");
}

/// A stand whose upstreams come before the one without a credential, so that a path alone finds them.
fn stand() -> Stand {
    Stand::with(|base| {
        let all = upstreams(base);
        let (keyless, rest) = all.split_at(all[1..].find("[[upstream]]").unwrap() + 1);
        format!("{rest}\n{keyless}\n{PAYERS}")
    })
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

/// The message that the SDK's error object showed.
fn refusal(lines: &[Value]) -> &str {
    lines.iter().find(|line| line["check"] == "refused").unwrap()["message"].as_str().unwrap()
}

/// One record a call that the provider received, each with what it promised; and the provider saw its own credential.
fn records_are_as_promised(stand: &Stand, at_least: usize, prefix: &str) {
    let calls = stand.fake.requests();
    assert!(calls.len() >= at_least, "{calls:?}");
    let revoked_probes = stand.records().len() - calls.len();
    let records = stand.records_when(calls.len() + revoked_probes).split_off(revoked_probes);
    for (call, record) in calls.iter().zip(&records) {
        let credential =
            ["authorization", "x-api-key", "x-goog-api-key"].into_iter().find_map(|name| call.header(name));
        assert_eq!(credential, Some(format!("{prefix}{CREDENTIAL}").as_str()), "{call:?}");
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
        assert_eq!((&record["provenance"], &record["outcome"]), (&"reported".into(), &"completed".into()), "{record}");
    }
}
