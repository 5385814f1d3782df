//! Opening: the first bytes of a client's connection, which tell HTTP/2 from HTTP/1.1.
//!
//! hyper-util does the same; but it then gives hyper these bytes alone, and hyper's read buffer, found too small for what
//! follows, is doubled for as long as the connection lasts: six kilobytes of resident memory each.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// What every HTTP/2 connection begins with, and no HTTP/1 request (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection whose first bytes are known, and still to be read.
pub(crate) struct Opened {
    first: [u8; PREFACE.len()],
    /// So many of them are.
    known: usize,
    /// So many of these were read again.
    read: usize,
    stream: TokioIo<TcpStream>,
}

impl Opened {
    /// Waits for as many bytes as it takes to tell.
    pub(crate) async fn new(mut stream: TcpStream) -> io::Result<Self> {
        let (mut first, mut known) = ([0; PREFACE.len()], 0);
        while let Some(room) = first.get_mut(known..).filter(|room| !room.is_empty()) {
            let count = stream.read(room).await?;
            known += count;
            if count == 0 || first.get(..known) != PREFACE.get(..known) {
                break;
            }
        }
        Ok(Self { first, known, read: 0, stream: TokioIo::new(stream) })
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.first == *PREFACE
    }
}

impl Read for Opened {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, mut room: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let again = this.first.get(this.read..this.known).unwrap_or_default();
        if again.is_empty() {
            return Pin::new(&mut this.stream).poll_read(context, room);
        }
        let again = again.get(..room.remaining()).unwrap_or(again);
        room.put_slice(again);
        this.read += again.len();
        // What is behind them is read at once, if it is there.
        match Pin::new(&mut this.stream).poll_read(context, room) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
        }
    }
}

impl Write for Opened {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// What is told of `parts`, sent one by one, and read again of them in pieces of so many bytes.
    async fn opened(parts: &[&[u8]], piece: usize) -> (bool, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sending = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            for part in parts {
                stream.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let reading = async {
            let (stream, _) = listener.accept().await.unwrap();
            let opened = Opened::new(stream).await.unwrap();
            let is_http2 = opened.is_http2();
            let (mut opened, mut read, mut room) = (TokioIo::new(opened), Vec::new(), vec![0; piece]);
            loop {
                match opened.read(&mut room).await.unwrap() {
                    0 => return (is_http2, read),
                    count => read.extend_from_slice(&room[..count]),
                }
            }
        };
        tokio::join!(sending, reading).1
    }

    #[tokio::test]
    async fn http2_is_told_by_all_of_its_preface_and_nothing_is_lost() {
        let whole = [&PREFACE[..], b"frames"].concat();
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        for parts in [&[&whole[..]][..], &[&whole[..3], &whole[3..]], &bytes] {
            for piece in [7, PREFACE.len(), 8192] {
                assert_eq!(opened(parts, piece).await, (true, whole.clone()), "in pieces of {piece}");
            }
        }
        for other in
            [&b"POST /v1/chat HTTP/1.1\r\nhost: x\r\n\r\n"[..], b"PRI * HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0", b"G", b""]
        {
            let bytes: Vec<&[u8]> = other.chunks(1).collect();
            for parts in [&[other][..], &bytes] {
                assert_eq!(opened(parts, 7).await, (false, other.to_vec()), "{}", other.escape_ascii());
            }
        }
    }
}
