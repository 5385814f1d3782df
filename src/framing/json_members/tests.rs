use proptest::prelude::*;

use super::*;

const WANTED: &[&str] = &["usage", "model", "response.usage", "n"];

fn scanned(chunks: &[&[u8]]) -> Members {
    let mut members = Members::new(WANTED);
    for chunk in chunks {
        members.feed(chunk);
    }
    members
}

fn reduced(chunks: &[&[u8]]) -> String {
    String::from_utf8(scanned(chunks).reduced()).unwrap()
}

const OBJECT: &[u8] = br#"
    { "data" : [{"usage":1},"]\"",["}"]] , "u\u0073age" : {"a":"}\\", "b":[1,{"c":2}]},"n":-1.5e3,
    "other":{"model":"no","x":"{\"model\":\"no\"}"},"response":{"id":"usage","usage":[ 1 ],"deep":{"usage":2}},
    "model":"old","model":"new \"}" , "tail":null } trailing {"model":"late"}"#;

#[test]
fn wanted_members_of_the_top_level_are_kept_and_nothing_else() {
    let expected = r#"{"usage":{"a":"}\\", "b":[1,{"c":2}]},"model":"new \"}","n":-1.5e3,"response":{"usage":[ 1 ]}}"#;
    assert_eq!(reduced(&[OBJECT]), expected);
    serde_json::from_str::<serde_json::Value>(expected).unwrap();
}

#[test]
fn offsets_are_where_bytes_can_be_spliced_in() {
    let members = scanned(&[b"  {\"model\" ", b": \"m\" ,\"n\":12", b"}  "]);
    assert_eq!((members.opening(), members.closing()), (Some(2), Some(24)));
    assert_eq!((members.range("model"), members.range("n")), (Some(13..16), Some(22..24)));
    assert_eq!(members.value("n"), Some(b"12".as_slice()));
    assert!(members.is_closed() && !members.is_empty() && !members.has_all());
    assert!(scanned(&[b" { } "]).is_empty());
}

#[test]
fn a_value_too_long_is_skipped_and_known_to_be_there() {
    let long = format!(r#"{{"usage":"{}","model":"m"}}"#, "x".repeat(VALUE_BYTES_MAX));
    let members = scanned(&[long.as_bytes()]);
    assert_eq!(members.reduced(), br#"{"model":"m"}"#);
    assert!(members.value("usage").is_none() && members.range("usage").is_some());
}

#[test]
fn a_value_cut_off_is_no_value() {
    assert_eq!(reduced(&[br#"{"model":"m","usage":{"a":1"#]), r#"{"model":"m"}"#);
    assert_eq!(reduced(&[br#"{"model":"m","n":12"#]), r#"{"model":"m"}"#);
}

#[test]
fn values_within_an_array_are_kept_together_and_one_cut_off_is_left_out() {
    const PATHS: &[&str] = &["p[].e.s", "p[].kind", "r.x", "r.list[].y.z", "q"];
    let of = |text: &str, size: usize| {
        let mut members = Members::new(PATHS);
        text.as_bytes().chunks(size).for_each(|chunk| members.feed(chunk));
        String::from_utf8(members.reduced()).unwrap()
    };
    let text = r#"{"p":[{"e":{"v":[1,[2]],"s":{"n":1}},"kind":"a"},7,"]",[{"kind":"no"}],{"e":{"s":[]}},{"e":3}],
        "r":{"list":[{"y":{"z":1}},{"y":{"z":2}}],"x":5},"p[].kind":1,"r.x":2,"q":[{"e":1}]}"#;
    let expected = r#"{"p[].e.s":[{"n":1},[]],"p[].kind":["a"],"r.list[].y.z":[1,2],"q":[{"e":1}],"r":{"x":5}}"#;
    for size in [1, 2, 7, 1000] {
        assert_eq!(of(text, size), expected);
        assert_eq!(of(r#"{"p":[{"kind":"a"},{"kind":"b"#, size), r#"{"p[].kind":["a"]}"#);
        assert_eq!(of(r#"{"p":{"kind":"a"},"q":1,"p":[],"r":[]}"#, size), r#"{"q":1}"#);
    }
}

#[test]
fn depth_costs_nothing() {
    let deep = format!("{{\"x\":{},\"model\":\"m\"}}", "[".repeat(1_000_000) + &"]".repeat(1_000_000));
    assert_eq!(reduced(&[deep.as_bytes()]), r#"{"model":"m"}"#);
}

proptest! {
    #[test]
    fn members_ignore_chunking(cuts in prop::collection::vec(0..OBJECT.len(), 0..30)) {
        let mut cuts: Vec<usize> = cuts.into_iter().chain([0, OBJECT.len()]).collect();
        cuts.sort_unstable();
        let chunks: Vec<&[u8]> = cuts.windows(2).map(|range| &OBJECT[range[0]..range[1]]).collect();
        let (cut, whole) = (scanned(&chunks), scanned(&[OBJECT]));
        prop_assert_eq!(cut.reduced(), whole.reduced());
        prop_assert_eq!((cut.opening(), cut.closing()), (whole.opening(), whole.closing()));
        for wanted in WANTED {
            prop_assert_eq!(cut.range(wanted), whole.range(wanted));
        }
    }

    #[test]
    fn no_text_confuses_it_into_a_loop_or_an_object_that_is_none(
        parts in prop::collection::vec(prop::sample::select(vec!["{", "}", "[", "]", "\"", "\\", ":", ",", "model", "1", " ", "null"]), 0..40),
        size in 1_usize..8,
    ) {
        let text = parts.concat();
        let whole = scanned(&[text.as_bytes()]);
        let cut = scanned(&text.as_bytes().chunks(size).collect::<Vec<_>>());
        prop_assert_eq!(whole.reduced(), cut.reduced());
        if serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|value| value.is_object()) {
            prop_assert!(whole.is_closed());
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&whole.reduced()).is_ok());
        }
    }

    #[test]
    fn a_long_string_ends_where_it_ends(
        parts in prop::collection::vec(prop::sample::select(vec!["\\\"", "\\\\", "\\n", "x", " a text of some length that holds no quote "]), 0..60),
        size in prop::sample::select(vec![1, 63, 64, 65, 1_000_000]),
    ) {
        let (string, nested) = (format!("\"{}\"", parts.concat()), format!("[\"{}\"]", parts.concat()));
        let text = format!("{{\"skipped\":{string},\"usage\":{nested},\"model\":{string}}}");
        let expected = format!("{{\"usage\":{nested},\"model\":{string}}}");
        prop_assert_eq!(reduced(&text.as_bytes().chunks(size).collect::<Vec<_>>()), expected);
    }
}
