//! A gigabyte passes in the memory of a small call.
//!
//! Each kind of transfer goes first at a smaller size, so that buffers, pools and the ledger are warm; then a gigabyte
//! may raise the process's peak by no more than [`RAISE_KIB_MAX`]. `TOKENMETER_TEST_BINARY` names another build to
//! measure, such as the release build.

use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::asks;
use crate::stand::{PAYERS, Stand, upstreams};

const WARM_BYTES: u64 = 100_000_000;
const LARGE_BYTES: u64 = 1_000_000_000;
const RAISE_KIB_MAX: u64 = 2 << 10;
const PIECE_BYTES: usize = 64 << 10;

#[tokio::test]
async fn a_gigabyte_of_answer_takes_no_more_memory_than_a_small_one() {
    let stand = Stand::start();
    for (name, ask, script) in [
        // First: the tokenizer's tables stay, and whatever streams for a second needs them.
        ("stream without usage, counted by us", asks::chat_stream_with_usage(), ";no_usage"),
        ("stream with usage", asks::chat_stream_with_usage(), ""),
        ("stream, usage asked by us", asks::chat_stream(), ""),
        ("stream over HTTP/2", asks::chat_stream_with_usage(), ""),
        ("whole answer", asks::chat(), ""),
    ] {
        measured(&stand, name, async |bytes| {
            let call = stand.ask(&ask).fake(&format!("bytes={bytes}{script}"));
            let mut answer = if name.ends_with("HTTP/2") { call.begin_http2().await } else { call.begin().await };
            assert!(read_away(&mut answer).await > bytes);
            // Counting what nobody reported ends before the memory is looked at.
            stand
                .metric_becomes(
                    "tokenmeter_requests_total",
                    &[],
                    f64::from(u32::try_from(stand.fake.requests().len()).unwrap()),
                )
                .await;
        })
        .await;
    }
    for record in stand.records_when(10) {
        assert_eq!(record["outcome"], "completed", "{record}");
        assert!(record["tokens"]["output"].as_u64().unwrap() >= WARM_BYTES / 5, "{record}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_makes_nobody_hold_its_answer() {
    // The tokenizer's tables, which the first lesson needs, are another story's.
    let stand = Stand::with(|base| format!("[counting]\nlearn = false\n{}{PAYERS}", upstreams(base)));
    let ask = asks::chat_stream();
    let bytes = format!("bytes={LARGE_BYTES}");
    let mut warm = stand.ask(&ask).fake(&format!("bytes={WARM_BYTES}")).begin().await;
    read_away(&mut warm).await;
    let before = memory(stand.pid(), "VmRSS:");
    let stalled = stand.ask(&ask).fake(&bytes).begin().await;
    // The upstream sends until nobody takes any more.
    let mut sent = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = stand.fake.requests().last().unwrap().sent_bytes;
        if now == sent {
            break;
        }
        sent = now;
    }
    assert!(sent < LARGE_BYTES / 10, "{sent} bytes were taken for a client that reads none");
    let after = memory(stand.pid(), "VmRSS:");
    eprintln!("a client that does not read: {sent} bytes under way, resident {before} and {after} KiB");
    assert!(after < before + RAISE_KIB_MAX, "resident rose from {before} to {after} KiB");
    drop(stalled);
}

/// Reads a whole answer without keeping it; its length.
async fn read_away(answer: &mut http::Response<Incoming>) -> u64 {
    let mut received = 0;
    while let Some(frame) = answer.frame().await {
        received += frame.unwrap().data_ref().map_or(0, Bytes::len) as u64;
    }
    received
}

#[tokio::test]
async fn a_gigabyte_of_request_takes_no_more_memory_than_what_may_be_looked_into() {
    // What is held of a request for its model and for counting is configured; here it is small, so that it shows.
    let stand = Stand::with(|base| format!("[proxy]\nbody_view_bytes_max = 65536\n{}{PAYERS}", upstreams(base)));
    let http = Client::builder(TokioExecutor::new()).build_http::<Upload>();
    for (name, path, content_type, head) in [
        ("upload that is no JSON", "/openai/v1/files", "application/octet-stream", ""),
        ("upload of JSON", "/openai/v1/chat/completions", "application/json", r#"{"messages":[{"content":""#),
    ] {
        measured(&stand, name, async |bytes| {
            let request = Request::post(format!("{}{path}", stand.proxy())).header("content-type", content_type);
            let answer = http.request(request.body(Upload::new(head, bytes)).unwrap()).await.unwrap();
            assert_eq!(answer.status(), 200);
            answer.into_body().collect().await.unwrap();
            assert_eq!(stand.fake.requests().last().unwrap().body_bytes, bytes);
            stand.fake.forget();
        })
        .await;
    }
    stand.records_when(4);
}

/// Transfers twice, and compares the peaks of the server's memory.
async fn measured(stand: &Stand, name: &str, transfer: impl AsyncFn(u64)) {
    let pid = stand.pid();
    forget_peak(pid);
    transfer(WARM_BYTES).await;
    let warm = [memory(pid, "VmHWM:"), memory(pid, "VmRSS:")];
    forget_peak(pid);
    let begun = Instant::now();
    transfer(LARGE_BYTES).await;
    let large = [memory(pid, "VmHWM:"), memory(pid, "VmRSS:")];
    eprintln!(
        "{name}: peak {} KiB after 100 MB, {} KiB after 1 GB; resident {} and {} KiB; {:.1?}",
        warm[0],
        large[0],
        warm[1],
        large[1],
        begun.elapsed()
    );
    assert!(large[0] < warm[0] + RAISE_KIB_MAX, "{name}: the peak rose from {} to {} KiB", warm[0], large[0]);
    assert!(large[1] < warm[1] + RAISE_KIB_MAX, "{name}: resident rose from {} to {} KiB", warm[1], large[1]);
}

/// Lets the kernel's peak begin again at what is resident now.
fn forget_peak(pid: u32) {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

/// A figure of the kernel about a process, in KiB.
pub(crate) fn memory(pid: u32, label: &str) -> u64 {
    let status = std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/status"))).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(label)).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// A request's body of so many bytes, never held.
struct Upload {
    head: Bytes,
    piece: Bytes,
    left: u64,
}

impl Upload {
    fn new(head: &'static str, bytes: u64) -> Self {
        Self { head: Bytes::from_static(head.as_bytes()), piece: "word ".repeat(PIECE_BYTES / 5).into(), left: bytes }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut piece = if self.head.is_empty() { self.piece.clone() } else { std::mem::take(&mut self.head) };
        piece.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
