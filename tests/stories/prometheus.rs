//! A real Prometheus, set up by the configuration that we ship, scrapes the tokens that were spent.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::fake_upstream::promise;
use crate::machine::tool;
use crate::stand::{PATIENCE, Stand, http, read};

#[tokio::test]
async fn prometheus_scrapes_the_tokens_that_were_spent() {
    let Some(program) = tool("PROMETHEUS") else { return };
    let stand = Stand::start();
    let key = stand.key("support-bot").await;
    let body = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "one two three four"}]});
    let truth = promise("/v1/chat/completions", body.to_string().as_bytes(), "cached=1");
    for _ in 0..3 {
        let bearer = format!("Bearer {key}");
        let call = stand.call("/openai/v1/chat/completions").header("authorization", &bearer).fake("cached=1");
        assert_eq!(call.json(&body).send().await.status, 200);
    }

    let prometheus = Prometheus::start(&program, &stand);
    let spent = 3 * (truth.prompt() + truth.output);
    prometheus
        .becomes(r#"sum(tokenmeter_tokens_total{department="customer-service",team="support-bot"})"#, spent)
        .await;
    prometheus.becomes(r#"sum(tokenmeter_tokens_total{kind="output",provenance="reported"})"#, 3 * truth.output).await;
    prometheus.becomes(r#"tokenmeter_month_tokens{team="support-bot",kind="cache_read"}"#, 3).await;
    prometheus.becomes(r#"sum(tokenmeter_requests_total{outcome="completed",code="200"})"#, 3).await;
    prometheus.becomes(r#"up{job="tokenmeter"}"#, 1).await;
}

/// A running Prometheus.
struct Prometheus {
    child: Child,
    address: String,
}

impl Prometheus {
    /// One that scrapes the stand's admin every second, and else does as `deploy/prometheus/scrape.yml` says.
    fn start(program: &PathBuf, stand: &Stand) -> Self {
        let shipped = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
        let config = std::fs::read_to_string(shipped.join("scrape.yml")).unwrap();
        let admin = stand.admin().trim_start_matches("http://");
        let ours = config.replace("127.0.0.1:8081", admin).replace("_interval: 15s", "_interval: 1s");
        assert!(ours.contains(admin) && ours.contains("scrape_interval: 1s"), "{ours}");
        std::fs::write(stand.path().join("prometheus.yml"), ours).unwrap();
        std::fs::copy(shipped.join("alerts.yml"), stand.path().join("alerts.yml")).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let child = Command::new(program)
            .arg(format!("--config.file={}", stand.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", stand.path().join("prometheus").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(stand.path().join("prometheus.log")).unwrap())
            .spawn()
            .unwrap();
        Self { child, address }
    }

    /// Waits until a query's only sample is `value`.
    async fn becomes(&self, query: &str, value: u64) {
        let begun = Instant::now();
        loop {
            let answer = self.ask(query).await;
            let sample = answer.as_ref().and_then(|answer| answer.pointer("/data/result/0/value/1")?.as_str());
            if sample == Some(value.to_string().as_str()) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{query} is not {value}: {answer:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn ask(&self, query: &str) -> Option<Value> {
        let query = percent_encoding::utf8_percent_encode(query, percent_encoding::NON_ALPHANUMERIC);
        let request = Request::get(format!("http://{}/api/v1/query?query={query}", self.address));
        let response = http().request(request.body(Full::default()).unwrap()).await.ok()?;
        serde_json::from_slice(&read(response).await.body).ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
