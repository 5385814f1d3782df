//! A provider on this machine, for trying tokenmeter without a key or a network:
//! `cargo run --example fake_upstream -- 127.0.0.1:9100`.
//!
//! `tests/support/fake_upstream/script.rs` says what the `x-fake` header makes it do.

#[expect(dead_code, unused_imports, reason = "the tests use the rest")]
#[path = "../tests/support/fake_upstream.rs"]
mod fake_upstream;

use std::io::{self, Write};
use std::net::SocketAddr;

use fake_upstream::FakeUpstream;

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9100".to_owned());
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let fake = FakeUpstream::bind(address)?;
    writeln!(io::stdout(), "{}", fake.base_url())?;
    loop {
        std::thread::park();
    }
}
