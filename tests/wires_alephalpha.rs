//! Handwritten answers of Aleph Alpha are read by rule.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

use http::Method;
use tokenmeter::operation::Operation;
use tokenmeter::wires::{self, Consumption, Observer, Reading, UsageSeen, Wire};

const STREAM: &[u8] = include_bytes!("fixtures/alephalpha/complete_stream.sse");

fn wire() -> &'static dyn Wire {
    wires::by_name("alephalpha").unwrap()
}

fn observed(operation: Operation, content_type: &str, pieces: &[&[u8]]) -> Box<dyn Observer> {
    let mut observer = wire().observer(operation, "");
    let mut framer = wire().framer(Some(content_type.as_bytes()), None);
    for piece in pieces {
        framer.feed(piece, &mut |unit| observer.unit(unit));
    }
    framer.end(&mut |unit| observer.unit(unit));
    observer
}

fn whole(operation: Operation, body: &[u8]) -> Box<dyn Observer> {
    observed(operation, "application/json", &[body])
}

fn streamed(pieces: &[&[u8]]) -> Box<dyn Observer> {
    observed(Operation::TextCompletion, "text/event-stream", pieces)
}

fn told(reading: &Reading) -> (UsageSeen, Option<u64>, Option<u64>) {
    (reading.usage, reading.tokens.input, reading.tokens.output)
}

#[test]
fn a_whole_answer_carries_its_counts_and_no_name_of_a_model() {
    let mut observer = whole(Operation::TextCompletion, include_bytes!("fixtures/alephalpha/complete.json"));
    let reading = observer.reading();
    assert_eq!(told(&reading), (UsageSeen::Final, Some(8), Some(5)));
    assert_eq!((reading.model, reading.is_error, reading.is_finished), (None, false, true));
    assert_eq!(reading.usage_raw.unwrap().get(), r#"{"num_tokens_prompt_total":8,"num_tokens_generated":5}"#);
    let delivered = observer.delivered();
    let choices: Vec<&str> = delivered.texts().map(|(_, text)| text).collect();
    assert_eq!(choices, [" keeps the doctor", " is sweet"]);
}

#[test]
fn a_stream_is_read_to_the_token_however_it_is_cut() {
    let read = |pieces: &[&[u8]]| {
        let mut observer = streamed(pieces);
        (told(&observer.reading()), observer.is_terminal(), observer.delivered().text)
    };
    let expected = ((UsageSeen::Final, Some(4), Some(7)), true, " keeps the doctor – äway".to_owned());
    for cut in 0..=STREAM.len() {
        let (first, second) = STREAM.split_at(cut);
        assert_eq!(read(&[first, second]), expected, "cut at {cut}");
    }
    assert_eq!(read(&STREAM.chunks(1).collect::<Vec<_>>()), expected);
}

#[test]
fn a_stream_that_breaks_off_has_told_all_or_nothing() {
    let summary = STREAM.windows(18).position(|window| window == b"completion_summary").unwrap();
    for end in 0..STREAM.len() {
        let mut observer = streamed(&[STREAM.split_at(end).0]);
        let reading = observer.reading();
        let is_told = reading.usage == UsageSeen::Final;
        assert!(!is_told || end > summary, "ended at {end}");
        let expected = if is_told { (Some(4), Some(7)) } else { (None, None) };
        assert_eq!((reading.tokens.input, reading.tokens.output), expected, "ended at {end}");
        assert_eq!((observer.is_terminal(), reading.is_finished), (is_told, is_told), "ended at {end}");
    }
    assert_eq!(streamed(&[STREAM.split_at(summary).0]).delivered().text, " keeps the doctor – äway");
}

#[test]
fn counts_that_are_missing_are_absent_and_not_0() {
    let mut uncounted = whole(Operation::TextCompletion, include_bytes!("fixtures/alephalpha/complete_uncounted.json"));
    assert_eq!(told(&uncounted.reading()), (UsageSeen::Nothing, None, None));
    assert_eq!(uncounted.delivered().text, " keeps the doctor");
    let half = br#"{"completions":[{"completion":"a"}],"num_tokens_prompt_total":2}"#;
    assert_eq!(told(&whole(Operation::TextCompletion, half).reading()), (UsageSeen::Interim, Some(2), None));
    let mut bare = streamed(&[b"data: {\"type\":\"completion_summary\"}\n\n"]);
    assert_eq!((told(&bare.reading()), bare.is_terminal()), ((UsageSeen::Nothing, None, None), true));
}

#[test]
fn vectors_and_judgements_have_input_alone() {
    let mut vectors = whole(Operation::Embeddings, include_bytes!("fixtures/alephalpha/semantic_embed.json"));
    assert_eq!(told(&vectors.reading()), (UsageSeen::Final, Some(6), None));
    let mut judgement = whole(Operation::TextCompletion, include_bytes!("fixtures/alephalpha/evaluate.json"));
    assert_eq!(told(&judgement.reading()), (UsageSeen::Final, Some(3), None));
    assert_eq!(judgement.delivered().text, "");
}

#[test]
fn an_error_tells_no_usage() {
    let failed = whole(Operation::TextCompletion, include_bytes!("fixtures/alephalpha/error.json")).reading();
    assert_eq!((told(&failed), failed.is_error), ((UsageSeen::Nothing, None, None), true));
    let counted = br#"{"error":"no","code":"UNKNOWN_MODEL","num_tokens_prompt_total":9}"#;
    assert_eq!(told(&whole(Operation::Embeddings, counted).reading()), (UsageSeen::Nothing, None, None));
    let mut broken =
        streamed(&[b"data: {\"type\":\"stream_chunk\",\"completion\":\"a\"}\n\ndata: {\"error\":\"no\"}\n\n"]);
    assert_eq!((told(&broken.reading()), broken.reading().is_error), ((UsageSeen::Nothing, None, None), true));
    assert_eq!((broken.delivered().text.as_str(), broken.is_terminal()), ("a", false));
}

#[test]
fn plain_paths_count_only_at_an_upstream_of_this_wire() {
    let at = |upstream: &str, path| {
        let exchange = wires::recognise(wires::by_name(upstream).unwrap(), &Method::POST, path);
        (exchange.wire.name(), exchange.operation, exchange.consumption)
    };
    let own = |operation, consumption| ("alephalpha", operation, consumption);
    for path in ["/complete", "/complete/json", "/prefix/complete/", "/evaluate"] {
        assert_eq!(at("alephalpha", path), own(Operation::TextCompletion, Consumption::Now), "{path}");
    }
    for path in ["/embed", "/semantic_embed", "/batch_semantic_embed", "/instructable_embed"] {
        assert_eq!(at("alephalpha", path), own(Operation::Embeddings, Consumption::Now), "{path}");
    }
    for path in ["/tokenize", "/detokenize"] {
        assert_eq!(at("alephalpha", path), own(Operation::CountTokens, Consumption::None), "{path}");
    }
    for path in ["/complete", "/evaluate", "/embed", "/semantic_embed", "/tokenize", "/detokenize"] {
        assert_ne!(at("openai", path).0, "alephalpha", "{path}");
    }
    assert_eq!(at("alephalpha", "/chat/completions"), ("openai", Operation::Chat, Consumption::Now));
}

#[test]
fn a_prompt_is_its_texts_its_token_ids_and_144_tokens_an_image() {
    let prompt = |body: &[u8]| {
        let prompt = wire().prompt(Operation::TextCompletion, body).unwrap();
        (prompt.texts.concat(), prompt.tokens)
    };
    assert_eq!(prompt(br#"{"model":"m","prompt":"hello","completion_expected":" world"}"#), ("hello world".into(), 0));
    let items = br#"{"prompt":[{"type":"image","data":"AAAA"},{"type":"text","data":"Q: "},
        {"type":"token_ids","data":[49222,2998],"controls":[]}]}"#;
    assert_eq!(prompt(items), ("Q: ".into(), 146));
    assert_eq!(prompt(br#"{"prompts":["a",[{"type":"text","data":"b"}]]}"#), ("ab".into(), 0));
    assert_eq!(prompt(br#"{"instruction":"a","input":"b"}"#), ("ab".into(), 0));
    assert_eq!(wire().prompt(Operation::TextCompletion, b"[1]"), None);
}
