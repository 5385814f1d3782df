//! Nothing is done that need not be: text is counted only where usage is missing, at the end, and never by who serves calls.

use std::time::Instant;

use serde_json::Value;

use crate::asks;
use crate::stand::{PAYERS, Stand, upstreams};

/// Clock ticks that the server's thread called `name` has run.
fn ticks_of(stand: &Stand, name: &str) -> u64 {
    let threads =
        std::fs::read_dir(format!("/proc/{}/task", stand.pid())).unwrap().map(|thread| thread.unwrap().path());
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
    let thread = threads.into_iter().find(|thread| read(thread.join("comm")).trim() == name).unwrap();
    // Behind the name in brackets: user time is the 12th field, system time the 13th.
    let stat = read(thread.join("stat"));
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test]
async fn learning_takes_next_to_nothing_once_something_was_learned() {
    let stand = Stand::start();
    let calls = async |count: usize| {
        for _ in 0..count {
            assert!(stand.ask(&asks::chat()).send().await.is_whole);
        }
    };
    // The first lesson makes the tables, and calls that come meanwhile are let go.
    let mut asked = 0;
    loop {
        calls(1).await;
        stand.ask(&asks::chat()).fake("no_usage").send().await;
        asked += 2;
        let has_learned = |record: &Value| record["estimate"]["observations"].as_u64() > Some(0);
        if stand.records_when(asked).iter().any(has_learned) {
            break;
        }
    }
    calls(200).await;
    let (before, begun) = (ticks_of(&stand, "learning"), Instant::now());
    let counted = ticks_of(&stand, "counting");
    calls(600).await;
    let (taken, passed) = (ticks_of(&stand, "learning") - before, begun.elapsed());
    // Half a per cent of the time that passes is meant, however slow the machine: twice that, and a lesson under way.
    let most = 3 + u64::try_from(passed.as_millis()).unwrap() / 1_000;
    assert!(taken <= most, "600 calls in {passed:.1?} took {taken} hundredths of a second, {most} at most");
    assert_eq!(ticks_of(&stand, "counting"), counted, "every provider reported: there was nothing to count");
}

#[tokio::test]
async fn text_is_counted_only_where_usage_is_missing_and_on_a_thread_of_its_own() {
    let stand = Stand::with(|base| format!("[counting]\nlearn = false\n{}{PAYERS}", upstreams(base)));
    let streams = asks::streams();
    for ask in &streams {
        assert!(stand.ask(ask).fake("words=200").send().await.is_whole);
    }
    assert!(stand.records_when(streams.len()).iter().all(|record| record["provenance"] == "reported"));
    assert_eq!(ticks_of(&stand, "counting"), 0, "every provider reported: there was nothing to count");

    stand.ask(&asks::messages_stream()).fake("words=200;no_usage").send().await;
    assert_eq!(stand.records_when(streams.len() + 1)[streams.len()]["provenance"], "estimated");
    assert!(ticks_of(&stand, "counting") > 0, "counting loads its tables first, which takes many ticks");
}
