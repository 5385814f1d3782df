//! The `tokenmeter` binary.

fn main() {}
