//! Bytes: what the client gets is what the upstream sent, and the other way round.

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::asks::{self, Ask};
use crate::fake_upstream::Canned;
use crate::stand::{Reply, Stand, events, read_until};

/// What of an answer must be the upstream's own.
fn of_upstream(reply: &Reply) -> (u16, Vec<(String, Bytes)>, Bytes) {
    let headers = reply.headers.iter().filter(|(name, _)| *name != "date" && *name != "x-tokenmeter-record");
    let headers = headers.map(|(name, value)| (name.to_string(), Bytes::copy_from_slice(value.as_bytes())));
    (reply.status.as_u16(), headers.collect(), reply.body.clone())
}

async fn is_passed_unchanged(stand: &Stand, ask: &Ask, script: &str) {
    let through = stand.ask(ask).fake(script).send().await;
    let direct = stand.ask_directly(ask).fake(script).send().await;
    assert!(through.is_whole && direct.is_whole);
    assert_eq!(of_upstream(&through), of_upstream(&direct), "{} {script}", ask.path);
}

#[tokio::test]
async fn status_headers_and_body_pass_unchanged_on_every_wire() {
    let stand = Stand::start();
    for ask in asks::whole().into_iter().chain([asks::embeddings()]) {
        for script in ["", "chunked", "chunks=7", "status=400", "status=401", "status=429", "status=500", "no_usage"] {
            is_passed_unchanged(&stand, &ask, script).await;
        }
    }
    let [_, streams @ ..] = asks::streams();
    for ask in streams.into_iter().chain([asks::chat_stream_with_usage()]) {
        for script in ["", "crlf", "comments", "chunks=1", "status=503", "error_after=2", "no_done"] {
            is_passed_unchanged(&stand, &ask, script).await;
        }
    }
}

#[tokio::test]
async fn compressed_answers_pass_as_they_are_and_are_counted_all_the_same() {
    let stand = Stand::start();
    let mut count = 0;
    for ask in [asks::chat(), asks::chat_stream_with_usage(), asks::messages_stream(), asks::generate_stream()] {
        for encoding in ["gzip", "br", "zstd", "deflate"] {
            is_passed_unchanged(&stand, &ask, encoding).await;
            count += 1;
        }
    }
    for record in stand.records_when(count) {
        assert_eq!(record["provenance"], "reported", "{record:#}");
        assert_eq!((&record["tokens"]["input"], &record["tokens"]["output"]), (&json!(4), &json!(5)), "{record:#}");
    }
}

#[tokio::test]
async fn what_a_stalled_stream_has_said_is_there_before_it_goes_on() {
    let stand = Stand::start();
    for (at, ask) in asks::streams().iter().enumerate() {
        let name = format!("stall-{at}");
        let script = format!("words=9;stall_after=7;hold={name}");
        let mut answer = stand.ask(ask).fake(&script).begin().await;
        read_until(&mut answer, |text| text.contains("word")).await;
        let received = stand.fake.wait_for(|all| all[at].stalled.is_some()).await;
        assert_eq!(received[at].stalled.as_deref(), Some(name.as_str()));
        stand.fake.release(&name);
        assert!(crate::stand::read(answer).await.is_whole);
    }
}

#[tokio::test]
async fn an_http2_client_gets_the_same_bytes_and_the_trailers() {
    let stand = Stand::with(|base| {
        format!("[[upstream]]\nname = \"openai\"\nwire = \"openai\"\nhttp_version = \"2\"\nbase_url = \"{base}\"\n")
    });
    for ask in [asks::chat(), asks::chat_stream_with_usage()] {
        let whole = stand.ask(&ask).fake("trailers").begin_http2().await.into_body().collect().await.unwrap();
        assert_eq!(whole.trailers().unwrap()["x-fake-trailer"], "end");
        assert_eq!(whole.to_bytes(), stand.ask_directly(&ask).send().await.body);
    }
    assert!(stand.records_when(2).iter().all(|record| record["provenance"] == "reported"));
    assert_eq!(stand.fake.requests()[0].version, "HTTP/2.0");
}

#[tokio::test]
async fn paths_and_queries_arrive_byte_for_byte() {
    let stand = Stand::start();
    for target in [
        "/v1/files//a/../b/./c",
        "/v1/x%2Fy%20z%2e%2E?a=1&&b=%zz&c",
        "/v1/models?",
        "/v1/a;b=c:d@e?x=[1]&y={2}&z=|",
        "/v1/models?key=of-the-provider&alt=sse",
        "/%76%31/chat?q=a+b",
        "/",
        "//",
    ] {
        stand.fake.forget();
        assert_eq!(stand.call(&format!("/openai{target}")).method(Method::GET).send().await.status, 200);
        assert_eq!(stand.fake.requests()[0].target, target);
    }
}

#[tokio::test]
async fn an_unknown_endpoint_passes_and_is_recorded_as_unknown() {
    let stand = Stand::start();
    let reply = stand.call("/openai/v1/brand/new").header("content-type", "text/x-odd").body("any bytes").send().await;
    assert_eq!(reply.json()["body_bytes"], 9);
    let record = stand.only_record();
    assert_eq!((&record["operation"], &record["provenance"]), (&json!("other"), &json!("unknown")));
    assert_eq!(record["tokens"], json!({}));
}

#[tokio::test]
async fn of_what_nobody_reads_the_bytes_of_both_directions_are_recorded() {
    let stand = Stand::start();
    let call = |script: &str| stand.call("/openai/v1/brand/new").body(vec![7_u8; 300_000]).fake(script).send();
    let whole = call("").await;
    let units = |request: usize, response: usize| json!({"request_bytes": request, "response_bytes": response});
    assert_eq!(stand.only_record()["units"], units(300_000, whole.body.len()));
    assert!(!call("cut_after_bytes=10").await.is_whole);
    let record = stand.records_when(2).pop().unwrap();
    assert_eq!((&record["outcome"], &record["units"]), (&json!("upstream_cut"), &units(300_000, 10)));
    assert_eq!(call("cut").await.status, 502);
    let record = stand.records_when(3).pop().unwrap();
    assert_eq!((&record["provenance"], &record["units"]), (&json!("unknown"), &units(300_000, 0)));
    // What costs nothing, and what is read, is not weighed.
    call("status=500").await;
    stand.call("/openai/v1/files").method(Method::GET).send().await;
    stand.ask(&asks::chat()).send().await;
    let records = stand.records_when(6);
    assert!(records[3..].iter().all(|record| record.get("units").is_none()), "{records:#?}");
}

/// A form of `parts`: what stands behind `form-data;`, and the content.
fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let parts = parts.iter().map(|(name, content)| {
        let head = format!("--a-boundary\r\nContent-Disposition: form-data; {name}\r\n\r\n");
        [head.as_bytes(), content, b"\r\n"].concat()
    });
    [parts.collect::<Vec<_>>().concat(), b"--a-boundary--\r\n".to_vec()].concat()
}

#[tokio::test]
async fn the_model_of_a_form_is_known_before_and_behind_a_file_and_the_form_passes_unchanged() {
    let stand = Stand::start();
    let (model, stream) = (("name=\"model\"", &b"whisper-1"[..]), ("name=\"stream\"", &b"true"[..]));
    let [small, medium, large] = [1_000, 1_000_000, 9_000_000].map(|bytes| vec![b'-'; bytes]);
    let name = "name=\"file\"; filename=\"model.wav\"";
    let [small, medium, large] = [&small, &medium, &large].map(|content| (name, content.as_slice()));
    for (count, (parts, expected, streams)) in [
        (vec![model, stream, large], Some("whisper-1"), true),
        (vec![small, stream, model], Some("whisper-1"), true),
        // Behind a file a flag is not waited for, nor anything behind more than may be held.
        (vec![model, medium, stream], Some("whisper-1"), false),
        (vec![large, model], None, false),
    ]
    .into_iter()
    .enumerate()
    {
        let body = form(&parts);
        let call = stand.call("/openai/v1/audio/transcriptions").body(body.clone());
        let call = call.header("content-type", "multipart/form-data; boundary=a-boundary");
        assert_eq!(call.fake("status=400").send().await.status, 400);
        let record = stand.records_when(count + 1).pop().unwrap();
        assert_eq!(
            (record["operation"].as_str(), record["model_requested"].as_str()),
            (Some("transcription"), expected)
        );
        assert_eq!(record["stream"], streams, "{count}");
        assert!(stand.fake.requests()[count].body == body, "{count}: what arrived differs");
    }
}

#[tokio::test]
async fn a_request_that_its_client_compressed_passes_as_it_is_and_its_answer_is_counted() {
    let stand = Stand::start();
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5});
    let answer = json!({"object": "chat.completion", "model": "m-1", "choices": [], "usage": usage}).to_string();
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    stand.fake.respond_to("answer", Canned { status: 200, headers, chunks: vec![Bytes::from(answer)] });
    // Legible all the same, so that looking into it would show.
    let body = Bytes::from_static(b"{\"model\":\"no\",\"stream\":true}");
    let call = stand.call("/openai/v1/chat/completions").header("content-encoding", "gzip").body(body.clone());
    assert_eq!(call.header("x-fake-replay", "answer").send().await.status, 200);
    let asked = stand.fake.requests().remove(0);
    assert_eq!((asked.body, asked.headers["content-encoding"].to_str().unwrap()), (body.to_vec(), "gzip"));
    let record = stand.only_record();
    assert_eq!((&record["model"], record.get("model_requested")), (&json!("m-1"), None));
    assert_eq!((&record["provenance"], &record["tokens"]), (&json!("reported"), &json!({"input": 3, "output": 2})));
}

#[tokio::test]
async fn a_redirect_is_the_clients_to_follow() {
    let stand = Stand::start();
    let headers = vec![("location".to_owned(), "/v1/elsewhere".to_owned())];
    stand.fake.respond_to("moved", Canned { status: 307, headers, chunks: Vec::new() });
    let reply = stand.ask(&asks::chat()).header("x-fake-replay", "moved").send().await;
    assert_eq!(reply.status, 307);
    assert_eq!(reply.headers["location"], "/v1/elsewhere");
    assert_eq!(stand.fake.requests().len(), 1);
}

#[tokio::test]
async fn headers_of_the_connection_and_headers_for_us_stop_here() {
    let stand = Stand::start();
    let reply = stand
        .ask(&asks::chat())
        .fake("close")
        .header("connection", "x-private, keep-alive")
        .header("x-private", "1")
        .header("keep-alive", "timeout=5")
        .header("te", "trailers")
        .header("proxy-authorization", "Basic YTpi")
        .header("x-tokenmeter-team", "lab")
        .header("x-tokenmeter-tags", "a=b")
        .header("x-tokenmeter-anything", "1")
        .header("x-else", "one")
        .header("x-else", "two")
        .header("user-agent", "odd/1")
        .send()
        .await;
    let received = &stand.fake.requests()[0].headers;
    let mut names: Vec<&str> = received.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "content-type", "host", "user-agent", "x-else", "x-fake"]);
    assert_eq!(received.get_all("x-else").iter().collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(received["host"], stand.fake.address().to_string());
    assert!(!reply.headers.contains_key("connection"));
}

#[tokio::test]
async fn the_usage_event_that_we_ask_for_is_counted_and_taken_out_again() {
    let stand = Stand::start();
    for script in ["", "chunks=5", "crlf", "comments", "cached=2;reasoning=1;output=9"] {
        let whole = stand.ask_directly(&asks::chat_stream_with_usage()).fake(script).send().await.text();
        stand.fake.forget();
        let reply = stand.ask(&asks::chat_stream()).fake(script).send().await;
        let received: serde_json::Value = serde_json::from_slice(&stand.fake.requests()[0].body).unwrap();
        assert_eq!(received, asks::chat_stream_with_usage().body);

        let ends = if script == "crlf" { "\r\n\r\n" } else { "\n\n" };
        let without: String = whole.split_inclusive(ends).filter(|event| !event.contains("\"choices\":[]")).collect();
        // A comment before the event is part of it or not; the events are the same.
        assert_eq!(events(&reply.text()), events(&without), "{script}");
        if script != "comments" {
            assert_eq!(reply.text(), without, "{script}");
        }
        assert!(events(&reply.text()).iter().all(|event| event["usage"].is_null() && event.get("usage").is_some()));
    }
    for record in stand.records_when(5) {
        assert_eq!(record["provenance"], "reported", "{record:#}");
    }
}

#[tokio::test]
async fn a_client_that_asks_for_usage_gets_its_event() {
    let stand = Stand::start();
    let reply = stand.ask(&asks::chat_stream_with_usage()).send().await.text();
    assert_eq!(events(&reply).last().unwrap()["usage"]["prompt_tokens"], 4);
    assert_eq!(stand.only_record()["usage_raw"]["prompt_tokens"], 4);
}

#[tokio::test]
async fn an_upstream_that_takes_no_stream_options_is_asked_without_and_remembered() {
    let stand = Stand::start();
    let reply = stand.ask(&asks::chat_stream()).fake("refuse_stream_options").send().await;
    assert_eq!(reply.status, 200);
    assert!(reply.text().ends_with("data: [DONE]\n\n"));
    let bodies: Vec<serde_json::Value> =
        stand.fake.requests().iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect();
    assert_eq!(bodies, [asks::chat_stream_with_usage().body, asks::chat_stream().body]);
    assert_eq!(stand.ask(&asks::chat_stream()).fake("refuse_stream_options").send().await.status, 200);
    assert_eq!(stand.fake.requests().len(), 3, "the second call is not asked twice");

    let records = stand.records_when(3);
    let refused = records.iter().find(|record| record["status"] == 400).unwrap();
    assert_eq!((&refused["outcome"], &refused["provenance"]), (&json!("upstream_error"), &json!("none")));
    for record in records.iter().filter(|record| record["status"] == 200) {
        assert_eq!(record["provenance"], "estimated", "{record:#}");
        assert!(record["tokens"]["output"].as_u64().unwrap() > 0, "{record:#}");
    }
}

#[tokio::test]
async fn a_400_for_another_reason_is_the_clients_to_see() {
    let stand = Stand::start();
    let reply = stand.ask(&asks::chat_stream()).fake("status=400").send().await;
    assert_eq!(reply.status, 400);
    assert_eq!(reply.body, stand.ask_directly(&asks::chat_stream()).fake("status=400").send().await.body);
    assert_eq!(stand.fake.requests().len(), 2, "one through tokenmeter, one directly");
}

#[tokio::test]
async fn an_upload_streams_and_arrives_whole() {
    const PART: usize = 3 << 20;
    let stand = Stand::start();
    let mut socket = tokio::net::TcpStream::connect(stand.proxy().trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST /openai/v1/files HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/octet-stream\r\ncontent-length: {}\r\n\r\n",
        2 * PART
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&vec![7; PART]).await.unwrap();
    stand.fake.wait_for(|all| all.first().is_some_and(|one| one.body_bytes > 2 << 20)).await;
    socket.write_all(&vec![8; PART]).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let received = &stand.fake.requests()[0];
    assert_eq!(received.body, [vec![7; PART], vec![8; PART]].concat());
    assert_eq!(received.header("content-length"), Some((2 * PART).to_string().as_str()));
}

#[tokio::test]
async fn a_stream_compressed_although_asked_not_to_passes_whole_and_is_counted() {
    let stand = Stand::start();
    let reply = stand.ask(&asks::chat_stream()).fake("gzip").send().await;
    assert_eq!(stand.fake.requests()[0].header("accept-encoding"), Some("identity"));
    let with_usage = stand.ask_directly(&asks::chat_stream_with_usage()).fake("gzip").send().await;
    assert_eq!(of_upstream(&reply), of_upstream(&with_usage));
    assert_eq!(stand.only_record()["provenance"], "reported");
}
