//! Handwritten answers of watsonx.ai are read by rule.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail like the test")]

use http::Method;
use tokenmeter::operation::Operation;
use tokenmeter::wires::{self, Consumption, Observer, UsageSeen};

fn observed(operation: Operation, content_type: &str, body: &[u8]) -> Box<dyn Observer> {
    let wire = wires::by_name("watsonx").unwrap();
    let mut observer = wire.observer(operation, "");
    let mut framer = wire.framer(Some(content_type.as_bytes()), None);
    framer.feed(body, &mut |unit| observer.unit(unit));
    framer.end(&mut |unit| observer.unit(unit));
    observer
}

#[test]
fn a_stream_tells_its_input_first_and_its_output_last() {
    let body = include_bytes!("fixtures/watsonx/generation_stream.sse");
    let mut observer = observed(Operation::TextCompletion, "text/event-stream", body);
    let reading = observer.reading();
    assert_eq!((reading.tokens.input, reading.tokens.output), (Some(8), Some(2)));
    assert_eq!((reading.usage, reading.model.as_deref()), (UsageSeen::Final, Some("ibm/granite-3-8b")));
    assert_eq!(reading.usage_raw.unwrap().get(), r#"{"input_token_count":8,"generated_token_count":2}"#);
    assert_eq!(observer.delivered().text, "the sun");
    let mut cut = observed(Operation::TextCompletion, "text/event-stream", body.split_at(body.len() / 2).0);
    assert_eq!((cut.reading().usage, cut.reading().tokens.input), (UsageSeen::Interim, Some(8)));
}

#[test]
fn vectors_are_counted_beside_them_and_chats_as_openai_does() {
    let body = include_bytes!("fixtures/watsonx/embeddings.json");
    let vectors = observed(Operation::Embeddings, "application/json", body).reading();
    assert_eq!((vectors.tokens.input, vectors.tokens.output, vectors.usage), (Some(10), None, UsageSeen::Final));
    let body = include_bytes!("fixtures/watsonx/chat_stream.sse");
    let mut chat = observed(Operation::Chat, "text/event-stream", body);
    assert_eq!((chat.reading().tokens.input, chat.reading().tokens.output), (Some(17), Some(2)));
    assert_eq!(chat.delivered().text, "Hi");
}

#[test]
fn paths_say_what_is_asked_whatever_upstream_they_go_to() {
    let of = |path| {
        let exchange = wires::recognise(wires::by_name("openai").unwrap(), &Method::POST, path);
        assert_eq!(exchange.wire.name(), "watsonx", "{path}");
        (exchange.operation, exchange.stream_in_path, exchange.consumption)
    };
    let completion = |stream| (Operation::TextCompletion, Some(stream), Consumption::Now);
    assert_eq!(of("/ml/v1/text/generation"), completion(false));
    assert_eq!(of("/ml/v1/deployments/d/text/generation_stream"), completion(true));
    assert_eq!(of("/ml/v1-beta/generation/text_stream"), completion(true));
    assert_eq!(of("/ml/v1/text/chat_stream"), (Operation::Chat, Some(true), Consumption::Now));
    assert_eq!(of("/ml/v1/text/tokenization"), (Operation::CountTokens, Some(false), Consumption::None));
}
