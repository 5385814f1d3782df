//! Nothing is done that need not be: text is counted only where usage is missing, at the end or, of a stream that takes longer
//! than a second, so far; and never by who serves calls.

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
    while ticks_of(&stand, "learning") == 0 {
        calls(1).await;
    }
    calls(200).await;
    let before = ticks_of(&stand, "learning");
    calls(600).await;
    let taken = ticks_of(&stand, "learning") - before;
    assert!(taken <= 3, "600 calls that taught nothing new took {taken} hundredths of a second");
    assert_eq!(ticks_of(&stand, "counting"), 0, "every provider reported: there was nothing to count");
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
