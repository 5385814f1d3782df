//! Secrets: no prompt, completion or credential is in anything that tokenmeter writes, logs or shows.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::Method;
use serde_json::json;

use crate::asks::{self, Ask};
use crate::counting_endpoint::{asked, asked_upstreams, logged};
use crate::fake_upstream::Canned;
use crate::stand::{CREDENTIAL, PAYERS, Stand};

const PROMPT: &str = "canary-of-the-prompt-1b7f";
const COMPLETION: &str = "canary-of-the-completion-9c2e";
const OWN_CREDENTIAL: &str = "sk-canary-of-the-client-44d1";

/// How a secret may be written so that a plain search misses it.
fn disguises(secret: &str) -> Vec<Vec<u8>> {
    let written = |each: fn(u8) -> String| secret.bytes().map(each).collect::<Vec<_>>().concat();
    let (hex, percent) = (written(|byte| format!("{byte:02x}")), written(|byte| format!("%{byte:02X}")));
    let numbers = secret.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
    let mut all = vec![secret.to_owned(), hex.to_uppercase(), hex, percent.to_lowercase(), percent, numbers];
    for before in ["", "x", "xx"] {
        let shifted = format!("{before}{secret}");
        for encoded in [BASE64_STANDARD_NO_PAD.encode(&shifted), BASE64_URL_SAFE_NO_PAD.encode(&shifted)] {
            // The first and last characters depend on what stands around the secret.
            all.push(encoded[4..encoded.len() - 3].to_owned());
        }
    }
    all.into_iter().map(String::into_bytes).collect()
}

fn files_below(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
}

#[tokio::test]
async fn nothing_that_is_written_logged_or_shown_holds_a_secret() {
    let mut stand = Stand::stopped(|base| format!("{}{PAYERS}", asked_upstreams(base)));
    let command = stand.command(&["serve", "--log", "trace"]);
    stand.serve_as(command);
    let key = stand.key("lab").await;
    let bearer = format!("Bearer {key}");
    let mut shown: Vec<(String, Vec<u8>)> = Vec::new();

    let canned = |status: u16| Canned {
        status,
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        chunks: vec![Bytes::from(json!({"choices": [{"message": {"content": COMPLETION}}]}).to_string())],
    };
    stand.fake.respond_to("fine", canned(200));
    stand.fake.respond_to("bad", canned(400));
    let secretly = |mut ask: Ask| {
        let text = ask.body.to_string().replace("how are you today", PROMPT);
        ask.body = serde_json::from_str(&text).unwrap();
        ask
    };
    // The upstream is asked to count prompts; once it does, then it does not.
    let mut calls = 0;
    for ask in [asks::messages(), asks::responses()].map(secretly) {
        stand.fake.forget();
        stand.ask(&ask).header("authorization", &bearer).fake("no_usage").send().await;
        calls += 1;
        let question = asked(&stand).await;
        assert!(memchr::memmem::find(&question.body, PROMPT.as_bytes()).is_some(), "{question:?}");
        stand.fake.answer_counts("x-fake-replay", "bad");
    }
    logged(&stand, "an upstream did not count a prompt").await;
    for ask in asks::whole().into_iter().chain(asks::streams()).map(secretly) {
        for script in ["", "no_usage", "status=500", "cut_after=2", "cut", "gzip"] {
            stand.ask(&ask).header("authorization", &bearer).fake(script).send().await;
            calls += 1;
        }
        for canned in ["fine", "bad"] {
            let call = stand.ask(&ask).header("authorization", &format!("Bearer {OWN_CREDENTIAL}"));
            call.header("x-fake-replay", canned).send().await;
            calls += 1;
        }
    }
    let live = "/gemini/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent";
    let (in_query, subprotocol) = (format!("{live}?key={key}"), format!("realtime, openai-insecure-api-key.{key}"));
    for (path, name, value) in [
        ("/openai/v1/realtime", "authorization", bearer.as_str()),
        ("/openai/v1/realtime", "sec-websocket-protocol", &subprotocol),
        (&in_query, "x-odd", "1"),
    ] {
        let (mut socket, head) = crate::websockets::open(&stand, path, &[(name, value)]).await.unwrap();
        crate::websockets::echo_after_hello(&mut socket).await;
        socket.close(None).await.unwrap();
        assert!(crate::websockets::ends_in_order(&mut socket).await);
        assert!(!format!("{head:?}").contains(CREDENTIAL));
        calls += 1;
    }
    // What tokenmeter says itself.
    let with_key = format!("/openai/v1/models?key={key}x");
    for (path, name) in [("/nowhere", "x-odd"), ("/keyless/v1/models", "x-api-key"), (with_key.as_str(), "x-odd")] {
        let reply = stand.call(path).method(Method::GET).header(name, &key).header("x-secret", PROMPT).send().await;
        assert!(reply.status.is_client_error());
        shown.push((path.to_owned(), format!("{:?} {}", reply.headers, reply.text()).into_bytes()));
    }
    stand.records_when(calls);
    for path in ["/metrics", "/", "/api/v1/report", "/readyz", "/api/v1/report?month=x"] {
        let reply = stand.get(&format!("{}{path}", stand.admin())).await;
        shown.push((path.to_owned(), reply.body.to_vec()));
    }
    for arguments in [&["records"][..], &["report"], &["keys", "list"], &["verify"], &["records", "--format", "csv"]] {
        shown.push((arguments.join(" "), stand.run(arguments).into_bytes()));
    }
    stand.terminate();
    stand.wait();
    let ledger = rusqlite::Connection::open(stand.data().join("ledger.db")).unwrap();
    let mut learned = ledger.prepare("SELECT state FROM calibration").unwrap();
    let learned: Vec<String> = learned.query_map((), |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert!(!learned.is_empty(), "calls have taught something");
    shown.extend(learned.into_iter().map(|state| ("calibration".to_owned(), state.into_bytes())));
    files_below(stand.path(), &mut shown);

    let log = stand.log();
    assert!(log.contains("TRACE"), "the log is at its loudest");
    assert!(shown.iter().any(|(name, bytes)| name.contains("journal") && !bytes.is_empty()));
    for secret in [PROMPT, COMPLETION, OWN_CREDENTIAL, CREDENTIAL, &key] {
        for disguise in disguises(secret) {
            for (name, bytes) in &shown {
                let at = memchr::memmem::find(bytes, &disguise);
                let around =
                    at.map(|at| bytes[at.saturating_sub(200)..(at + 60).min(bytes.len())].escape_ascii().to_string());
                assert_eq!(around, None, "{name} holds {secret:?}");
            }
        }
    }
}
