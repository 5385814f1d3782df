//! Counting endpoint: an upstream that counts prompts itself is asked sparingly, where that is switched on, so that
//! estimates become better; and never by, or at the cost of, the calls of its clients.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::asks::{self, Ask};
use crate::egress;
use crate::fake_upstream::{Canned, Received, is_count};
use crate::learning::{observations, silent};
use crate::stand::{CREDENTIAL, PATIENCE, PAYERS, Stand, upstreams};

/// What a client of its own presents.
const CLIENTS_OWN: &str = "sk-of-the-client";

/// A stand whose upstreams but the keyless one are asked to count.
fn asking() -> Stand {
    Stand::with(|base| format!("{}{PAYERS}", asked_upstreams(base)))
}

/// The upstreams of a stand, those with a credential asked to count.
pub(crate) fn asked_upstreams(base: &str) -> String {
    upstreams(base).replace("api_key_env", "count_endpoint = true\napi_key_env")
}

/// Requests for a count that the fake has had.
fn counts(requests: &[Received]) -> Vec<Received> {
    requests.iter().filter(|request| is_count(&request.target)).cloned().collect()
}

/// The first request for a count, once all of it has come.
pub(crate) async fn asked(stand: &Stand) -> Received {
    let requests =
        stand.fake.wait_for(|requests| counts(requests).first().is_some_and(|first| first.body_is_complete)).await;
    counts(&requests).remove(0)
}

/// Silent calls of `ask` until an estimate goes by what was learned; that estimate.
async fn taught(stand: &Stand, ask: &Ask) -> Value {
    let begun = Instant::now();
    loop {
        let record = silent(stand, ask).await;
        if observations(&record) > 0 {
            return record;
        }
        assert!(begun.elapsed() < PATIENCE, "nothing is learned: {record:#}");
    }
}

/// Waits until the server's log has `words`.
pub(crate) async fn logged(stand: &Stand, words: &str) {
    let begun = Instant::now();
    while !stand.log().contains(words) {
        assert!(begun.elapsed() < PATIENCE, "the log does not say {words:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ends the server; how often it had asked for a count.
fn times_asked(stand: &mut Stand) -> usize {
    stand.terminate();
    assert_eq!(stand.wait(), Some(0), "{}", stand.log());
    counts(&stand.fake.requests()).len()
}

#[tokio::test]
async fn one_count_by_the_upstream_corrects_the_estimates_that_follow() {
    let mut stand = asking();
    let ask = asks::messages().with("temperature", json!(0.5));
    let call = stand.ask(&ask).header("x-api-key", CLIENTS_OWN).fake("no_usage");
    let id = call.send().await.record_id();
    let question = asked(&stand).await;
    assert_eq!((question.method.as_str(), question.target.as_str()), ("POST", "/v1/messages/count_tokens"));
    assert_eq!(question.header("x-api-key"), Some(CREDENTIAL));
    assert_eq!(question.header("anthropic-version"), Some("2023-06-01"));
    assert!(!format!("{question:?}").contains(CLIENTS_OWN));
    let body: Value = serde_json::from_slice(&question.body).unwrap();
    assert_eq!(body, json!({"model": ask.body["model"], "messages": ask.body["messages"]}));

    let after = taught(&stand, &ask).await;
    assert_eq!(after["tokens"]["input"], ask.promise("").input, "{after:#}");
    assert!(after["estimate"]["method"].as_str().unwrap().ends_with("+calibrated"), "{after:#}");
    let records = stand.records();
    let before = records.iter().find(|record| record["id"] == *id).unwrap();
    assert_eq!(observations(before), 0, "what was written stays: {before:#}");
    let calls = stand.fake.requests().len() - 1;
    assert_eq!(records.len(), calls, "the question has no record");
    assert_eq!(times_asked(&mut stand), 1, "and is not asked again within its time");
}

#[tokio::test]
async fn each_api_is_asked_at_its_own_endpoint_and_again_when_it_is_time() {
    let mut stand = Stand::with(|base| {
        let often =
            asked_upstreams(base).replace("count_endpoint = true", "count_endpoint = true\ncount_every_secs = 1");
        format!("{often}{PAYERS}")
    });
    let begun = Instant::now();
    for (ask, path, name) in [
        (asks::responses(), "/v1/responses/input_tokens", "authorization"),
        (asks::generate(), "/v1beta/models/gemini-2.5-flash:countTokens", "x-goog-api-key"),
    ] {
        stand.fake.forget();
        taught(&stand, &ask).await;
        let question = asked(&stand).await;
        assert_eq!(question.target, path);
        assert!(question.header(name).unwrap().ends_with(CREDENTIAL), "{question:?}");
        while counts(&stand.fake.requests()).len() < 2 {
            assert!(begun.elapsed() < PATIENCE * 2, "{path} is asked once only");
            silent(&stand, &ask).await;
        }
    }
    assert!(begun.elapsed() > Duration::from_secs(2), "but not sooner");
    times_asked(&mut stand);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_question_goes_the_way_that_calls_go() {
    let (mut authority, mut secret) =
        (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
    let mut heads = Arc::default();
    // Over TLS, through a proxy that wants a password, over HTTP/2.
    for (is_tls, is_proxied, is_http2) in
        [(true, true, false), (false, true, false), (true, false, false), (false, false, true)]
    {
        let stand = egress::stand_with(|fake| {
            let mut keys = "count_endpoint = true\napi_key_env = \"TOKENMETER_STAND_KEY\"\n".to_owned();
            let (mut address, mut host) = (fake, fake.to_string());
            if is_tls {
                let (at, pem) = egress::blocking(egress::tls_in_front_of(fake));
                authority = tempfile::NamedTempFile::new().unwrap();
                authority.write_all(pem.as_bytes()).unwrap();
                writeln!(keys, "ca_file = {:?}", authority.path()).unwrap();
                (address, host) = (at, format!("localhost:{}", at.port()));
            }
            if is_proxied {
                let (proxy, seen) = egress::blocking(egress::egress_proxy(Some(address)));
                secret = tempfile::NamedTempFile::new().unwrap();
                writeln!(secret, "http://user:p%40ss@{proxy}").unwrap();
                writeln!(keys, "proxy_url_file = {:?}", secret.path()).unwrap();
                (heads, host) = (seen, format!("{}:443", egress::ELSEWHERE));
            }
            if is_http2 {
                keys.push_str("http_version = \"2\"\n");
            }
            (format!("{}://{host}", if is_tls { "https" } else { "http" }), keys)
        });
        let after = taught(&stand, &asks::responses()).await;
        assert_eq!(after["tokens"]["input"], asks::responses().promise("").input, "{after:#}");
        let question = asked(&stand).await;
        assert_eq!(question.target, "/v1/responses/input_tokens");
        assert_eq!(question.header("authorization").unwrap(), format!("Bearer {CREDENTIAL}"));
        for request in stand.fake.requests() {
            assert_eq!(request.version, if is_http2 { "HTTP/2.0" } else { "HTTP/1.1" }, "{}", request.target);
        }
        let heads = std::mem::take(&mut *heads.lock().unwrap());
        assert_eq!(heads.is_empty(), !is_proxied);
        // `user:p@ss`
        assert!(heads.iter().all(|head| head.contains("Basic dXNlcjpwQHNz")), "{heads:?}");
    }
}

#[tokio::test]
async fn nobody_is_asked_who_is_not_configured_or_whose_usage_was_reported() {
    let mut off = Stand::start();
    let mut on = asking();
    for ask in [asks::messages(), asks::responses(), asks::generate()] {
        silent(&off, &ask).await;
        assert_eq!(on.ask(&ask).send().await.status, 200);
    }
    assert_eq!(times_asked(&mut off), 0);
    assert_eq!(times_asked(&mut on), 0);
}

#[tokio::test]
async fn an_endpoint_that_does_not_count_disturbs_nobody() {
    for (name, value) in [("x-fake", "status=404"), ("x-fake", "status=500"), ("x-fake-replay", "nonsense")] {
        let mut stand = asking();
        let chunks = vec![Bytes::from_static(b"<html>busy</html>")];
        stand.fake.respond_to("nonsense", Canned { status: 200, headers: Vec::new(), chunks });
        stand.fake.answer_counts(name, value);
        silent(&stand, &asks::messages()).await;
        logged(&stand, "turn its `count_endpoint` off").await;
        let record = silent(&stand, &asks::messages()).await;
        assert_eq!(observations(&record), 0, "{value}");
        assert_eq!(times_asked(&mut stand), 1, "{value}");
    }
}

#[tokio::test]
async fn an_endpoint_that_never_answers_holds_up_no_call_and_no_stop() {
    let mut stand = asking();
    stand.fake.answer_counts("x-fake", "hold=for-ever");
    silent(&stand, &asks::messages()).await;
    asked(&stand).await;
    for ask in [asks::messages(), asks::responses(), asks::generate()] {
        assert_eq!(observations(&silent(&stand, &ask).await), 0);
    }
    let begun = Instant::now();
    assert_eq!(times_asked(&mut stand), 1, "one question at a time");
    assert!(begun.elapsed() < Duration::from_secs(9), "a stop does not wait for it");
}

#[test]
fn what_cannot_be_asked_or_would_be_in_vain_is_a_problem() {
    let said = |config: fn(&str) -> String| {
        let output = Stand::stopped(config).command(&["check"]).output().unwrap();
        assert_eq!(output.status.code(), Some(78));
        String::from_utf8(output.stderr).unwrap()
    };
    let text = said(|base| upstreams(base).replace("name = \"keyless\"", "name = \"keyless\"\ncount_endpoint = true"));
    assert!(text.contains("`upstream.count_endpoint` is on, and there is no credential to ask with"), "{text}");
    let text = said(|base| format!("[counting]\nlearn = false\n{}", asked_upstreams(base)));
    assert!(text.contains("`counting.learn` is false, and upstream `openai` has `count_endpoint`"), "{text}");
}
