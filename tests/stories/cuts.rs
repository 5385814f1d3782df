//! Cuts: every wire's stream, broken off after any of its pieces by either side, is charged for what was delivered, or
//! for what its provider reports; once.

use std::collections::HashMap;
use std::ops::Range;

use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokenmeter::operation::Operation;
use tokenmeter::tokenizer::Tokenizers;
use tokenmeter::tokenizer::completions::{Answered, measure_completion};
use tokenmeter::wires::Countable;

use crate::fake_upstream::Canned;
use crate::stand::Stand;
use crate::streams::{self, Stream};

/// A call that broke off after so many pieces of its answer.
struct Broken<'a> {
    stream: &'a Stream,
    pieces: usize,
    record: String,
}

impl Broken<'_> {
    /// What the text that the client got counts as.
    fn delivered(&self) -> u64 {
        let delivered = Countable { text: self.stream.text(self.pieces), ..Countable::default() };
        let model = self.stream.model;
        let answered = Answered { operation: Operation::Chat, is_whole: false };
        measure_completion(&delivered, answered, &Tokenizers::default().counter("any", model)).tokens
    }

    fn has_ended(&self) -> bool {
        self.stream.ends_after.is_some_and(|ends_after| self.pieces >= ends_after)
    }

    /// Its one record of those of `records`.
    fn record<'a>(&self, records: &'a HashMap<String, Value>) -> &'a Value {
        records.get(&self.record).unwrap_or_else(|| panic!("no record of {}", self.name()))
    }

    fn name(&self) -> String {
        format!("{}{} after {} pieces of {}", self.stream.wire, self.stream.path, self.pieces, self.stream.pieces.len())
    }

    /// The output is the provider's where it told it, else within 5 % or three tokens of what was delivered.
    fn assert_is_charged(&self, record: &Value) {
        let output = record["tokens"]["output"].as_u64().unwrap_or(0);
        if self.pieces >= self.stream.told_after {
            assert_eq!(output, self.stream.reported, "{}: {record:#}", self.name());
            assert_ne!(record["provenance"], "estimated", "{}: {record:#}", self.name());
        } else {
            assert_is_near(output, self.delivered(), &self.name(), record);
            assert_ne!(record["provenance"], "reported", "{}: {record:#}", self.name());
        }
        let is_nothing = self.stream.text(self.pieces).is_empty();
        assert!(output > 0 || is_nothing, "{}: {record:#}", self.name());
        assert!(record["tokens"]["input"].as_u64() > Some(0), "{}: {record:#}", self.name());
    }
}

fn assert_is_near(ours: u64, expected: u64, name: &str, record: &Value) {
    assert!(ours.abs_diff(expected) <= 3.max(expected / 20), "{name}: {ours}, not {expected}: {record:#}");
}

/// A stand with an upstream a wire, named like it.
fn stand_with(streams: &[Stream], line: &str) -> Stand {
    let mut wires: Vec<&str> = streams.iter().map(|stream| stream.wire).collect();
    wires.sort_unstable();
    wires.dedup();
    let stand = Stand::with(|base| {
        let upstream = |wire: &&str| {
            format!(
                "[[upstream]]\nname = \"{wire}\"\nwire = \"{wire}\"\nprovider = \"{wire}\"\nbase_url = \"{base}\"\n{line}\n"
            )
        };
        wires.iter().map(upstream).collect()
    });
    for (at, stream) in streams.iter().enumerate() {
        let headers = vec![("content-type".to_owned(), stream.content_type.to_owned())];
        let chunks = stream.pieces.iter().map(|piece| piece.bytes.clone()).collect();
        stand.fake.respond_to(&format!("stream-{at}"), Canned { status: 200, headers, chunks });
    }
    stand
}

/// Asks for a stream once for each of `places`, under the script that `script` makes of a place, all at a time, and
/// reads up to that place; what is left of the answers, and the calls.
async fn read_to<'a>(
    stand: &Stand,
    (at, stream): (usize, &'a Stream),
    places: Range<usize>,
    script: impl Fn(usize) -> String,
) -> (Vec<http::Response<Incoming>>, Vec<Broken<'a>>) {
    let reading = places.map(|pieces| {
        let call = stand.call(&format!("/{}{}", stream.wire, stream.path)).json(&stream.body);
        let call = call.header("x-fake-replay", &format!("stream-{at}")).fake(&script(pieces));
        async move {
            let mut answer = call.begin().await;
            let record = answer.headers()["x-tokenmeter-record"].to_str().unwrap().to_owned();
            let mut came = 0;
            while came < stream.length(pieces) {
                let Some(Ok(frame)) = answer.body_mut().frame().await else { break };
                came += frame.data_ref().map_or(0, bytes::Bytes::len);
            }
            let call = Broken { stream, pieces, record };
            assert!(came >= stream.length(pieces), "{} does not come", call.name());
            (answer, call)
        }
    });
    join_all(reading).await.into_iter().unzip()
}

/// Every record, by its id, once the server has settled all and is gone: no call has two.
fn records_of(stand: &mut Stand, calls: usize) -> HashMap<String, Value> {
    stand.records_when(calls);
    stand.terminate();
    stand.wait();
    let records = stand.records();
    assert_eq!(records.len(), calls, "{records:#?}");
    records.into_iter().map(|record| (record["id"].as_str().unwrap().to_owned(), record)).collect()
}

#[tokio::test]
async fn a_client_that_hangs_up_anywhere_is_charged_for_what_it_got() {
    let streams = streams::all();
    let mut stand = stand_with(&streams, "");
    let mut broken = Vec::new();
    for stream in streams.iter().enumerate() {
        let script = |pieces| format!("stall_after={pieces};hold=never");
        let (answers, calls) = read_to(&stand, stream, 0..stream.1.pieces.len(), script).await;
        drop(answers);
        broken.extend(calls);
    }
    stand.noticed_hang_up().await;
    let records = records_of(&mut stand, broken.len());
    for call in &broken {
        let record = call.record(&records);
        call.assert_is_charged(record);
        let outcome = if call.has_ended() { "completed" } else { "client_closed" };
        assert_eq!(record["outcome"], outcome, "{}: {record:#}", call.name());
        assert!(record.get("delivered_output").is_none(), "{}: {record:#}", call.name());
    }
}

#[tokio::test]
async fn an_upstream_that_resets_anywhere_is_paid_for_what_it_delivered() {
    let streams = streams::all();
    let mut stand = stand_with(&streams, "");
    let mut broken = Vec::new();
    for stream in streams.iter().enumerate() {
        let gate = format!("gate-{}", stream.0);
        let script = |pieces| format!("stall_after={pieces};hold={gate};cut_after={pieces};reset");
        let (answers, calls) = read_to(&stand, stream, 1..stream.1.pieces.len(), script).await;
        // By now all that was sent has come: what a reset finds on its way is lost.
        stand.fake.release(&gate);
        for answer in answers {
            // It breaks off here too, unless it had ended.
            drop(answer.into_body().collect().await);
        }
        broken.extend(calls);
    }
    let records = records_of(&mut stand, broken.len());
    for call in &broken {
        let record = call.record(&records);
        call.assert_is_charged(record);
        let outcome = if call.has_ended() { "completed" } else { "upstream_cut" };
        assert_eq!(record["outcome"], outcome, "{}: {record:#}", call.name());
    }
}

#[tokio::test]
async fn a_stream_that_is_finished_without_its_client_tells_what_was_billed_and_what_was_delivered() {
    let streams = streams::all();
    let mut stand = stand_with(&streams, "on_client_close = \"finish\"");
    let mut broken = Vec::new();
    for stream in streams.iter().enumerate() {
        let gate = format!("gate-{}", stream.0);
        let script = |pieces| format!("stall_after={pieces};hold={gate}");
        let (answers, calls) = read_to(&stand, stream, 0..stream.1.pieces.len(), script).await;
        drop(answers);
        stand.noticed_hang_up().await;
        stand.fake.release(&gate);
        broken.extend(calls);
    }
    let records = records_of(&mut stand, broken.len());
    for call in &broken {
        let record = call.record(&records);
        let name = call.name();
        let facts = (&record["outcome"], &record["provenance"], &record["tokens"]["output"]);
        let outcome = if call.has_ended() { "completed" } else { "client_closed" };
        assert_eq!(facts, (&json!(outcome), &json!("reported"), &json!(call.stream.reported)), "{name}: {record:#}");
        let whole = call.stream.text(call.stream.pieces.len());
        let delivered = record["delivered_output"].as_u64();
        if call.stream.text(call.pieces) == whole {
            assert_eq!(delivered, None, "{name}: {record:#}");
        } else {
            assert_is_near(delivered.unwrap_or(call.stream.reported), call.delivered(), &name, record);
            assert!(delivered.is_some() || call.delivered() >= call.stream.reported, "{name}: {record:#}");
            assert_eq!(delivered == Some(0), call.stream.text(call.pieces).is_empty(), "{name}: {record:#}");
        }
    }
}
