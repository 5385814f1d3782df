//! What a client got of an answer that was finished without it.

use std::time::Duration;

use serde_json::json;

use super::{Stand, frames};
use crate::journal::Kind;
use crate::journal::samples::intent;
use crate::meter::{Ending, Moment};
use crate::operation::Operation;
use crate::record::{Intent, Record};
use crate::usage::{Outcome, Provenance};
use crate::wires::Consumption::Now;
use crate::wires::Wire;
use crate::wires::delivered::Delivered;
use crate::wires::openai::OpenAi;

/// The words of the answer.
const WORDS: usize = 8;

/// The record of a stream of eight words whose client left after some of them, or stayed, and whose upstream reported
/// that many tokens of output, or nothing.
fn record(left_after: Option<usize>, reported: Option<u64>) -> Record {
    let stand = Stand::new();
    let intent = Intent { operation: Operation::Chat, model_requested: Some("gpt-4o".to_owned()), ..intent(0) };
    let (mut open, _) = stand.meter.open(Moment::now(), intent, &OpenAi, Now).unwrap();
    open.sent();
    open.answered(200);
    let mut observer = OpenAi.observer(Operation::Chat, "openai");
    let mut client_left_at = None;
    for came in 0..=WORDS {
        if left_after == Some(came) {
            client_left_at = Some(observer.kept().map(Delivered::bookmark).unwrap_or_default());
        }
        if came < WORDS {
            let unit = json!({"model": "gpt-4o", "choices": [{"index": 0, "delta": {"content": " word"}}]});
            observer.unit(unit.to_string().as_bytes());
        }
    }
    if let Some(output) = reported {
        let usage = json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": output}});
        observer.unit(usage.to_string().as_bytes());
    }
    observer.unit(b"[DONE]");
    let outcome = if left_after.is_some() { Outcome::ClientClosed } else { Outcome::Completed };
    open.close(outcome, Ending { observer: Some(observer), is_whole: true, client_left_at, ..Ending::default() });
    stand.meter.stop(Duration::from_secs(20));
    let records = frames(stand.folder.path(), Kind::Record);
    assert_eq!(records.len(), 1);
    records[0].record().unwrap()
}

#[test]
fn what_was_billed_and_what_was_delivered_are_two_figures_where_they_differ() {
    for (left_after, reported, provenance, output, delivered) in [
        (Some(0), Some(20), Provenance::Reported, 20, Some(0)),
        (Some(3), Some(20), Provenance::Reported, 20, Some(3)),
        (Some(WORDS), Some(20), Provenance::Reported, 20, None),
        (None, Some(20), Provenance::Reported, 20, None),
        // It is never more than was billed.
        (Some(3), Some(2), Provenance::Reported, 2, None),
        (Some(0), Some(0), Provenance::Reported, 0, None),
        (Some(3), None, Provenance::Estimated, 8, Some(3)),
        (None, None, Provenance::Estimated, 8, None),
    ] {
        let record = record(left_after, reported);
        let facts = (record.provenance, record.tokens.output, record.delivered_output);
        assert_eq!(facts, (provenance, Some(output), delivered), "left after {left_after:?}: {record:#?}");
    }
}
