//! The tools that judge tokenmeter are judged: a network that should break does, a checker that should object does.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::chaos::{ChaosProxy, Direction, End, Plan};
use crate::stand::PATIENCE;

/// A server that sends back what it is sent.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            // Its clients break off: that is what they are there for.
            std::thread::spawn(move || drop(std::io::copy(&mut stream.try_clone().unwrap(), &mut stream)));
        }
    });
    address
}

fn connect(chaos: &ChaosProxy) -> TcpStream {
    let stream = TcpStream::connect(chaos.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What comes back of `sent`, and how the connection ended if it did.
fn echoed(stream: &mut TcpStream, sent: &[u8]) -> (Vec<u8>, Option<std::io::Error>) {
    // A reset is told once: to whoever asks first.
    let written = stream.write_all(sent);
    let mut came = vec![0; sent.len()];
    let mut length = 0;
    while length < came.len() {
        match stream.read(&mut came[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) => return (came[..length].to_vec(), Some(error)),
        }
    }
    (came[..length].to_vec(), written.err())
}

#[test]
fn the_chaos_proxy_passes_everything_on_and_counts_it() {
    let chaos = ChaosProxy::start(echo()).unwrap();
    let mut stream = connect(&chaos);
    let sent = vec![7; 1_000_000];
    let their_half = stream.try_clone().unwrap();
    let writer = std::thread::spawn({
        let sent = sent.clone();
        move || {
            (&their_half).write_all(&sent).unwrap();
            their_half.shutdown(std::net::Shutdown::Write).unwrap();
        }
    });
    let mut came = Vec::new();
    stream.read_to_end(&mut came).unwrap();
    writer.join().unwrap();
    assert!(came == sent);
    let passed = chaos.passed();
    assert_eq!((passed.len(), passed[0].to_target, passed[0].to_client), (1, 1_000_000, 1_000_000));
}

#[test]
fn the_chaos_proxy_cuts_after_each_byte_in_either_direction() {
    let chaos = ChaosProxy::start(echo()).unwrap();
    for after in 0..10 {
        for direction in [Direction::ToTarget, Direction::ToClient] {
            for end in [End::Close, End::Reset] {
                chaos.plan_next([Plan::cut(direction, after, end)]);
                let (came, error) = echoed(&mut connect(&chaos), b"0123456789");
                let passed = *chaos.passed().last().unwrap();
                let count = if direction == Direction::ToTarget { passed.to_target } else { passed.to_client };
                assert_eq!(count, after, "{direction:?} {end:?}");
                assert!(came.len() as u64 <= after && b"0123456789".starts_with(&came), "{came:?}");
                if end == End::Reset {
                    assert_eq!(error.expect("it is reset").kind(), ErrorKind::ConnectionReset);
                }
            }
        }
    }
    let (came, error) = echoed(&mut connect(&chaos), b"0123456789");
    assert_eq!((came.as_slice(), error.is_none()), (&b"0123456789"[..], true), "the next one is whole");
}

#[test]
fn the_chaos_proxy_refuses_stalls_and_comes_back() {
    let chaos = ChaosProxy::start(echo()).unwrap();
    let mut open = connect(&chaos);
    assert_eq!(echoed(&mut open, b"one").0, b"one");
    chaos.set(Plan::refused());
    let begun = Instant::now();
    while TcpStream::connect(chaos.address()).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "it still listens");
    }
    assert_eq!(echoed(&mut open, b"two").0, b"two", "what is open stays");
    chaos.set(Plan::half_open());
    open.write_all(b"three").unwrap();
    open.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(open.read(&mut [0; 9]).unwrap_err().kind(), ErrorKind::WouldBlock, "nothing passes, nothing ends");
    chaos.set(Plan::default());
    open.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut came = [0; 5];
    open.read_exact(&mut came).unwrap();
    assert_eq!(&came, b"three", "what was held comes");
    assert_eq!(echoed(&mut connect(&chaos), b"four").0, b"four");
    chaos.break_off(End::Reset);
    assert_eq!(open.read(&mut [0; 9]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn the_chaos_proxy_is_as_slow_as_it_is_told() {
    let chaos = ChaosProxy::start(echo()).unwrap();
    chaos.set(Plan { delay: Duration::from_millis(20), ..Plan::default() });
    let begun = Instant::now();
    assert_eq!(echoed(&mut connect(&chaos), b"there and back").0, b"there and back");
    assert!(begun.elapsed() >= Duration::from_millis(40));
    chaos.set(Plan { bytes_per_second: Some(1_000_000), ..Plan::default() });
    let begun = Instant::now();
    assert_eq!(echoed(&mut connect(&chaos), &vec![1; 100_000]).0.len(), 100_000);
    assert!(begun.elapsed() >= Duration::from_millis(90));
}
