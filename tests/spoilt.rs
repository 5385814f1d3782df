//! Spoilt answers: whatever becomes of an answer's bytes, no wire panics, none depends on where the bytes are cut or on
//! when somebody asks what was read, and what it reads is a count that a ledger can hold. `fuzz/` looks further in the same direction.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};
use tokenmeter::operation::Operation;
use tokenmeter::wires::{self, Observer, Wire};

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

/// Operations whose streams repeat themselves.
const TEXTS: [Operation; 3] = [Operation::Chat, Operation::TextCompletion, Operation::GenerateContent];

/// The fixtures of several units.
fn streams() -> Vec<PathBuf> {
    fixtures().into_iter().filter(|file| units(file).len() > 1).collect()
}

/// The units of a fixture, where they are JSON objects: events, lines, or the whole.
fn units(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    let lines = text.lines().map(|line| line.strip_prefix("data:").unwrap_or(line).trim());
    let units = lines.chain([text.as_str()]).filter_map(|unit| serde_json::from_str(unit).ok());
    units.filter(Value::is_object).collect()
}

/// What a provider may put in place of what it said before, and what none should.
fn leaf() -> impl Strategy<Value = Value> {
    let words =
        ["", "x", "null", "stop", "not_finished", "AUDIO", "ON_DEMAND_FLEX", "batches/1", "5", "error", "message"];
    let words = select(words.to_vec()).prop_map(Value::from);
    let odd = vec![Value::Null, Value::Bool(true), json!(-1), json!(1.5), json!(7.0), json!(1_u64 << 40)];
    prop_oneof![3 => (0_u64..100).prop_map(Value::from), 3 => words, 1 => select(odd)]
}

/// Puts others in place of some leaves of a unit.
fn retell(unit: &mut Value, changes: &mut dyn Iterator<Item = Option<Value>>) {
    match unit {
        Value::Array(elements) => elements.iter_mut().for_each(|element| retell(element, changes)),
        Value::Object(members) => members.values_mut().for_each(|member| retell(member, changes)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            if let Some(other) = changes.next().flatten() {
                *unit = other;
            }
        }
    }
}

/// All that is read of an answer cut into `pieces`.
fn read(wire: &'static dyn Wire, operation: Operation, content_type: &str, pieces: &[&[u8]]) -> String {
    let mut observer = wire.observer(operation, "");
    let mut framer = wire.framer(Some(content_type.as_bytes()), None);
    for piece in pieces {
        framer.feed(piece, &mut |unit| observer.unit(unit));
    }
    framer.end(&mut |unit| observer.unit(unit));
    facts(&mut *observer)
}

/// All that an observer says.
fn facts(observer: &mut dyn Observer) -> String {
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

    #[test]
    fn a_stream_that_repeats_itself_is_read_alike_whenever_somebody_asks(
        file in select(streams()),
        operation in prop_oneof![3 => select(&TEXTS[..]), 1 => select(&Operation::ALL[..])],
        provider in select(vec!["", "xai", "gemini"]),
        bases in prop::collection::vec(any::<Index>(), 1..3),
        telling in prop::collection::vec(
            (any::<Index>(), prop::collection::vec(prop::option::weighted(0.07, leaf()), 24), any::<bool>()),
            1..10,
        ),
    ) {
        let known = units(&file);
        let wire = file.parent().and_then(|folder| wires::by_name(folder.file_name()?.to_str()?));
        let (false, Some(wire)) = (known.is_empty(), wire) else { return Ok(()) };
        let mut bases: Vec<Value> = bases.iter().map(|base| base.get(&known).clone()).collect();
        let [mut asked, mut unasked] = [(); 2].map(|()| wire.observer(operation, provider));
        for (base, changes, is_chunk) in telling {
            let base = base.get_mut(&mut bases);
            retell(base, &mut changes.into_iter());
            let mut unit = base.to_string();
            if wire.name() == "bedrock" && is_chunk {
                unit = json!({"chunk": {"bytes": STANDARD.encode(&unit)}}).to_string();
            }
            for observer in [&mut asked, &mut unasked] {
                // As the proxy does: what stands behind the end is no part of the answer.
                if !observer.is_terminal() {
                    observer.unit(unit.as_bytes());
                }
            }
            prop_assert_eq!(asked.is_terminal(), unasked.is_terminal());
            drop(asked.reading());
        }
        prop_assert_eq!(facts(&mut *unasked), facts(&mut *asked));
    }
}
