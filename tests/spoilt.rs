//! Spoilt answers: whatever becomes of an answer's bytes, no wire panics, none depends on where the bytes are cut, and
//! what it reads is a count that a ledger can hold. `fuzz/` looks further in the same direction.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::{Index, select};
use tokenmeter::framing::Framer;
use tokenmeter::operation::Operation;
use tokenmeter::wires::{self, Wire};

/// No count is larger, nor any sum of counts.
const COUNT_MAX: u64 = 1 << 50;

/// What is put into an answer, or in place of some of it.
const SPOILERS: [&str; 24] = [
    "",
    "\n",
    "\r\n\r\n",
    "data: ",
    "\"",
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "-1",
    "1.5",
    "1e300",
    "1099511627775",
    "18446744073709551616",
    "\"usage\":{}",
    "\"usage\":{\"prompt_tokens\":3,\"input_tokens\":4}",
    "{\"error\":{\"message\":\"m\"}}",
    "data: [DONE]\n\n",
    "\u{FEFF}",
    "\u{0}",
];

fn fixtures() -> Vec<PathBuf> {
    let folders = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")).unwrap();
    let mut files: Vec<PathBuf> = folders
        .map(|folder| folder.unwrap().path())
        .filter(|folder| folder.is_dir())
        .flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()))
        .filter(|file| file.is_file())
        .collect();
    files.sort();
    files
}

/// All that is read of an answer cut into `pieces`.
fn read(wire: &'static dyn Wire, operation: Operation, content_type: &str, pieces: &[&[u8]]) -> String {
    let mut observer = wire.observer(operation, "");
    let mut framer = Framer::new(Some(content_type.as_bytes()), None, wire.members());
    for piece in pieces {
        framer.feed(piece, &mut |unit| observer.unit(unit));
    }
    framer.end(&mut |unit| observer.unit(unit));
    let reading = observer.reading();
    let tokens = &reading.tokens;
    for count in [tokens.input, tokens.cache_read, tokens.cache_write, tokens.output, tokens.reasoning]
        .into_iter()
        .flatten()
        .chain(reading.units.values().copied())
    {
        assert!(count < COUNT_MAX, "{reading:?}");
    }
    format!("{reading:?} {:?} {}", observer.delivered(), observer.is_terminal())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_spoilt_answer_is_read_alike_however_it_is_cut(
        (file, is_its_own) in (select(fixtures()), any::<bool>()),
        (wire, operation) in (any::<Index>(), select(&Operation::ALL[..])),
        edits in prop::collection::vec((any::<Index>(), 0_usize..20, select(&SPOILERS[..])), 0..6),
        cuts in prop::collection::vec(any::<Index>(), 0..12),
        content_type in select(vec!["text/event-stream", "application/json", "application/x-ndjson"]),
    ) {
        let mut answer = std::fs::read(&file).unwrap();
        for (at, gone, spoiler) in edits {
            let at = at.index(answer.len() + 1);
            let end = answer.len().min(at + gone);
            drop(answer.splice(at..end, spoiler.bytes()));
        }
        // Its own wire more often than not: the others know nothing of it.
        let own = file.parent().and_then(|folder| wires::by_name(folder.file_name()?.to_str()?));
        let wire = own.filter(|_| is_its_own).unwrap_or(*wire.get(wires::REGISTRY));
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(answer.len() + 1)).chain([0, answer.len()]).collect();
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|range| answer.get(range[0]..range[1]).unwrap()).collect();
        let whole = read(wire, operation, content_type, &[&answer]);
        prop_assert_eq!(&read(wire, operation, content_type, &pieces), &whole);
        prop_assert_eq!(&read(wire, operation, content_type, &answer.chunks(1).collect::<Vec<_>>()), &whole);
    }
}
