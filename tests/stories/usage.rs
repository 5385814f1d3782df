//! Usage: the provider's last word, in our one convention, whatever it says.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::asks::{self, Ask};
use crate::fake_upstream::Canned;
use crate::stand::Stand;

/// The records of each of `asks` under `script`.
async fn records_of(stand: &Stand, asks: &[Ask], script: &str) -> Vec<Value> {
    let before = stand.records().len();
    for ask in asks {
        assert!(stand.ask(ask).fake(script).send().await.is_whole);
    }
    stand.records_when(before + asks.len()).split_off(before)
}

fn all() -> Vec<Ask> {
    asks::whole().into_iter().chain(asks::streams()).collect()
}

#[tokio::test]
async fn every_wire_reports_what_was_promised_streamed_or_not() {
    let stand = Stand::start();
    for script in ["", "words=0", "input=1000;cached=600;output=70;reasoning=30", "chunks=3"] {
        for (ask, record) in all().iter().zip(records_of(&stand, &all(), script).await) {
            let promise = ask.promise(script);
            assert_eq!(record["provenance"], "reported", "{} {script}: {record:#}", ask.path);
            let count = |name: &str| record["tokens"][name].as_u64().unwrap_or(0);
            assert_eq!(count("input"), promise.input, "{} {script}: {record:#}", ask.path);
            assert_eq!(count("cache_read"), promise.cache_read, "{} {script}: {record:#}", ask.path);
            assert_eq!(count("output"), promise.output, "{} {script}: {record:#}", ask.path);
            assert_eq!(count("reasoning"), promise.reasoning, "{} {script}: {record:#}", ask.path);
            assert_eq!(record["model"], promise.model);
        }
    }
}

#[tokio::test]
async fn cached_tokens_are_told_apart_whichever_convention_they_come_in() {
    let stand = Stand::start();
    let asks = [asks::chat(), asks::chat_stream(), asks::responses(), asks::messages(), asks::messages_stream()];
    for record in records_of(&stand, &asks, "input=100;cached=60;cache_write=30;output=7").await {
        let counts = ["input", "cache_read", "cache_write", "output"].map(|kind| record["tokens"][kind].as_u64());
        assert_eq!(counts, [Some(10), Some(60), Some(30), Some(7)], "{record:#}");
        assert!(record.get("anomaly").is_none());
        assert!(record["usage_raw"].is_object(), "the evidence is kept");
    }
}

#[tokio::test]
async fn an_explicit_zero_is_a_count_and_an_absent_one_is_absent() {
    let stand = Stand::start();
    let asks = [asks::chat(), asks::chat_stream(), asks::responses_stream(), asks::messages(), asks::messages_stream()];
    for record in records_of(&stand, &asks, "input=0;output=0").await {
        assert_eq!(record["provenance"], "reported", "{record:#}");
        for kind in ["input", "cache_read", "output"] {
            assert_eq!(record["tokens"][kind], 0, "{record:#}");
        }
    }
    let answer =
        json!({"object": "chat.completion", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 0}});
    let record = record_of_canned(&stand, &answer).await;
    assert_eq!(record["tokens"], json!({"input": 5, "output": 0}));
}

/// The newest record, of a chat call that is answered with `answer`.
async fn record_of_canned(stand: &Stand, answer: &Value) -> Value {
    let before = stand.records().len();
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    let canned = Canned { status: 200, headers, chunks: vec![Bytes::from(answer.to_string())] };
    stand.fake.respond_to("canned", canned);
    let reply = stand.ask(&asks::chat()).header("x-fake-replay", "canned").send().await;
    assert_eq!(reply.text(), answer.to_string());
    stand.records_when(before + 1).remove(before)
}

#[tokio::test]
async fn a_provider_that_contradicts_itself_is_recorded_marked_and_counted() {
    let stand = Stand::start();
    let record = records_of(&stand, &[asks::chat()], "total=999").await.remove(0);
    assert_eq!((&record["anomaly"], &record["usage_raw"]["total_tokens"]), (&json!("total_differs"), &json!(999)));
    stand.metric_becomes("tokenmeter_anomalies_total", &[r#"anomaly="total_differs""#], 1.0).await;

    let record = records_of(&stand, &[asks::chat_stream()], "output=3;reasoning=9").await.remove(0);
    assert_eq!(record["anomaly"], "reasoning_exceeds_output", "{record:#}");

    let usage = json!({"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 50}});
    let record = record_of_canned(&stand, &json!({"choices": [], "usage": usage})).await;
    assert_eq!(record["anomaly"], "cached_exceeds_input");
    assert_eq!(record["tokens"]["cache_read"].as_u64().unwrap() + record["tokens"]["input"].as_u64().unwrap(), 10);
    stand.run(&["verify"]);
}

#[tokio::test]
async fn no_lie_of_a_provider_brings_anything_down() {
    let stand = Stand::start();
    let lies = [
        json!(-1),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!("many"),
        json!(null),
        json!([1]),
        json!({"tokens": 1}),
        json!(true),
    ];
    for lie in &lies {
        for name in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            let mut usage = json!({"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12});
            usage[name] = lie.clone();
            record_of_canned(&stand, &json!({"object": "chat.completion", "choices": [], "usage": usage})).await;
        }
        record_of_canned(&stand, &json!({"choices": lie, "usage": lie, "model": lie, "error": lie})).await;
    }
    let count = 4 * lies.len();
    let records = stand.records_when(count);
    for record in &records {
        for (kind, count) in record["tokens"].as_object().unwrap() {
            assert!(count.as_u64().is_some(), "{kind} of {record:#}");
        }
    }
    assert_eq!(stand.report(&[])["total"]["requests"], count as u64);
    stand.run(&["verify"]);
    assert!(!stand.log().contains("panicked"));
    assert!(stand.metric("tokenmeter_anomalies_total", &[r#"anomaly="count_invalid""#]).await > 0.0);
}
