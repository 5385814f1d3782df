//! Many at once: nobody waits for somebody else's stream.

use serde_json::json;
use tokio::task::JoinSet;

use crate::asks;
use crate::memory::memory;
use crate::stand::{Stand, read};

const STREAMS: u32 = 300;
/// What one stream may hold, its two connections included.
const KIB_A_STREAM_MAX: u64 = 100;

#[tokio::test]
async fn three_hundred_slow_streams_go_on_at_once_and_each_has_its_record() {
    let stand = Stand::start();
    // Counted here: the tokenizer's tables, which every stream of more than a second needs, are not the streams'.
    assert_eq!(stand.ask(&asks::chat_stream()).fake("no_usage").send().await.status, 200);
    stand.records_when(1);
    let before = memory(stand.pid(), "VmRSS:");
    let mut streams = JoinSet::new();
    for number in 0..STREAMS {
        let body = json!({"model": "gpt-4o-mini", "stream": true, "messages": []});
        // Every stream stops in its middle until all are there, then goes on slowly.
        let script = format!("words={};stall_after=2;hold=all;delay_ms=20", number + 1);
        let call = stand.call("/openai/v1/chat/completions").fake(&script).json(&body);
        streams.spawn(async move { (number, read(call.begin().await).await) });
    }
    let all_stall = |received: &[crate::fake_upstream::Received]| {
        received.iter().filter(|received| received.stalled.is_some()).count() == STREAMS as usize
    };
    tokio::time::timeout(crate::stand::PATIENCE, stand.fake.wait_for(all_stall)).await.expect("all are under way");
    stand.metric_becomes("tokenmeter_inflight_requests", &[], f64::from(STREAMS)).await;
    let a_stream = memory(stand.pid(), "VmRSS:").saturating_sub(before) / u64::from(STREAMS);
    eprintln!("{STREAMS} streams under way take {a_stream} KiB each");
    assert!(a_stream < KIB_A_STREAM_MAX, "a stream takes {a_stream} KiB");
    stand.fake.release("all");
    let replies = streams.join_all().await;
    let records = stand.records_when(STREAMS as usize + 1);
    for (number, reply) in replies {
        assert!(reply.is_whole && reply.text().ends_with("data: [DONE]\n\n"), "{number}: {}", reply.text());
        let record = records.iter().find(|record| record["id"] == reply.record_id().as_str()).unwrap();
        assert_eq!(record["tokens"]["output"], number + 1, "{record}");
        assert_eq!((&record["outcome"], &record["provenance"]), (&"completed".into(), &"reported".into()));
    }
    stand.metric_becomes("tokenmeter_inflight_requests", &[], 0.0).await;
}
