//! What tokenmeter promises, story by story: the real binary between real clients and a fake provider.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "what fails here fails the test")]
#![expect(clippy::indexing_slicing, clippy::string_slice, reason = "so does what is not there")]
#![expect(clippy::print_stderr, reason = "a story that failed, was skipped or measured says so")]
#![expect(clippy::float_arithmetic, reason = "Prometheus values are floats")]

#[path = "../support/asks.rs"]
mod asks;
#[path = "../support/calls.rs"]
mod calls;
#[expect(dead_code, reason = "each story uses what it needs")]
#[path = "../support/chaos.rs"]
mod chaos;
#[path = "../support/checker.rs"]
mod checker;
#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/crash_states.rs"]
mod crash_states;
#[path = "../support/fake_upstream.rs"]
mod fake_upstream;
#[path = "../support/machine.rs"]
mod machine;
#[path = "../support/oracle.rs"]
mod oracle;
#[path = "../support/raw_upstream.rs"]
mod raw_upstream;
#[expect(dead_code, reason = "each story uses what it needs")]
#[path = "../support/corpus.rs"]
mod recorded;
#[path = "../support/stand.rs"]
mod stand;
#[path = "../support/storm.rs"]
mod storm;
#[path = "../support/strace.rs"]
mod strace;
#[path = "../support/streams.rs"]
mod streams;

mod attribution;
mod bytes;
mod clocks;
mod config;
mod corpus;
mod counting;
mod counting_endpoint;
mod crowds;
mod cuts;
mod dialects;
mod disconnects;
mod disk;
mod drain;
mod economy;
mod egress;
mod faults;
mod first_call;
mod harness;
mod hostile;
mod jobs;
mod kills;
mod learning;
mod leaving;
mod ledgers;
mod memory;
mod orphans;
mod postgres;
mod power;
mod prometheus;
mod records;
mod refusals;
mod reports;
mod results;
mod sdks;
mod secrets;
mod stalls;
mod syncs;
mod syscalls;
mod usage;
mod websockets;
