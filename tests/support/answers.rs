//! Handwritten answers, observed as the proxy does: whole, or in pieces.

#![expect(clippy::expect_used, reason = "a test's helpers fail like the test")]

#[path = "replay.rs"]
mod replay;

use http::Method;
use tokenmeter::operation::Operation;
use tokenmeter::wires::{self, Consumption, Exchange, Observer};

use replay::{facts, replay};

pub(crate) const EVENTS: &str = "text/event-stream";
pub(crate) const JSON: &str = "application/json; charset=UTF-8";
pub(crate) const LINES: &str = "application/x-jsonl";

/// Wire, operation, content type, body.
pub(crate) type Answer<'a> = (&'static str, Operation, &'static str, &'a [u8]);

/// An answer in pieces of `size` bytes.
pub(crate) fn observed((wire, operation, content_type, body): Answer<'_>, size: usize) -> Box<dyn Observer> {
    let wire = wires::by_name(wire).expect("a wire of that name");
    let mut observer = wire.observer(operation, wire.name());
    // As the proxy does: a batch's results are lines, whatever they are called.
    let content_type = if operation == Operation::Batch { "application/jsonl" } else { content_type };
    let mut framer = wire.framer(Some(content_type.as_bytes()), None);
    let cuts: Vec<usize> = (0..body.len()).step_by(size).collect();
    replay(&mut framer, &mut *observer, body, &cuts);
    observer
}

/// Whether an answer spoilt in some places is read without a panic, and the same in pieces of `size`.
pub(crate) fn reads_spoilt(
    (wire, operation, content_type, body): Answer<'_>,
    spoilt: &[(usize, u8)],
    size: usize,
) -> bool {
    let mut body = body.to_vec();
    for (at, byte) in spoilt {
        let at = at % body.len();
        *body.get_mut(at).expect("a place within the body") = *byte;
    }
    let answer = (wire, operation, content_type, body.as_slice());
    facts(&mut *observed(answer, usize::MAX)) == facts(&mut *observed(answer, size))
}

/// The same, whole; pieces of any size must read alike.
pub(crate) fn read(answer: Answer<'_>) -> Box<dyn Observer> {
    let mut whole = observed(answer, usize::MAX);
    for size in [1, 3, 50] {
        assert_eq!(facts(&mut *observed(answer, size)), facts(&mut *whole), "in pieces of {size}");
    }
    whole
}

/// What an exchange is, in words: wire, operation, consumption, and what the path names.
pub(crate) fn recognised(upstream: &str, method: &Method, path: &str) -> String {
    let upstream = wires::by_name(upstream).expect("a wire of that name");
    let Exchange { wire, operation, model_in_path, stream_in_path, object_in_path, consumption } =
        wires::recognise(upstream, method, path);
    let consumption = match consumption {
        Consumption::Now => "now",
        Consumption::Stored => "stored",
        Consumption::Result => "result",
        Consumption::None => "free",
    };
    let stream = match stream_in_path {
        Some(true) => "stream",
        Some(false) => "whole",
        None => "",
    };
    let named = model_in_path.or(object_in_path).unwrap_or_default();
    [wire.name(), operation.as_str(), consumption, named, stream].join(" ").trim_end().to_owned()
}
