//! What is read of a request is what JSON says, wherever it is cut; what is put in changes nothing but `stream_options`.
//!
//! First line: wire, operation (whose prompt is looked for in the body).

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};
use tokenmeter::framing::json_members::Members;
use tokenmeter::operation::Operation;
use tokenmeter::wires;
use tokenmeter::wires::openai::{REQUEST_MEMBERS, Splice, ask_for_usage};
use tokenmeter_fuzz::{cuts, pick, read, within};

/// What a prompt's JSON may take to be read, and the members that are kept.
const BYTES_MAX: usize = 32 << 20;

fuzz_target!(|input: &[u8]| {
    let (words, body) = read(input);
    let wire = *pick(words.first(), wires::REGISTRY, |wire| wire.name());
    let operation = *pick(words.get(1), &Operation::ALL, |operation| operation.as_str());
    within(BYTES_MAX, || drop(wire.prompt(operation, body)));

    let mut whole = None;
    for chunks in cuts(body) {
        let mut members = Members::new(REQUEST_MEMBERS);
        within(1 << 20, || chunks.iter().for_each(|chunk| members.feed(chunk)));
        let seen = (members.reduced(), members.is_closed(), ask_for_usage(&members));
        assert!(*whole.get_or_insert_with(|| seen.clone()) == seen, "what is seen depends on cuts");
    }
    let Some((reduced, is_closed, splice)) = whole else { return };
    let Ok(asked) = serde_json::from_slice::<Map<String, Value>>(body) else { return };
    assert!(is_closed, "an object that is whole is not seen to be");
    let reduced: Map<String, Value> = serde_json::from_slice(&reduced).unwrap();
    for name in REQUEST_MEMBERS {
        assert_eq!(reduced.get(*name), asked.get(*name), "`{name}`");
    }
    let Some(Splice { range, text }) = splice else { return };
    let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
    let spliced = [&body[..start], text.as_bytes(), &body[end..]].concat();
    let mut spliced: Map<String, Value> = serde_json::from_slice(&spliced).expect("it is still JSON");
    let options = spliced.get_mut("stream_options").and_then(Value::as_object_mut).expect("they are there");
    assert_eq!(options.insert("include_usage".to_owned(), json!(false)), Some(json!(true)));
    let mut expected = asked;
    let expected_options = expected.entry("stream_options").or_insert(Value::Null);
    if expected_options.is_null() {
        *expected_options = json!({});
    }
    expected_options["include_usage"] = json!(false);
    assert_eq!(spliced, expected, "something else has changed");
});
