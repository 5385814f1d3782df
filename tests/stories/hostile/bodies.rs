//! Bodies that are malformed, endless in depth or in lines, or that lie about usage.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{answered, known, record_of};
use crate::asks::{self, Ask};
use crate::stand::Stand;

const SSE: [(&str, &str); 1] = [("content-type", "text/event-stream")];
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

const TEXT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"one two three\"}}]}\n\n";
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":7}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

#[tokio::test]
async fn a_stream_however_malformed_passes_and_its_usage_is_found() {
    let stand = Stand::start();
    let giant = format!(
        "data: {{\"choices\":[],\"x\":\"{}\",\"usage\":{{\"prompt_tokens\":11,\"completion_tokens\":7}}}}\n\n",
        "y".repeat(3 << 20)
    );
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a byte order mark", ["\u{FEFF}", TEXT, USAGE, DONE].concat().into()),
        ("no terminal event", [TEXT, USAGE].concat().into()),
        ("no blank line at its end", [TEXT, USAGE.trim_end()].concat().into()),
        ("mixed line ends", [TEXT, USAGE, DONE].concat().replacen("\n\n", "\r\n\r\n", 1).replacen("\n\n", "\r\r", 1).into()),
        ("comments and other fields", [":\n\n: ping\n\nevent: x\nid: 1\nretry: 2\nfoo\n", TEXT, "id\n", USAGE, DONE].concat().into()),
        ("half an event behind the end", [TEXT, USAGE, DONE, "data: {\"usage\":{\"prompt_tokens\":999}}"].concat().into()),
        ("data behind the end", [TEXT, USAGE, DONE, "data: {\"usage\":{\"prompt_tokens\":999}}\n\n"].concat().into()),
        ("a million empty events", [TEXT, &"data:\n\n".repeat(1_000_000), USAGE, DONE].concat().into()),
        ("a million lines in one event", ["data\n".repeat(1_000_000).as_str(), "\n", TEXT, USAGE, DONE].concat().into()),
        ("a giant event", [TEXT, &giant, DONE].concat().into()),
        ("a giant comment", [TEXT, ": ", &"z".repeat(3 << 20), "\n\n", USAGE, DONE].concat().into()),
        ("zero bytes", [TEXT.as_bytes(), b"data: \0\0\n\n\0\n", USAGE.as_bytes(), DONE.as_bytes()].concat()),
        ("text that is no UTF-8", [b"data: {\"choices\":[{\"delta\":{\"content\":\"\xC3\x28\xFF\"}}]}\n\n", USAGE.as_bytes(), DONE.as_bytes()].concat()),
        ("usage beside text that is no UTF-8", [TEXT.as_bytes(), b"data: {\"choices\":[{\"delta\":{\"content\":\"\xFF\"}}],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":7}}\n\n"].concat()),
    ];
    for (name, stream) in cases {
        for size in [stream.len(), 1000] {
            let chunks = stream.chunks(size).map(Bytes::copy_from_slice).collect();
            let record = record_of(&stand, &asks::chat_stream_with_usage(), &SSE, chunks).await;
            assert_eq!(known(&record), (Some(11), Some(7), "reported", None), "{name}: {record:#}");
        }
    }
}

#[tokio::test]
async fn a_stream_without_any_line_end_is_no_answer_and_is_not_held() {
    let stand = Stand::start();
    // The tokenizer's tables stay.
    record_of(&stand, &asks::chat_stream_with_usage(), &SSE, vec![TEXT.into()]).await;
    let before = crate::memory::memory(stand.pid(), "VmRSS:");
    let chunks = vec![Bytes::from("data: one two three ".repeat(1 << 14)); 200];
    let record = record_of(&stand, &asks::chat_stream_with_usage(), &SSE, chunks).await;
    assert_eq!(record["provenance"], "estimated", "{record:#}");
    let after = crate::memory::memory(stand.pid(), "VmRSS:");
    assert!(after < before + (8 << 10), "resident rose from {before} to {after} KiB");
}

#[tokio::test]
async fn an_answer_of_a_million_levels_or_of_text_that_is_no_text_is_read_around() {
    let stand = Stand::start();
    let deep = |open: &str, close: &str| open.repeat(1_000_000) + "1" + &close.repeat(1_000_000);
    let usage = r#""usage":{"prompt_tokens":11,"completion_tokens":7}"#;
    let cases = [
        format!("{{\"x\":{},{usage}}}", deep("[", "]")).into_bytes(),
        format!("{{\"choices\":{},{usage}}}", deep("[", "]")).into_bytes(),
        format!("{{\"choices\":[{}],{usage}}}", deep("{\"a\":", "}")).into_bytes(),
        [b"{\"choices\":[{\"message\":{\"content\":\"\xFF\xC3\x28\"}}],".as_slice(), usage.as_bytes(), b"}"].concat(),
        format!("{{{usage},{usage},\"choices\":[]}} trailing").into_bytes(),
        format!("{{\"usage\":{{\"prompt_tokens\":1}},\"\\u0075sage\":null,\"choices\":[],{usage}}}").into_bytes(),
    ];
    for body in cases {
        let begin = body[..60].escape_ascii().to_string();
        let record =
            record_of(&stand, &asks::chat(), &JSON, body.chunks(70_000).map(Bytes::copy_from_slice).collect()).await;
        assert_eq!(known(&record), (Some(11), Some(7), "reported", None), "{begin}: {record:#}");
    }
    let usage_too_deep = format!("{{\"choices\":[],\"usage\":{{\"prompt_tokens\":{}}}}}", deep("[", "]"));
    let record = record_of(&stand, &asks::chat(), &JSON, vec![usage_too_deep.into()]).await;
    assert_eq!(record["provenance"], "estimated", "{record:#}");
    for (ask, body) in [
        (asks::messages(), format!("{{\"type\":\"message\",\"content\":{}}}", deep("[", "]"))),
        (asks::generate(), format!("{{\"candidates\":{}}}", deep("[", "]"))),
        (asks::generate_array(), deep("[", "]")),
        (asks::responses(), format!("{{\"object\":\"response\",\"output\":{}}}", deep("[", "]"))),
    ] {
        assert_ne!(record_of(&stand, &ask, &JSON, vec![body.into()]).await["provenance"], "reported");
    }
}

#[tokio::test]
async fn an_odd_request_goes_on_as_it_is_and_its_answer_says_what_it_was() {
    let stand = Stand::start();
    let deep = "[".repeat(500_000) + &"]".repeat(500_000);
    let odd = [
        r#"{"model":"cheap","model":"gpt-4o-mini","messages":[]}"#.to_owned(),
        r#"{"m\u006fdel":"gpt-4o-mini","stream":false,"stream":"true","messages":[]}"#.to_owned(),
        format!("{{\"messages\":{deep},\"model\":\"gpt-4o-mini\"}}"),
        r#"{"model":"gpt-4o-mini","messages":[]}{"model":"other"}"#.to_owned(),
        r#"{"model":["gpt-4o-mini"],"stream":1,"messages":[{"role":"user","content":"é"#.to_owned(),
        "[1,2".to_owned(),
        String::new(),
    ];
    for body in &odd {
        stand.fake.forget();
        let call = stand.call("/openai/v1/chat/completions").header("content-type", "application/json");
        let reply = call.fake("model=answers;input=11;output=7").body(body.clone()).send().await;
        assert_eq!(reply.status, 200);
        assert_eq!(stand.fake.requests()[0].body, body.as_bytes());
    }
    for record in stand.records_when(odd.len()) {
        assert_eq!(known(&record), (Some(11), Some(7), "reported", None), "{record:#}");
        assert_eq!(record["model"], "answers");
    }
    assert!(!stand.log().contains("panicked"));
}

/// A whole answer of each API with these usage members in their order: prompt, output, cached, total.
fn with_usage([prompt, output, cached, total]: [&Value; 4]) -> Vec<(Ask, Value)> {
    let chat = json!({"prompt_tokens": prompt, "completion_tokens": output, "prompt_tokens_details": {"cached_tokens": cached}, "total_tokens": total});
    let responses = json!({"input_tokens": prompt, "output_tokens": output, "input_tokens_details": {"cached_tokens": cached}, "total_tokens": total});
    let messages = json!({"input_tokens": prompt, "output_tokens": output, "cache_read_input_tokens": cached});
    let generate = json!({"promptTokenCount": prompt, "candidatesTokenCount": output, "cachedContentTokenCount": cached, "totalTokenCount": total});
    vec![
        (
            asks::chat(),
            json!({"object": "chat.completion", "model": "gpt-4o-mini", "choices": [{"message": {"content": "one two"}, "finish_reason": "stop"}], "usage": chat}),
        ),
        (
            asks::responses(),
            json!({"object": "response", "status": "completed", "model": "gpt-4o-mini", "output": [], "usage": responses}),
        ),
        (
            asks::messages(),
            json!({"type": "message", "model": "claude-sonnet-4-5", "content": [{"type": "text", "text": "one two"}], "stop_reason": "end_turn", "usage": messages}),
        ),
        (
            asks::generate(),
            json!({"modelVersion": "gemini-2.5-flash", "candidates": [{"content": {"parts": [{"text": "one two"}]}, "finishReason": "STOP"}], "usageMetadata": generate}),
        ),
    ]
}

#[tokio::test]
async fn every_lie_about_usage_is_marked_counted_and_costs_no_less_than_nothing() {
    let stand = Stand::start();
    let (ten, two, none, twelve) = (json!(10), json!(2), json!(0), json!(12));
    let lies = [
        json!(-5),
        json!(2.5),
        json!("10"),
        json!(1e300),
        json!(1_u64 << 41),
        json!(u64::MAX),
        json!([10]),
        json!(true),
    ];
    let mut marked = 0;
    let mut seen = 0;
    for lie in &lies {
        for usage in [[lie, &two, &none, &twelve], [&ten, lie, &none, &twelve], [&ten, &two, lie, &twelve]] {
            for (ask, answer) in with_usage(usage) {
                assert!(answered(&stand, &ask, &JSON, vec![answer.to_string().into()]).await.is_whole);
                seen += 1;
            }
        }
    }
    for (ask, answer) in
        with_usage([&ten, &two, &json!(50), &twelve]).into_iter().filter(|(ask, _)| !ask.path.contains("messages"))
    {
        assert!(answered(&stand, &ask, &JSON, vec![answer.to_string().into()]).await.is_whole);
        seen += 1;
    }
    for record in stand.records_when(seen) {
        let (input, output, provenance, anomaly) = known(&record);
        assert!(anomaly.is_some(), "{record:#}");
        assert!(provenance != "none" && provenance != "unknown", "{record:#}");
        assert!(record["usage_raw"].is_object(), "{record:#}");
        assert!(
            input.is_some_and(|count| count < 1 << 40) && output.is_some_and(|count| count < 1 << 40),
            "{record:#}"
        );
        assert!(record["cost_nanousd"].as_i64().is_some_and(|cost| cost >= 0), "{record:#}");
        marked += 1;
    }
    stand.metric_becomes("tokenmeter_anomalies_total", &[], f64::from(marked)).await;
    stand.run(&["verify"]);
}

#[tokio::test]
async fn usage_in_anothers_shape_is_not_taken_for_nothing() {
    let stand = Stand::start();
    let [chat, _, messages, generate] = asks::whole();
    for (ask, answer) in [
        (chat, json!({"choices": [{"message": {"content": "one two"}}], "usageMetadata": {"promptTokenCount": 10}})),
        (
            messages,
            json!({"type": "message", "content": [{"type": "text", "text": "one two"}], "usage": {"prompt_tokens": 10}}),
        ),
        (
            generate,
            json!({"candidates": [{"content": {"parts": [{"text": "one two"}]}}], "usage": {"prompt_tokens": 10}}),
        ),
    ] {
        let record = record_of(&stand, &ask, &JSON, vec![answer.to_string().into()]).await;
        let (input, output, provenance, _) = known(&record);
        // Two words, and what Claude counts around them.
        assert!(provenance == "estimated" && (Some(2)..=Some(5)).contains(&output), "{record:#}");
        assert!(input > Some(3), "{record:#}");
    }
}
