//! A first call: made, counted, attributed, kept and shown.

use serde_json::json;

use crate::fake_upstream::promise;
use crate::stand::{CREDENTIAL, Stand};

#[tokio::test]
async fn a_call_is_counted_for_the_team_of_its_key_and_every_view_agrees() {
    let stand = Stand::start();
    let key = stand.key("support-bot").await;
    let path = "/openai/v1/chat/completions";
    let body = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "how are you today"}]});
    let truth = promise("/v1/chat/completions", body.to_string().as_bytes(), "");

    let reply = stand.call(path).header("authorization", &format!("Bearer {key}")).json(&body).send().await;
    assert_eq!(reply.status, 200);

    let received = stand.fake.requests();
    assert_eq!(received[0].header("authorization"), Some(format!("Bearer {CREDENTIAL}").as_str()));
    assert_eq!(received[0].target, "/v1/chat/completions");

    let record = stand.only_record();
    assert_eq!(record["id"], reply.record_id().as_str());
    assert_eq!(record["team"], "support-bot");
    assert_eq!(record["department"], "customer-service");
    assert_eq!(record["attributed_by"], "key");
    assert_eq!(record["provenance"], "reported");
    assert_eq!(record["tokens"]["input"], truth.input);
    assert_eq!(record["tokens"]["output"], truth.output);

    let report = stand.report(&[]);
    assert_eq!(report["rows"][0]["department"], "customer-service");
    assert_eq!(report["rows"][0]["team"], "support-bot");
    let total = &report["total"]["tokens"]["total"];
    assert_eq!(*total, truth.input + truth.cache_read + truth.cache_write + truth.output);
    let total = total.as_f64().unwrap();
    stand.metric_becomes("tokenmeter_tokens_total", &[r#"team="support-bot""#], total).await;
    stand.metric_becomes("tokenmeter_month_tokens", &[r#"department="customer-service""#], total).await;
}
