//! Clients that never read, and five hundred at once of which none may see another's words.

use serde_json::json;
use tokio::task::JoinSet;

use crate::asks;
use crate::memory::memory;
use crate::stand::{PATIENCE, PAYERS, Stand, http_with_pool, read, upstreams};

const IDLERS: usize = 100;
/// What a client that does not read may make the server hold, its two connections included.
const KIB_AN_IDLER_MAX: u64 = 640;
const CALLS: usize = 500;

/// A stand whose upstreams speak HTTP of `version`.
fn stand_with(version: &str) -> Stand {
    let http_version = format!("http_version = \"{version}\"\nwire = ");
    Stand::with(|base| upstreams(base).replace("wire = ", &http_version) + PAYERS)
}

#[tokio::test]
async fn clients_that_never_read_hold_up_nobody_and_little_memory() {
    for version in ["1.1", "2"] {
        let stand = stand_with(version);
        let ask = asks::chat_stream_with_usage();
        // Counted here: the tokenizer's tables, which every stream of more than a second needs, are not the idlers'.
        let bare = memory(stand.pid(), "VmRSS:");
        stand.ask(&ask).fake("bytes=10000000;no_usage").send().await;
        stand.records_when(1);
        let before = memory(stand.pid(), "VmRSS:");
        let mut idlers = Vec::new();
        for _ in 0..IDLERS {
            idlers.push(stand.ask(&ask).fake("bytes=100000000").begin().await);
        }
        // The upstream sends until nobody takes any more.
        let sent = || stand.fake.requests().iter().skip(1).take(IDLERS).map(|request| request.sent_bytes).sum::<u64>();
        let mut so_far = 0;
        while so_far < sent() {
            so_far = sent();
            let begun = std::time::Instant::now();
            assert!(stand.ask(&asks::chat()).send().await.is_whole);
            assert!(begun.elapsed() < PATIENCE / 4, "another call waits for them");
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
        let an_idler = memory(stand.pid(), "VmRSS:").saturating_sub(before) / IDLERS as u64;
        eprintln!(
            "{IDLERS} clients over HTTP/{version} that do not read: {an_idler} KiB each, {so_far} bytes under way; the server {bare}, then {before} KiB"
        );
        assert!(an_idler < KIB_AN_IDLER_MAX, "a client that does not read takes {an_idler} KiB");
        drop(idlers);
        stand.metric_becomes("tokenmeter_inflight_requests", &[], 0.0).await;
        assert_eq!(stand.ask(&ask).send().await.status, 200);
    }
}

#[tokio::test]
async fn five_hundred_at_once_each_get_their_own_words_and_their_own_counts() {
    for version in ["1.1", "2"] {
        let stand = stand_with(version);
        let pooled = http_with_pool();
        let mut calls = JoinSet::new();
        for number in 0..CALLS {
            // As many words as its number, of which each is its own.
            let nonce = format!("nonce-{number} ").repeat(number % 90 + 1);
            let body = json!({"model": "gpt-4o-mini", "stream": number % 2 == 0, "messages": [{"role": "user", "content": nonce.trim()}]});
            let call = stand.call("/openai/v1/chat/completions").fake("chunks=40;delay_ms=1").json(&body);
            let pooled = pooled.clone();
            calls.spawn(async move {
                let answer = match version {
                    "2" => call.begin_http2().await,
                    _ => pooled.request(call.request()).await.unwrap(),
                };
                (number, read(answer).await)
            });
        }
        let replies = calls.join_all().await;
        let records = stand.records_when(CALLS);
        for (number, reply) in replies {
            let text = reply.text();
            let nonces: Vec<&str> = text.split("nonce-").skip(1).collect();
            assert_eq!(nonces.len(), number % 90 + 1, "{number}: {text}");
            let own = number.to_string();
            let is_own = |rest: &&&str| rest.chars().take_while(char::is_ascii_digit).eq(own.chars());
            assert_eq!(nonces.iter().filter(is_own).count(), nonces.len(), "{number} sees another's words: {text}");
            let record = records.iter().find(|record| record["id"] == reply.record_id().as_str()).unwrap();
            let words = number as u64 % 90 + 1;
            assert_eq!(record["tokens"]["input"], words, "{number}: {record:#}");
            assert_eq!(record["tokens"]["output"], words + 1, "{number}: {record:#}");
            assert_eq!(record["provenance"], "reported");
        }
    }
}
