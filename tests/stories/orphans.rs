//! A call that a kill cut off is charged for what had been delivered, as far as a mark a second tells.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinSet;

use crate::asks::{self, Ask};
use crate::stand::{PATIENCE, Stand, read_until};

/// How old the last mark may be: a second, and as much again for a busy machine to write it down.
const MARKS_LAG_MAX: Duration = Duration::from_secs(2);

/// The last mark of the call `record` that the journal holds.
fn last_mark(stand: &Stand, record: &str) -> Option<Value> {
    let mark = format!("{{\"id\":\"{record}\",\"at\":");
    let mut files: Vec<_> =
        std::fs::read_dir(stand.data().join("journal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let segments = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "journal"));
    let journal: Vec<u8> = segments.flat_map(|path| std::fs::read(path).unwrap()).collect();
    let at = memchr::memmem::rfind(&journal, mark.as_bytes())?;
    // Half of it may be written by now.
    serde_json::Deserializer::from_slice(&journal[at..]).into_iter().next()?.ok()
}

/// Waits until a mark of `record` says at least `output` tokens.
async fn marked(stand: &Stand, record: &str, output: u64) {
    let begun = Instant::now();
    loop {
        let mark = last_mark(stand, record).unwrap_or_default();
        let known = mark["tokens"]["output"].as_u64().or(mark["delivered_tokens"].as_u64());
        if known.is_some_and(|known| known >= output) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "no mark says {output}, the last {mark}\n{}", stand.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The one record there is, of a call whose process died; `delivered` words reached the client.
fn assert_is_orphan(record: &Value, ask: &Ask, delivered: std::ops::RangeInclusive<u64>) {
    assert_eq!(record["outcome"], "orphaned", "{record:#}");
    let (input, output) = (&record["tokens"]["input"], record["tokens"]["output"].as_u64().unwrap_or(0));
    assert!(delivered.contains(&output), "{delivered:?} were delivered: {record:#}");
    let reports_early = record["wire"] != "openai";
    assert_eq!(record["provenance"], if reports_early { "partial" } else { "estimated" }, "{record:#}");
    let is_exact = *input == ask.promise("").input;
    assert!(if reports_early { is_exact } else { input.as_u64() > Some(0) }, "{record:#}");
    let (low, high) = (record["estimate"]["low"].as_u64().unwrap(), record["estimate"]["high"].as_u64().unwrap());
    let total = input.as_u64().unwrap() + output;
    assert!(low <= total && total <= high, "{record:#}");
    assert_eq!((&record["status"], &record["model"]), (&200.into(), &ask.promise("").model.into()), "{record:#}");
    assert!(record["cost_nanousd"].as_u64() > Some(0), "{record:#}");
}

#[tokio::test]
async fn a_kill_charges_streams_that_had_stalled_for_all_that_came() {
    let mut stand = Stand::start();
    let streams = asks::streams();
    let mut answers = Vec::new();
    for ask in &streams {
        let mut answer = stand.ask(ask).fake("words=40;stall_after=14;hold=never").begin().await;
        let words = read_until(&mut answer, |text| text.matches("word").count() >= 10).await.matches("word").count();
        let record = answer.headers()["x-tokenmeter-record"].to_str().unwrap().to_owned();
        answers.push((record, u64::try_from(words).unwrap(), answer));
    }
    for (record, words, _) in &answers {
        marked(&stand, record, words - 1).await;
    }
    stand.kill();
    stand.serve();
    let records = stand.records_when(streams.len());
    for (ask, (id, words, _)) in streams.iter().zip(&answers) {
        let record = records.iter().find(|record| record["id"] == id.as_str()).unwrap();
        assert_is_orphan(record, ask, words - 1..=18);
    }
    stand.run(&["verify"]);
}

#[tokio::test]
async fn a_kill_in_a_slow_stream_charges_all_but_its_last_second() {
    let mut stand = Stand::start();
    let streams = [asks::chat_stream(), asks::messages_stream(), asks::generate_stream()];
    let mut answers = Vec::new();
    for ask in &streams {
        answers.push((ask, stand.ask(ask).fake("words=400;delay_ms=25").begin().await));
    }
    let ids: Vec<String> = answers
        .iter()
        .map(|(_, answer)| answer.headers()["x-tokenmeter-record"].to_str().unwrap().to_owned())
        .collect();
    let mut readers = JoinSet::new();
    for (at, (_, answer)) in answers.into_iter().enumerate() {
        readers.spawn(async move { (at, arrivals(answer).await) });
    }
    for id in &ids {
        marked(&stand, id, 40).await;
    }
    let killed = Instant::now();
    stand.kill();
    stand.serve();
    let records = stand.records_when(streams.len());
    for (at, arrivals) in readers.join_all().await {
        let (ask, id) = (&streams[at], &ids[at]);
        let record = records.iter().find(|record| record["id"] == id.as_str()).unwrap();
        let covered = arrivals.iter().filter(|at| **at + MARKS_LAG_MAX <= killed).count();
        let (covered, all) = (u64::try_from(covered).unwrap(), u64::try_from(arrivals.len()).unwrap());
        // Measured by length, a word is a token give or take a third; one may have been on its way.
        assert_is_orphan(record, ask, covered * 65 / 100..=(all + 1) * 135 / 100);
    }
}

/// When each word of an answer arrived, as far as it came.
async fn arrivals(answer: http::Response<hyper::body::Incoming>) -> Vec<Instant> {
    use http_body_util::BodyExt as _;
    let (mut body, mut arrivals) = (answer.into_body(), Vec::new());
    while let Some(Ok(frame)) = body.frame().await {
        let words = frame.data_ref().map_or(0, |data| memchr::memmem::find_iter(data, "word").count());
        arrivals.extend(std::iter::repeat_n(Instant::now(), words));
    }
    arrivals
}

#[tokio::test]
async fn a_stream_that_is_killed_within_its_first_second_is_charged_for_its_prompt() {
    let mut stand = Stand::start();
    // On a machine so busy that a second passed, another one tries.
    let record = loop {
        let begun = Instant::now();
        let mut answer = stand.ask(&asks::chat_stream()).fake("words=40;stall_after=10;hold=never").begin().await;
        read_until(&mut answer, |text| text.matches("word").count() >= 5).await;
        let record = answer.headers()["x-tokenmeter-record"].to_str().unwrap().to_owned();
        stand.kill();
        let is_quick = begun.elapsed() < Duration::from_secs(1);
        stand.serve();
        if is_quick {
            break record;
        }
    };
    let records = stand.records();
    let record = records.iter().find(|known| known["id"] == record.as_str()).unwrap();
    assert_eq!((&record["outcome"], &record["provenance"]), (&"orphaned".into(), &"estimated".into()), "{record:#}");
    assert!(record["tokens"]["input"].as_u64() > Some(0) && record["tokens"].get("output").is_none(), "{record:#}");
}
