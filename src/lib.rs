//! tokenmeter: a reverse proxy in front of model-provider APIs that knows how many tokens a company consumes, and who.
//!
//! The modules in the order a call meets them; arrows go one way, downwards. `ARCHITECTURE.md` has the picture.

// — words: plain values, import only each other —
pub mod ids;
pub mod money;
pub mod operation;
pub mod period;
pub mod problem;
pub mod record;
pub mod usage;

// — rules: pure; bytes in, values out —
pub mod framing;
pub mod pricing;
pub mod tokenizer;
pub mod wires;

// — records: where facts are kept and shown —
pub mod journal;
pub mod ledger;
pub mod metrics;
pub mod report;

// — the meter: where a call becomes a fact —
pub mod meter;

// — faces: what the network talks to —
pub mod admin;
pub mod attribution;
pub mod proxy;

// — wiring: the only place that knows everybody —
pub mod app;
pub mod cli;
pub mod config;
pub mod logging;
