//! What an append to the journal costs: alone, and while others append.

#![expect(clippy::expect_used, reason = "a bench that cannot run says so")]

use std::collections::BTreeMap;

use divan::{Bencher, black_box};
use jiff::Timestamp;
use tokenmeter::ids::{DepartmentId, NodeId, Provider, RecordId, TeamId, UpstreamName};
use tokenmeter::journal::{Durability, Journal, SEGMENT_BYTES_MAX, Settings};
use tokenmeter::operation::Operation;
use tokenmeter::record::{AttributedBy, Intent, Tags};

fn main() {
    divan::main();
}

/// One intent a call. It is the same call each time, so that what is measured is the append and not a growing map.
#[divan::bench(threads = [1, 2, 8], sample_count = 1000, sample_size = 100)]
fn intent(bencher: Bencher<'_, '_>) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let opened = Journal::open(Settings {
        directory: folder.path().to_owned(),
        durability: Durability::Process,
        segment_bytes_max: SEGMENT_BYTES_MAX,
        bytes_max: u64::MAX,
        node: Some(NodeId::parse("n1").expect("a node's name")),
        seq_floors: BTreeMap::new(),
    });
    let journal = opened.expect("a journal can be made").journal;
    let intent = call();
    bencher.bench(|| journal.append_intent(black_box(&intent)).expect("the disk has room"));
}

fn call() -> Intent {
    let began: Timestamp = "2026-11-01T00:00:00Z".parse().expect("an instant");
    Intent {
        id: RecordId::new(began),
        started_at: began,
        department: DepartmentId::unattributed(),
        team: TeamId::unattributed(),
        app: None,
        key: None,
        attributed_by: AttributedBy::None,
        tags: Tags::new(),
        upstream: UpstreamName::parse("openai").expect("an upstream's name"),
        wire: "openai".to_owned(),
        provider: Provider::parse("openai").expect("a provider's name"),
        operation: Operation::Chat,
        model_requested: Some("gpt-5".to_owned()),
        stream: true,
        body_bytes: Some(812),
        is_consumption: true,
    }
}
