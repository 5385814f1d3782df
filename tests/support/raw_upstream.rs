//! A raw upstream: it answers with bytes, whatever HTTP says of them. The fake upstream keeps to HTTP; this one lies.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use bytes::Bytes;
use socket2::SockRef;

/// What is done with a connection once a request has come over it, one after the other.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Writes these bytes, so many times.
    Write(Bytes, usize),
    /// Waits for the next request on this connection.
    Next,
    /// Closes by a TCP reset.
    Reset,
}

/// Writes `bytes` once.
pub(crate) fn write(bytes: impl Into<Bytes>) -> Step {
    Step::Write(bytes.into(), 1)
}

/// Listens on a free port of the loopback interface for as long as the process lives, and answers each connection by
/// the steps that `answer` gives for its first request's head. After the last step the connection is closed in order.
pub(crate) fn start(answer: impl Fn(&str) -> Vec<Step> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let answer = answer.clone();
            // Whoever it talks to may go at any time: that is an error of nobody.
            std::thread::spawn(move || drop(serve(stream, &*answer)));
        }
    });
    address
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&str) -> Vec<Step>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let head = read_request(&mut stream)?;
    for step in answer(&head) {
        match step {
            Step::Write(bytes, times) => {
                for _ in 0..times {
                    stream.write_all(&bytes)?;
                }
            }
            Step::Next => drop(read_request(&mut stream)?),
            Step::Reset => {
                SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO))?;
                return Ok(());
            }
        }
    }
    stream.shutdown(Shutdown::Write)?;
    // What the other side still sends is read, so that closing in order is no reset.
    std::io::copy(&mut stream, &mut std::io::sink())?;
    Ok(())
}

/// Reads a request whose body declares its length; its head.
fn read_request(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8(head).map_err(std::io::Error::other)?.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap_or(0)])?;
    Ok(head)
}
