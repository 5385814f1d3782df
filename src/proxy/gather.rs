//! Gather: while there is much to do, pieces of an answer that are there at once go on at once.
//!
//! hyper writes what a body has before it waits for more, and an upstream's connection hands over one piece at a time: each
//! piece is written by itself, although the next one lies in a buffer, and a write is most of what a piece costs. So while
//! the threads are at work for most of the time a piece waits until the upstream's connection has had its turn, for as long
//! as that brings more. Pieces stay as they are, and those that come one by one hardly wait. At other times none does.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::load::Load;

/// Threads that are at work for so many per cent of the time have more waiting than they can take up at once.
const AT_WORK_PER_CENT_MIN: u64 = 50;
/// So many pieces wait for each other; one of so many bytes waits for none: a write of it costs what it must.
const PIECES_MAX: usize = 8;
const PIECE_BYTES_MAX: usize = 4 << 10;

/// An answer's body, whose pieces may wait for each other.
pub(crate) struct Gather<B: Body> {
    body: B,
    load: Arc<Load>,
    held: VecDeque<Frame<Bytes>>,
    /// What the body ended with, until all before it is written.
    error: Option<B::Error>,
    /// So many were held when this was last put behind the others, and when their turn is over.
    waiting: Option<(usize, Arc<Others>)>,
    /// What is held goes on.
    goes_on: bool,
    /// Something went on that may not be written yet.
    is_unwritten: bool,
}

/// The tasks that were ready when this one waited for them.
struct Others {
    are_through: AtomicBool,
    task: Waker,
}

impl<B: Body> Gather<B> {
    pub(crate) fn new(body: B, load: Arc<Load>) -> Self {
        Self { body, load, held: VecDeque::new(), error: None, waiting: None, goes_on: false, is_unwritten: false }
    }

    fn gathers(&self) -> bool {
        self.load.per_cent(Instant::now()) >= AT_WORK_PER_CENT_MIN
    }

    pub(crate) fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }
}

impl<B: Body<Data = Bytes> + Unpin> Gather<B> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        loop {
            if self.goes_on {
                let piece = self.held.pop_front();
                self.goes_on = !self.held.is_empty();
                if !self.goes_on {
                    self.waiting = None;
                }
                return Poll::Ready(piece.map(Ok));
            }
            if self.error.is_some() {
                // At an error hyper throws away what it has not written: it writes when it is told to wait.
                if self.is_unwritten {
                    self.waiting = Some((0, Others::first(context)));
                }
                if self.waiting.as_ref().is_some_and(|(_, others)| !others.are_through()) {
                    return Poll::Pending;
                }
                return Poll::Ready(self.error.take().map(Err));
            }
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(piece))) => {
                    let ends_it = !is_small(&piece) || self.body.is_end_stream();
                    if self.held.is_empty() && (ends_it || !self.gathers()) {
                        return Poll::Ready(Some(Ok(piece)));
                    }
                    self.held.push_back(piece);
                    self.goes_on = ends_it || self.held.len() >= PIECES_MAX;
                }
                Poll::Ready(Some(Err(error))) => {
                    self.error = Some(error);
                    self.goes_on = !self.held.is_empty();
                }
                Poll::Ready(None) if self.held.is_empty() => return Poll::Ready(None),
                Poll::Ready(None) => self.goes_on = true,
                Poll::Pending if self.held.is_empty() => return Poll::Pending,
                Poll::Pending => match &self.waiting {
                    // hyper asks more than once a turn.
                    Some((_, others)) if !others.are_through() => return Poll::Pending,
                    Some((before, _)) if self.held.len() == *before => self.goes_on = true,
                    Some(_) | None => {
                        self.waiting = Some((self.held.len(), Others::first(context)));
                        return Poll::Pending;
                    }
                },
            }
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Gather<B>
where
    B::Error: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let polled = this.poll(context);
        this.is_unwritten = matches!(polled, Poll::Ready(Some(Ok(_))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.error.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.held.is_empty() { self.body.size_hint() } else { SizeHint::new() }
    }
}

/// Whether it is a piece of data that may wait.
fn is_small(piece: &Frame<Bytes>) -> bool {
    piece.data_ref().is_some_and(|data| data.len() < PIECE_BYTES_MAX)
}

impl Others {
    /// Puts this task behind those that are ready.
    fn first(context: &Context<'_>) -> Arc<Self> {
        let others = Arc::new(Self { are_through: AtomicBool::new(false), task: context.waker().clone() });
        let waker = Waker::from(Arc::clone(&others));
        let waits = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker)).is_pending();
        others.are_through.fetch_or(!waits, Ordering::Relaxed);
        others
    }

    fn are_through(&self) -> bool {
        self.are_through.load(Ordering::Relaxed)
    }
}

impl Wake for Others {
    fn wake(self: Arc<Self>) {
        self.are_through.store(true, Ordering::Relaxed);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::mpsc;

    use super::*;

    /// A body that another task hands over piece by piece, as an upstream's connection does.
    struct Pieces(mpsc::Receiver<Result<Frame<Bytes>, &'static str>>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            self.get_mut().0.poll_recv(context)
        }
    }

    fn piece(number: u32) -> Frame<Bytes> {
        Frame::data(Bytes::from(number.to_string()))
    }

    /// What goes on at once, each time that something does, of so many pieces and then `end`, if there is one.
    async fn written(per_cent: u64, count: u32, end: Option<&'static str>) -> Vec<Vec<String>> {
        let (sender, receiver) = mpsc::channel(1);
        let tasks = tokio_util::task::TaskTracker::new();
        tasks.spawn(async move {
            for sent in (0..count).map(piece).map(Ok).chain(end.map(Err)) {
                sender.send(sent).await.unwrap();
            }
        });
        let mut body = Gather::new(Pieces(receiver), Arc::new(Load::of(per_cent)));
        let (mut written, mut ended) = (Vec::new(), false);
        while !ended {
            let mut at_once = Vec::new();
            poll_fn(|context| {
                // hyper asks again when it has written, in the same turn.
                for _ in 0..2 {
                    while let Poll::Ready(frame) = Pin::new(&mut body).poll_frame(context) {
                        let Some(frame) = frame else {
                            ended = true;
                            return Poll::Ready(());
                        };
                        at_once.push(frame.map_or_else(str::to_owned, |frame| {
                            String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
                        }));
                    }
                }
                if at_once.is_empty() { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
            written.push(at_once);
        }
        written
    }

    #[tokio::test]
    async fn pieces_go_on_together_while_there_is_much_to_do() {
        let written = written(AT_WORK_PER_CENT_MIN, 20, None).await;
        let sizes: Vec<usize> = written.iter().map(Vec::len).collect();
        assert_eq!(written.concat(), (0..20).map(|number| number.to_string()).collect::<Vec<_>>());
        assert_eq!(sizes, [8, 8, 4], "{written:?}");
    }

    #[tokio::test]
    async fn none_waits_at_other_times() {
        let written = written(AT_WORK_PER_CENT_MIN - 1, 20, None).await;
        assert_eq!(written.concat(), (0..20).map(|number| number.to_string()).collect::<Vec<_>>());
        assert!(written.iter().all(|at_once| at_once.len() <= 2), "{written:?}");
    }

    #[tokio::test]
    async fn what_came_before_an_error_goes_on_a_turn_before_it() {
        for per_cent in [0, 100] {
            for count in 0..20 {
                let written = written(per_cent, count, Some("cut")).await;
                let (cut, before) = written.split_last().unwrap();
                assert_eq!(cut, &["cut"], "{written:?}");
                assert_eq!(before.concat(), (0..count).map(|number| number.to_string()).collect::<Vec<_>>());
            }
        }
    }

    #[tokio::test]
    async fn hyper_writes_all_that_came_before_an_error() {
        for (per_cent, count) in [(0, 1), (0, 20), (100, 1), (100, 3), (100, 8), (100, 20)] {
            let (ours, mut theirs) = tokio::io::duplex(64 << 10);
            let tasks = tokio_util::task::TaskTracker::new();
            tasks.spawn(async move {
                let service = hyper::service::service_fn(async |_| {
                    let (sender, receiver) = mpsc::channel(32);
                    for sent in (0..count).map(|number| Ok(piece(number))).chain([Err("cut")]) {
                        sender.send(sent).await.unwrap();
                    }
                    let body = Gather::new(Pieces(receiver), Arc::new(Load::of(per_cent)));
                    Ok::<_, std::convert::Infallible>(hyper::Response::new(body))
                });
                let serving = hyper::server::conn::http1::Builder::new();
                drop(serving.serve_connection(hyper_util::rt::TokioIo::new(ours), service).await);
            });
            theirs.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            theirs.read_to_string(&mut answer).await.unwrap();
            let body = answer.split_once("\r\n\r\n").unwrap().1;
            let lines = (0..count).flat_map(|number| [number.to_string().len().to_string(), number.to_string()]);
            let expected = lines.chain([String::new()]).collect::<Vec<_>>().join("\r\n");
            assert_eq!(body, expected, "{count} pieces at {per_cent} %");
        }
    }

    #[tokio::test]
    async fn a_large_piece_waits_for_none_and_takes_those_before_it_along() {
        let (sender, receiver) = mpsc::channel(8);
        for bytes in [PIECE_BYTES_MAX, 1, 1, PIECE_BYTES_MAX, 1] {
            sender.send(Ok(Frame::data(Bytes::from(vec![7; bytes])))).await.unwrap();
        }
        let mut body = Gather::new(Pieces(receiver), Arc::new(Load::of(100)));
        let mut went = 0;
        poll_fn(|context| {
            while Pin::new(&mut body).poll_frame(context).is_ready() {
                went += 1;
            }
            Poll::Ready(())
        })
        .await;
        assert_eq!(went, 4, "the last waits for others");
    }

    #[tokio::test]
    async fn a_piece_that_comes_alone_waits_for_one_turn_of_the_others() {
        let (sender, receiver) = mpsc::channel(1);
        let mut body = Gather::new(Pieces(receiver), Arc::new(Load::of(100)));
        sender.send(Ok(piece(7))).await.unwrap();
        let mut turns = 0;
        poll_fn(|context| {
            turns += 1;
            Pin::new(&mut body).poll_frame(context).map(drop)
        })
        .await;
        assert_eq!(turns, 2);
    }
}
