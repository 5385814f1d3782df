//! Play: an answer's body as the script says: encoded, cut into pieces, stalled, hung up.

use std::io::{self, Write};
use std::iter::Peekable;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_ENCODING, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use hyper::body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::answer::{Answer, Pieces};
use super::log::{FateGuard, Stall};
use super::script::{Encoding, Script};

type Frames = mpsc::Sender<io::Result<Frame<Bytes>>>;

/// A body under way. One frame at a time: each is flushed before the next is made.
pub(crate) struct Playing {
    frames: mpsc::Receiver<io::Result<Frame<Bytes>>>,
    left: Option<u64>,
    guard: FateGuard,
}

impl Playing {
    pub(crate) fn start(
        answer: Answer,
        script: Script,
        guard: FateGuard,
        reset: Arc<AtomicBool>,
    ) -> io::Result<Response<Self>> {
        let Answer { status, mut headers, mut pieces, mut length } = answer;
        if let Some(encoding) = script.encoding {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
            pieces = Box::new(Encoded { pieces: Some(pieces), encoder: Encoder::new(encoding)? });
            if length.take().is_some_and(|length| length < 1 << 20) {
                let encoded: Vec<Bytes> = pieces.collect();
                length = Some(encoded.iter().map(|piece| piece.len() as u64).sum());
                pieces = Box::new(encoded.into_iter());
            }
        }
        if let Some(size) = script.chunks {
            pieces = Box::new(pieces.flat_map(move |piece| pieces_of(piece, size)));
        }
        if script.chunked || script.trailers {
            length = None;
        }
        if script.trailers {
            headers.insert(TRAILER, HeaderValue::from_static("x-fake-trailer"));
        }
        if script.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let (sender, frames) = mpsc::channel(1);
        TokioExecutor::new().execute(play(pieces.peekable(), script, guard.stall(), reset, sender));
        let mut playing = Self { frames, left: length, guard };
        playing.notice_end();
        let mut response = Response::new(playing);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }

    fn notice_end(&mut self) {
        if self.left == Some(0) {
            self.guard.answered();
        }
    }
}

impl Body for Playing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let frame = ready!(self.frames.poll_recv(context));
        match &frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                self.guard.sent(length);
                self.left = self.left.map(|left| left.saturating_sub(length as u64));
                self.notice_end();
                if frame.is_trailers() {
                    self.guard.answered();
                }
            }
            Some(Err(_)) => self.guard.cut(),
            None => self.guard.answered(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

async fn play(mut pieces: Peekable<Pieces>, script: Script, stall: Stall, reset: Arc<AtomicBool>, frames: Frames) {
    let (mut count, mut bytes) = (0_u64, 0_u64);
    while let Some(mut piece) = pieces.next() {
        let is_last = pieces.peek().is_none();
        if script.stall_after == Some(count) || (script.stall_before_last && is_last) {
            tokio::select! {
                () = stall.until_released(script.hold_in_body()) => {}
                () = frames.closed() => return,
            }
        }
        if script.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(script.delay_ms)).await;
        }
        if script.cut_after == Some(count) {
            return hang_up(&script, &reset, &frames).await;
        }
        let room = script.cut_after_bytes.map(|limit| limit.saturating_sub(bytes));
        let room = room.and_then(|room| usize::try_from(room).ok()).filter(|room| *room < piece.len());
        if let Some(room) = room {
            piece.truncate(room);
        }
        bytes = bytes.saturating_add(piece.len() as u64);
        count = count.saturating_add(1);
        if !piece.is_empty() && frames.send(Ok(Frame::data(piece))).await.is_err() {
            return;
        }
        if room.is_some() {
            return hang_up(&script, &reset, &frames).await;
        }
    }
    if script.cut_after == Some(count) || script.cut_after_bytes == Some(bytes) {
        return hang_up(&script, &reset, &frames).await;
    }
    if script.trailers {
        let end = (HeaderName::from_static("x-fake-trailer"), HeaderValue::from_static("end"));
        let trailers = HeaderMap::from_iter([end]);
        // A client that has left wants no trailers either.
        drop(frames.send(Ok(Frame::trailers(trailers))).await);
    }
}

/// Fails the body once what was sent is with the kernel.
async fn hang_up(script: &Script, reset: &AtomicBool, frames: &Frames) {
    let Ok(permit) = frames.reserve().await else { return };
    // The last frame was taken: on this one thread the connection flushes it before we go on.
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
    reset.store(script.reset, Ordering::Release);
    permit.send(Err(io::Error::other("the script says to cut here")));
}

fn pieces_of(mut whole: Bytes, size: usize) -> impl Iterator<Item = Bytes> + Send {
    std::iter::from_fn(move || (!whole.is_empty()).then(|| whole.split_to(size.min(whole.len()))))
}

/// Pieces, each encoded and flushed, so that a reader can decode it when it comes.
struct Encoded {
    /// `None` when the end was written.
    pieces: Option<Pieces>,
    encoder: Encoder,
}

impl Iterator for Encoded {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let piece = self.pieces.as_mut()?.next();
        if piece.is_none() {
            self.pieces = None;
        }
        // Writing into a Vec does not fail.
        self.encoder.encode(piece.as_deref()).ok()
    }
}

enum Encoder {
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Deflate(flate2::write::ZlibEncoder<Vec<u8>>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    fn new(encoding: Encoding) -> io::Result<Self> {
        let level = flate2::Compression::fast();
        Ok(match encoding {
            Encoding::Brotli => Self::Brotli(Box::new(brotli::CompressorWriter::new(Vec::new(), 4096, 3, 20))),
            Encoding::Deflate => Self::Deflate(flate2::write::ZlibEncoder::new(Vec::new(), level)),
            Encoding::Gzip => Self::Gzip(flate2::write::GzEncoder::new(Vec::new(), level)),
            Encoding::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(Vec::new(), 1)?),
        })
    }

    /// What `piece` becomes; `None` ends the body.
    fn encode(&mut self, piece: Option<&[u8]>) -> io::Result<Bytes> {
        let Some(piece) = piece else { return self.finish() };
        let written = match self {
            Self::Brotli(encoder) => {
                encoder.write_all(piece)?;
                encoder.flush()?;
                encoder.get_mut()
            }
            Self::Deflate(encoder) => {
                encoder.write_all(piece)?;
                encoder.flush()?;
                encoder.get_mut()
            }
            Self::Gzip(encoder) => {
                encoder.write_all(piece)?;
                encoder.flush()?;
                encoder.get_mut()
            }
            Self::Zstd(encoder) => {
                encoder.write_all(piece)?;
                encoder.flush()?;
                encoder.get_mut()
            }
        };
        Ok(std::mem::take(written).into())
    }

    fn finish(&mut self) -> io::Result<Bytes> {
        let written = match self {
            Self::Brotli(encoder) => {
                let spare = brotli::CompressorWriter::new(Vec::new(), 4096, 3, 20);
                std::mem::replace(&mut **encoder, spare).into_inner()
            }
            Self::Deflate(encoder) => {
                encoder.try_finish()?;
                std::mem::take(encoder.get_mut())
            }
            Self::Gzip(encoder) => {
                encoder.try_finish()?;
                std::mem::take(encoder.get_mut())
            }
            Self::Zstd(encoder) => {
                encoder.do_finish()?;
                std::mem::take(encoder.get_mut())
            }
        };
        Ok(written.into())
    }
}

/// A connection that can end in a reset.
pub(crate) struct Socket {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, reset: Arc<AtomicBool>) -> Self {
        Self { stream, reset }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Acquire) {
            // A socket that refuses closes in order: the client notices either way.
            drop(self.stream.set_zero_linger());
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reset.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }
}
