//! Marks of progress, and what an orphan is made of them.

use std::time::Duration;

use serde_json::json;

use super::{Says, Stand, frames, told};
use crate::ids::Provider;
use crate::journal::Kind;
use crate::journal::samples::{intent, progress};
use crate::meter::{Learning, Moment, settlement};
use crate::operation::Operation;
use crate::record::{Intent, Progress, Record};
use crate::tokenizer::Tokenizers;
use crate::usage::Provenance::{Estimated, None as Nothing, Partial, Reported, Unknown};
use crate::usage::{Outcome, TokenCounts};
use crate::wires::openai::OpenAi;
use crate::wires::{Consumption, Wire};
use Consumption::{Now, Result as TheResult, Stored};

/// What an orphan comes to, whose process left `progress` behind.
fn orphan(operation: Operation, body_bytes: Option<u64>, progress: Option<Progress>) -> Record {
    let provider = Provider::parse("openai").unwrap();
    let intent = Intent { operation, provider, body_bytes, model_requested: Some("gpt-5".to_owned()), ..intent(0) };
    let progress = progress.map(|progress| Progress { id: intent.id, ..progress });
    settlement::orphan(intent, progress, Moment::now(), &Learning::start(None, Tokenizers::default()).unwrap())
}

#[test]
fn an_orphan_is_what_the_last_mark_told_and_for_the_rest_an_estimate() {
    let came = |delivered_tokens| progress(&intent(0), 5, delivered_tokens);
    let tokens = |input, output| TokenCounts { input, output, ..TokenCounts::default() };
    let (body, chat) = (Some(400), Operation::Chat);
    let told = |input, output| Progress { tokens: tokens(input, output), ..came(50) };
    let by_length = Progress { delivered_bytes: 200, ..came(3) };
    let refused = Progress { status: Some(500), ..came(50) };
    let last_word = Progress { is_reported: true, ..told(Some(30), Some(7)) };
    for (what, operation, body_bytes, progress, provenance, input, output) in [
        ("nothing came", chat, body, None, Estimated, Some(100), None),
        ("text came", chat, body, Some(came(50)), Estimated, Some(100), Some(50)),
        ("text that was partly measured", chat, body, Some(by_length), Estimated, Some(100), Some(53)),
        ("the prompt was reported", chat, body, Some(told(Some(30), None)), Partial, Some(30), Some(50)),
        ("both were reported so far", chat, body, Some(told(Some(30), Some(7))), Partial, Some(30), Some(7)),
        ("the last word was said", chat, body, Some(last_word), Reported, Some(30), Some(7)),
        ("a request of unknown length", chat, None, Some(came(50)), Estimated, None, Some(50)),
        ("an error's body", chat, body, Some(refused), Nothing, None, None),
        ("vectors", Operation::Embeddings, body, Some(came(50)), Estimated, Some(100), None),
        ("a picture", Operation::ImageGeneration, body, Some(came(0)), Unknown, None, None),
        (
            "a picture, reported so far",
            Operation::ImageGeneration,
            body,
            Some(told(Some(30), None)),
            Partial,
            Some(30),
            None,
        ),
    ] {
        let record = orphan(operation, body_bytes, progress);
        assert_eq!((record.outcome, record.provenance), (Outcome::Orphaned, provenance), "{what}: {record:#?}");
        assert_eq!(record.tokens, tokens(input, output), "{what}");
        let has_estimate = record.estimate.is_some_and(|estimate| {
            let total = input.unwrap_or(0) + output.unwrap_or(0);
            estimate.low <= total && total <= estimate.high
        });
        let is_ours = operation != Operation::ImageGeneration && matches!(provenance, Estimated | Partial);
        assert_eq!(has_estimate, is_ours, "{what}");
    }
}

#[test]
fn an_orphan_tells_what_the_answer_told() {
    let progress = Progress {
        model: Some("gpt-5-2025-08-07".to_owned()),
        units: [("searches".to_owned(), 2)].into(),
        usage_raw: Some(serde_json::value::RawValue::from_string("{\"input\":30}".to_owned()).unwrap()),
        service_tier: Some("flex".to_owned()),
        tokens: TokenCounts { input: Some(30), ..TokenCounts::default() },
        ..progress(&intent(0), 5, 50)
    };
    let record = serde_json::to_value(orphan(Operation::Chat, Some(4), Some(progress))).unwrap();
    for (member, value) in [
        ("model", json!("gpt-5-2025-08-07")),
        ("model_requested", json!("gpt-5")),
        ("units", json!({"searches": 2})),
        ("usage_raw", json!({"input": 30})),
        ("service_tier", json!("flex")),
        ("status", json!(200)),
    ] {
        assert_eq!(record[member], value, "{member}");
    }
}

#[test]
fn an_orphans_output_is_measured_by_length_and_says_so() {
    let record = orphan(Operation::Chat, Some(400), Some(progress(&intent(0), 5, 50)));
    let estimate = record.estimate.unwrap();
    // A prompt of a hundred tokens by its bytes and fifty of output, each give or take 60 %, seldom to the same side; and
    // what its model may have thought out of sight.
    assert_eq!((estimate.low, estimate.high, estimate.method.as_str()), (150 - 67, 150 + 2_030, "bytes"));
}

#[test]
fn a_mark_holds_what_came_until_then_and_is_not_repeated_where_nothing_new_came() {
    let stand = Stand::new();
    let (mut open, _) = stand.meter.open(Moment::now(), intent(0), &OpenAi, Now).unwrap();
    let mut observer = OpenAi.observer(Operation::Chat, "openai");
    open.answered(200);
    open.first_byte();
    for words in [3, 0, 5] {
        for _ in 0..words {
            let unit = json!({"model": "gpt-5-2025", "choices": [{"index": 0, "delta": {"content": " word"}}]});
            observer.unit(unit.to_string().as_bytes());
        }
        open.mark(&mut *observer);
    }
    stand.meter.stop(Duration::from_secs(20));
    let marks: Vec<_> = frames(stand.folder.path(), Kind::Progress);
    let marks: Vec<_> = marks.iter().map(|frame| frame.progress().unwrap()).collect();
    assert_eq!(marks.iter().map(|mark| mark.delivered_tokens).collect::<Vec<_>>(), [3, 8]);
    assert!(marks.iter().all(|mark| Some(mark.id) == open.id() && mark.model.as_deref() == Some("gpt-5-2025")));
}

#[test]
fn what_is_fetched_is_not_marked() {
    let stand = Stand::new();
    for (consumption, is_marked) in [(Now, true), (Stored, false), (TheResult, false), (Consumption::None, false)] {
        let (mut open, _) = stand.meter.open(Moment::now(), intent(0), &OpenAi, consumption).unwrap();
        open.first_byte();
        open.progressed(&mut Says(told()));
        assert_eq!(open.mark_due().is_some(), is_marked, "{consumption:?}");
    }
}
