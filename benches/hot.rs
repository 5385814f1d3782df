//! What each call goes through, piece by piece, as time: `cargo bench --bench hot`.
//!
//! `benches/instructions.rs` holds the same paths to bounds. `chunk` is what the tap does with a chunk beside handing it on,
//! `call` a call from its intent to its record with a small answer between, both in the journal. `cargo bench --bench
//! ledger` has what comes after.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "what fails here fails the bench"
)]

#[expect(dead_code, reason = "each bench uses what it needs")]
#[path = "../tests/support/calls.rs"]
mod calls;
#[expect(dead_code, reason = "the rest is what is counted")]
#[path = "support/hot.rs"]
mod hot;
#[expect(dead_code, reason = "each bench uses what it needs")]
#[path = "../tests/support/intents.rs"]
mod intents;

use divan::Bencher;
use divan::counter::BytesCount;

fn main() {
    divan::main();
}

/// By one of so many keys, each of a team of its own.
#[divan::bench(args = [1, 100, 10_000])]
fn attribution(bencher: Bencher<'_, '_>, keys: usize) {
    bencher.bench_local(hot::attribution(keys));
}

/// A body of so many bytes until its model is known.
#[divan::bench(args = [200, 20_000, 200_000])]
fn request(bencher: Bencher<'_, '_>, bytes: usize) {
    bencher.counter(BytesCount::new(bytes)).bench_local(hot::request(bytes));
}

#[divan::bench]
fn chunk(bencher: Bencher<'_, '_>) {
    bencher.bench_local(hot::chunk_at_the_meter());
}

#[divan::bench]
fn small_answer(bencher: Bencher<'_, '_>) {
    bencher.bench_local(hot::small_answer());
}

#[divan::bench]
fn price(bencher: Bencher<'_, '_>) {
    bencher.bench_local(hot::price());
}

#[divan::bench]
fn call(bencher: Bencher<'_, '_>) {
    bencher.bench_local(hot::call());
}
