//! Disconnects: whoever leaves first, what was spent is recorded once, and never as nothing.

use serde_json::{Value, json};

use crate::asks::{self, Ask};
use crate::fake_upstream::Fate;
use crate::stand::{PAYERS, Stand, read_until, upstreams};

/// Begins `ask`, takes ten words of the answer, and hangs up while the upstream has more to say.
async fn hang_up_after_ten_words(stand: &Stand, ask: &Ask, gate: &str) {
    let ten = |text: &str| text.matches("word").count() >= 10;
    let script = format!("words=40;stall_after={};hold={gate}", 10 + events_before_text(ask));
    let mut answer = stand.ask(ask).fake(&script).begin().await;
    read_until(&mut answer, ten).await;
    drop(answer);
    stand.noticed_hang_up().await;
}

/// Events that an API's stream begins with before the first word.
fn events_before_text(ask: &Ask) -> usize {
    match ask.path {
        path if path.contains("chat") => 1,
        path if path.contains("responses") => 4,
        path if path.contains("messages") => 3,
        _ => 0,
    }
}

/// A stand whose upstreams have `line` in their tables.
fn stand_with(line: &str) -> Stand {
    Stand::with(|base| upstreams(base).replace("wire = ", &format!("{line}\nwire = ")) + PAYERS)
}

fn output(record: &Value) -> u64 {
    record["tokens"]["output"].as_u64().unwrap_or_else(|| panic!("no output: {record:#}"))
}

#[tokio::test]
async fn a_stream_whose_client_leaves_is_cancelled_and_charged_for_what_was_delivered() {
    let stand = Stand::start();
    let streams = asks::streams();
    for ask in &streams {
        stand.fake.forget();
        hang_up_after_ten_words(&stand, ask, "never").await;
        stand.fake.wait_for(|all| all.iter().any(|one| one.fate == Fate::ClientClosed)).await;
    }
    for record in stand.records_when(streams.len()) {
        assert_eq!(record["outcome"], "client_closed");
        let reports_early = record["wire"] != "openai";
        assert_eq!(record["provenance"], if reports_early { "partial" } else { "estimated" }, "{record:#}");
        assert!((9..=12).contains(&output(&record)), "{record:#}");
        let input = record["tokens"]["input"].as_u64().unwrap();
        assert!(if reports_early { input == 4 } else { (4..=12).contains(&input) }, "{record:#}");
        assert!(record["estimate"]["low"].as_u64() <= record["estimate"]["high"].as_u64());
    }
}

#[tokio::test]
async fn a_whole_answer_whose_client_leaves_is_finished_with_the_providers_numbers() {
    let stand = Stand::start();
    let asks = asks::whole();
    for (at, ask) in asks.iter().enumerate() {
        let (early, late) = (format!("early-{at}"), format!("late-{at}"));
        stand.fake.forget();
        let call = stand.ask(ask).fake(&format!("hold={early}")).send();
        tokio::select! {
            _ = call => panic!("the head is held back"),
            _ = stand.fake.wait_for(|all| all.iter().any(|one| one.stalled.is_some())) => {}
        }
        stand.noticed_hang_up().await;
        stand.fake.release(&early);

        let mut answer = stand.ask(ask).fake(&format!("chunks=30;stall_after=2;hold={late}")).begin().await;
        read_until(&mut answer, |text| !text.is_empty()).await;
        drop(answer);
        stand.noticed_hang_up().await;
        stand.fake.release(&late);
        stand.fake.wait_for(|all| all.iter().all(|one| one.fate == Fate::Answered)).await;
    }
    for record in stand.records_when(2 * asks.len()) {
        let labels = (&record["outcome"], &record["provenance"], &record["status"]);
        assert_eq!(labels, (&json!("client_closed"), &json!("reported"), &json!(200)));
        assert_eq!((&record["tokens"]["input"], &record["tokens"]["output"]), (&json!(4), &json!(5)));
    }
}

#[tokio::test]
async fn told_to_finish_a_stream_is_read_to_its_end_without_its_client() {
    let stand = stand_with(r#"on_client_close = "finish""#);
    let streams = asks::streams();
    for (at, ask) in streams.iter().enumerate() {
        let gate = format!("gate-{at}");
        hang_up_after_ten_words(&stand, ask, &gate).await;
        stand.fake.release(&gate);
    }
    for record in stand.records_when(streams.len()) {
        assert_eq!((&record["outcome"], &record["provenance"]), (&json!("client_closed"), &json!("reported")));
        assert_eq!(output(&record), 40);
    }
}

#[tokio::test]
async fn told_to_cancel_a_whole_answer_is_cancelled_and_its_prompt_counted() {
    let stand = stand_with(r#"on_client_close = "cancel""#);
    let asks = asks::whole();
    for ask in &asks {
        stand.fake.forget();
        let call = stand.ask(ask).fake("hold=never").send();
        tokio::select! {
            _ = call => panic!("the head is held back"),
            _ = stand.fake.wait_for(|all| all.iter().any(|one| one.stalled.is_some())) => {}
        }
        stand.fake.wait_for(|all| all.iter().all(|one| one.fate == Fate::ClientClosed)).await;
    }
    for record in stand.records_when(asks.len()) {
        assert_eq!((&record["outcome"], &record["provenance"]), (&json!("client_closed"), &json!("estimated")));
        assert!(record["tokens"]["input"].as_u64().unwrap() >= 4, "{record:#}");
    }
}

#[tokio::test]
async fn an_upstream_that_breaks_off_is_seen_to_break_off() {
    let stand = Stand::start();
    let streams = asks::streams();
    for ask in &streams {
        for script in ["words=40;cut_after=20", "words=40;cut_after=20;reset"] {
            let reply = stand.ask(ask).fake(script).send().await;
            assert!(!reply.is_whole, "{} {script}", ask.path);
            assert!(reply.text().contains("word"));
        }
    }
    let whole = stand.ask(&asks::chat()).fake("words=40;cut_after_bytes=100").send().await;
    assert!(!whole.is_whole);
    for record in stand.records_when(2 * streams.len() + 1) {
        assert_eq!(record["outcome"], "upstream_cut");
        assert_ne!(record["provenance"], "reported", "{record:#}");
        assert!(record["tokens"]["input"].as_u64().unwrap() >= 4);
        assert!(record["stream"] == false || output(&record) >= 10, "{record:#}");
    }
}

#[tokio::test]
async fn an_upstream_that_never_answers_a_call_leaves_it_unknown_and_the_client_a_502() {
    let stand = Stand::start();
    for script in ["cut", "reset"] {
        let reply = stand.ask(&asks::chat()).fake(script).send().await;
        assert_eq!(reply.status, 502);
        assert_eq!(reply.json()["error"]["code"], "upstream_cut");
    }
    for record in stand.records_when(2) {
        assert_eq!((&record["outcome"], &record["provenance"]), (&json!("upstream_cut"), &json!("unknown")));
        assert_eq!(record["tokens"], json!({}));
    }
    assert_eq!(stand.fake.requests().len(), 2, "nothing that may have cost is ever sent again");
}

#[tokio::test]
async fn error_answers_cost_nothing() {
    let stand = Stand::start();
    let asks: Vec<Ask> = asks::whole().into_iter().chain(asks::streams()).collect();
    for ask in &asks {
        for status in [400, 401, 404, 429, 500, 503] {
            let reply = stand.ask(ask).fake(&format!("status={status}")).send().await;
            assert_eq!(reply.status, status);
        }
    }
    for record in stand.records_when(6 * asks.len()) {
        assert_eq!((&record["outcome"], &record["provenance"]), (&json!("upstream_error"), &json!("none")));
        assert_eq!(record["tokens"], json!({}));
    }
    let report = stand.report(&[]);
    assert_eq!(report["total"]["tokens"]["total"], 0);
}

#[tokio::test]
async fn an_error_within_a_stream_is_no_output() {
    let stand = Stand::start();
    let [_, _, messages, generate, _] = asks::streams();
    for ask in [asks::chat_stream(), asks::responses_stream(), messages, generate] {
        let script = format!("words=40;error_after={}", 10 + events_before_text(&ask));
        stand.ask(&ask).fake(&script).send().await;
    }
    for record in stand.records_when(4) {
        assert_eq!(record["outcome"], "upstream_cut", "{record:#}");
        assert!((9..=12).contains(&output(&record)), "{record:#}");
    }
}

#[tokio::test]
async fn no_connection_is_a_502_in_the_providers_shape_that_costs_nothing() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let stand = Stand::with(|_| upstreams(&format!("http://{closed}")));
    let [openai, _, anthropic, gemini] = asks::whole();
    let openai = stand.ask(&openai).send().await;
    let anthropic = stand.ask(&anthropic).send().await;
    let gemini = stand.ask(&gemini).send().await;
    for reply in [&openai, &anthropic, &gemini] {
        assert_eq!(reply.status, 502);
        assert!(reply.text().contains("no connection to upstream"), "{}", reply.text());
    }
    assert_eq!(openai.json()["error"]["code"], "upstream_unreachable");
    assert_eq!(anthropic.json()["type"], "error");
    assert_eq!(gemini.json()["error"]["code"], 502);

    let records = stand.records_when(3);
    assert_eq!(records[0]["id"], openai.record_id().as_str());
    for record in records {
        assert_eq!((&record["outcome"], &record["provenance"]), (&json!("upstream_error"), &json!("none")));
        assert_eq!(record["tokens"], json!({}));
    }
}

#[tokio::test]
async fn an_answer_without_usage_is_counted_here_and_says_so() {
    let stand = Stand::start();
    let asks: Vec<Ask> = asks::whole().into_iter().chain(asks::streams()).collect();
    for ask in &asks {
        assert!(stand.ask(ask).fake("words=40;no_usage").send().await.is_whole);
    }
    for record in stand.records_when(asks.len()) {
        assert_eq!((&record["outcome"], &record["provenance"]), (&json!("completed"), &json!("estimated")));
        // Claude's tokens are smaller than anybody else's.
        let expected = if record["wire"] == "anthropic" { 44..=52 } else { 36..=44 };
        assert!(expected.contains(&output(&record)), "{record:#}");
        assert!((4..=12).contains(&record["tokens"]["input"].as_u64().unwrap()), "{record:#}");
        assert!(record.get("usage_raw").is_none(), "{record:#}");
    }
}

#[tokio::test]
async fn an_upstream_that_is_silent_too_long_is_given_up_with_a_504() {
    let stand = stand_with("head_timeout_secs = 1");
    let reply = stand.ask(&asks::chat()).fake("hold=never").send().await;
    assert_eq!(reply.status, 504);
    assert_eq!(reply.json()["error"]["code"], "upstream_timeout");
    let record = stand.only_record();
    assert_eq!((&record["outcome"], &record["provenance"]), (&json!("upstream_cut"), &json!("unknown")));
}

#[tokio::test]
async fn a_request_that_breaks_off_on_its_way_costs_nothing() {
    let stand = Stand::start();
    let mut socket = tokio::net::TcpStream::connect(stand.proxy().trim_start_matches("http://")).await.unwrap();
    let head = "POST /openai/v1/files HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nnot a thousand bytes";
    tokio::io::AsyncWriteExt::write_all(&mut socket, head.as_bytes()).await.unwrap();
    stand.fake.wait_for(|all| all.iter().any(|one| one.body_bytes == 20)).await;
    drop(socket);
    let record = stand.only_record();
    assert_eq!((&record["outcome"], &record["provenance"]), (&json!("client_closed"), &json!("none")));
}
