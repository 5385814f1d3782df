//! A form's fields and a WebSocket's close are found or not, wherever the bytes are cut, in bounded memory.
//!
//! First line: the form's boundary.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenmeter::framing::multipart::Fields;
use tokenmeter::framing::websocket::CloseFinder;
use tokenmeter_fuzz::{cuts, read, within};

const WANTED: &[&str] = &["model", "stream"];

fuzz_target!(|input: &[u8]| {
    let (words, body) = read(input);
    let content_type = format!("multipart/form-data; boundary={}", words.first().copied().unwrap_or("b"));
    let (mut form, mut session) = (None, None);
    for chunks in cuts(body) {
        if let Some(mut fields) = Fields::of(content_type.as_bytes(), WANTED) {
            within(1 << 20, || chunks.iter().for_each(|chunk| fields.feed(chunk)));
            let values = WANTED.iter().map(|name| fields.value(name).map(<[u8]>::to_vec)).collect::<Vec<_>>();
            let seen = (values, fields.is_over(), fields.has_seen_file());
            assert!(*form.get_or_insert_with(|| seen.clone()) == seen, "what a form says depends on cuts");
        }
        let mut frames = CloseFinder::default();
        within(1 << 10, || chunks.iter().for_each(|chunk| frames.feed(chunk)));
        let has_closed = frames.has_closed();
        assert!(*session.get_or_insert(has_closed) == has_closed, "whether a session was closed depends on cuts");
    }
});
