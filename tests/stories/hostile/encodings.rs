//! Encoded answers that are not what they say: bombs, damage, several members; and requests that nobody looks into.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};

use super::{known, record_of};
use crate::asks::{self, Ask};
use crate::memory::memory;
use crate::stand::Stand;

const SSE: (&str, &str) = ("content-type", "text/event-stream");
const JSON: (&str, &str) = ("content-type", "application/json");
/// What an answer that decodes to ten gigabytes may add: a brotli window is 16 MiB.
const RAISE_KIB_MAX: u64 = 20 << 10;
const BOMB_BYTES: u64 = 10 << 30;
const PART_BYTES: usize = 8 << 20;

const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":7}}\n\n";

fn gzipped(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// `head` and then ten gigabytes of one letter, encoded: a begin, and a part that is repeated.
fn bomb(encoding: &str, head: &[u8]) -> (Bytes, Bytes) {
    let part = vec![b'a'; PART_BYTES];
    let (begin, part) = match encoding {
        "gzip" => (gzipped(head), gzipped(&part)),
        "zstd" => (zstd::encode_all(head, 1).unwrap(), zstd::encode_all(&*part, 1).unwrap()),
        // Behind a full flush, the same bytes mean the same again.
        "deflate" => {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(head).unwrap();
            encoder.flush().unwrap();
            let begin = std::mem::take(encoder.get_mut());
            encoder.write_all(&part).unwrap();
            encoder.flush().unwrap();
            (begin, std::mem::take(encoder.get_mut()))
        }
        _ => {
            let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 2, 24);
            encoder.write_all(head).unwrap();
            encoder.write_all(&part).unwrap();
            encoder.flush().unwrap();
            let begin = std::mem::take(encoder.get_mut());
            encoder.write_all(&part).unwrap();
            encoder.flush().unwrap();
            (begin, std::mem::take(encoder.get_mut()))
        }
    };
    (begin.into(), part.into())
}

#[tokio::test]
async fn ten_gigabytes_in_a_small_answer_pass_as_they_are_and_are_given_up_on() {
    let stand = Stand::start();
    // The tokenizer's tables stay.
    stand.ask(&asks::chat()).fake("no_usage").send().await;
    stand.only_record();
    for encoding in ["gzip", "deflate", "br", "zstd"] {
        for (ask, kind, head) in [
            (asks::chat(), JSON, r#"{"choices":[{"message":{"content":""#),
            (
                asks::chat_stream_with_usage(),
                SSE,
                "data: {\"choices\":[{\"delta\":{\"content\":\"hello\"}}]}\n\ndata: ",
            ),
        ] {
            let (begin, part) = bomb(encoding, head.as_bytes());
            let parts = usize::try_from(BOMB_BYTES).unwrap() / PART_BYTES;
            let chunks = std::iter::once(begin).chain(std::iter::repeat_n(part, parts)).collect();
            let before = memory(stand.pid(), "VmRSS:");
            std::fs::write(format!("/proc/{}/clear_refs", stand.pid()), "5").unwrap();
            let record = record_of(&stand, &ask, &[kind, ("content-encoding", encoding)], chunks).await;
            let peak = memory(stand.pid(), "VmHWM:");
            eprintln!("a {encoding} bomb under {}: resident {before} KiB, at most {peak} KiB", kind.1);
            assert!(peak < before + RAISE_KIB_MAX, "{encoding}: resident rose from {before} to {peak} KiB");
            assert_eq!((&record["anomaly"], &record["outcome"]), (&"unreadable".into(), &"completed".into()));
            assert_eq!(record["provenance"], "estimated", "{record:#}");
            assert!(record["tokens"]["output"].as_u64().unwrap() > 0, "it is not free: {record:#}");
        }
    }
}

#[tokio::test]
async fn damage_within_an_encoding_loses_nothing_that_stands_before_it() {
    let stand = Stand::start();
    let text = "data: {\"choices\":[{\"delta\":{\"content\":\"one two three\"}}]}\n\n";
    let headers = [SSE, ("content-encoding", "gzip")];
    let ask = asks::chat_stream_with_usage();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all([text, USAGE].concat().as_bytes()).unwrap();
    encoder.flush().unwrap();
    let behind_usage = [encoder.get_ref().as_slice(), &[0xFF; 100]].concat();
    let record = record_of(&stand, &ask, &headers, vec![behind_usage.into()]).await;
    assert_eq!(known(&record), (Some(11), Some(7), "reported", Some("unreadable")));

    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.flush().unwrap();
    let before_usage = [encoder.get_ref().as_slice(), &[0xFF; 100], USAGE.as_bytes()].concat();
    let record = record_of(&stand, &ask, &headers, vec![before_usage.into()]).await;
    let (input, output, provenance, anomaly) = known(&record);
    assert_eq!((provenance, anomaly), ("estimated", Some("unreadable")), "{record:#}");
    assert!(input > Some(3) && output == Some(3), "{record:#}");
}

#[tokio::test]
async fn members_one_after_the_other_are_one_answer() {
    let stand = Stand::start();
    let parts = [gzipped(b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n"), gzipped(b"\n"), gzipped(b"")];
    let body = [parts.concat(), gzipped(&USAGE.as_bytes()[..30]), gzipped(&USAGE.as_bytes()[30..])].concat();
    let ask = asks::chat_stream_with_usage();
    let headers = [SSE, ("content-encoding", "x-gzip")];
    let record = record_of(&stand, &ask, &headers, body.chunks(3).map(Bytes::copy_from_slice).collect()).await;
    assert_eq!(known(&record), (Some(11), Some(7), "reported", None));
}

#[tokio::test]
async fn an_answer_in_an_encoding_that_nobody_knows_is_neither_refused_nor_free() {
    let stand = Stand::start();
    let body = vec![Bytes::from(vec![7; 40_000])];
    for encoding in ["compress", "gzip, br", "aes128gcm"] {
        let record = record_of(&stand, &asks::chat(), &[JSON, ("content-encoding", encoding)], body.clone()).await;
        let (_, output, provenance, anomaly) = known(&record);
        assert_eq!((provenance, anomaly), ("estimated", Some("unreadable")), "{record:#}");
        assert!(output > Some(1000), "{record:#}");
    }
}

#[tokio::test]
async fn an_encoded_request_goes_on_as_it_is_and_is_not_decoded() {
    let stand = Stand::start();
    // Prices and the tokenizer's tables stay.
    stand.ask(&asks::chat()).fake("no_usage").send().await;
    stand.only_record();
    stand.fake.forget();
    let bomb = gzipped(&vec![b' '; 64 << 20]);
    let before = memory(stand.pid(), "VmRSS:");
    let Ask { path, .. } = asks::chat();
    let call = stand.call(path).header("content-type", "application/json").header("content-encoding", "gzip");
    let reply = call.body(bomb.clone()).send().await;
    assert_eq!(reply.status, 200);
    let received = stand.fake.requests().remove(0);
    assert_eq!((received.header("content-encoding"), &received.body), (Some("gzip"), &bomb));
    let after = memory(stand.pid(), "VmRSS:");
    assert!(after < before + (8 << 10), "resident rose from {before} to {after} KiB");
    assert_eq!(stand.records_when(2)[1]["provenance"], "reported");
}
