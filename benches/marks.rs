//! What it costs to note once a second what an open stream has brought: `cargo bench --bench marks`
//!
//! A mark covers fifty units, a second of a usual stream. `data path` is what the task that passes bytes on does for it,
//! `counting thread` what is done beside, the write to the journal included.

#![expect(clippy::unwrap_used, reason = "what fails here fails the bench")]
#![expect(clippy::indexing_slicing, reason = "so does what is not there")]
#![expect(clippy::print_stdout, reason = "a bench says what it measured")]

#[expect(dead_code, reason = "each bench uses what it needs")]
#[path = "../tests/support/calls.rs"]
mod calls;
#[expect(dead_code, reason = "each bench uses what it needs")]
#[path = "../tests/support/intents.rs"]
mod intents;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokenmeter::journal::Journal;
use tokenmeter::meter::{self, Meter, Moment};
use tokenmeter::metrics::{Limits, Metrics};
use tokenmeter::operation::Operation;
use tokenmeter::pricing::PriceBook;
use tokenmeter::wires::{self, Consumption};

const UNITS: usize = 50;
/// Marks of one call: as many seconds does it stream.
const MARKS: usize = 20;
const CALLS: u64 = 100;

/// A wire, and an event of its stream; `@` stands where the text is.
const KINDS: [(&str, Operation, &str); 3] = [
    (
        "openai",
        Operation::Chat,
        r#"{"id":"chatcmpl-BxQ1m0w8nVdT2","object":"chat.completion.chunk","created":1764000000,"model":"gpt-5-2025-08-07","service_tier":"default","system_fingerprint":null,"choices":[{"index":0,"delta":{"content":"@"},"finish_reason":null}],"usage":null,"obfuscation":"a8Zk2"}"#,
    ),
    (
        "anthropic",
        Operation::Chat,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"@"}}"#,
    ),
    (
        "gemini",
        Operation::GenerateContent,
        r#"{"candidates":[{"content":{"parts":[{"text":"@"}],"role":"model"},"index":0}],"usageMetadata":{"promptTokenCount":812,"candidatesTokenCount":40,"totalTokenCount":852},"modelVersion":"gemini-2.5-flash","responseId":"a8Zk2"}"#,
    ),
];

const WORDS: [&str; 8] = [" The", " meter", " counts", " every", " token", " that", " passes", "."];

fn main() {
    for (wire, operation, event) in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(calls::settings(folder.path()));
        let metrics = Arc::new(Metrics::new(Limits::default()));
        let meter = Meter::start(
            Arc::new(journal.unwrap().journal),
            Arc::new(PriceBook::bundled()),
            metrics,
            &meter::Settings::default(),
        )
        .unwrap();
        let wire = wires::by_name(wire).unwrap();
        let units: Vec<String> = WORDS.iter().map(|word| event.replace('@', word)).collect();
        let mut times = Vec::new();
        // The first call has the tokenizer's tables loaded, and is left out.
        let mut ticks = 0;
        for number in 0..=CALLS {
            let intent = intents::intent(&calls::record(number, CALLS));
            let (mut call, _) = meter.open(Moment::now(), intent, wire, Consumption::Now).unwrap();
            let mut observer = wire.observer(operation, wire.name());
            call.answered(200);
            call.first_byte();
            for mark in 0..MARKS {
                (0..UNITS).for_each(|unit| observer.unit(units[(mark * UNITS + unit * 7) % units.len()].as_bytes()));
                let begun = Instant::now();
                call.mark(&mut *observer);
                times.push(begun.elapsed());
                // Nothing queues: what is measured is a mark that is taken.
                std::thread::sleep(Duration::from_millis(1));
            }
            if number == 0 {
                std::thread::sleep(Duration::from_secs(1));
                times.clear();
                ticks = ticks_of("counting");
            }
        }
        times.sort_unstable();
        let counting = 10_000 * (ticks_of("counting") - ticks) / u64::try_from(times.len()).unwrap();
        println!(
            "{:<10} data path {:>6} ns a mark (median; one in a hundred {} ns), counting thread {counting} µs",
            wire.name(),
            times[times.len() / 2].as_nanos(),
            times[times.len() * 99 / 100].as_nanos(),
        );
    }
}

/// Hundredths of a second that the threads of that name have run.
fn ticks_of(name: &str) -> u64 {
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let threads = std::fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap().path());
    let of_name = threads.filter(|thread| read(thread.join("comm")).trim() == name);
    // Behind the name in brackets: user time is the 12th field, system time the 13th.
    let ticks = of_name.map(|thread| {
        let stat = read(thread.join("stat"));
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    });
    ticks.sum()
}
