//! The conversation with PostgreSQL is cut, wherever that may be: nothing is lost or doubled.
//!
//! `TOKENMETER_LONG=1` cuts it at ten times as many bytes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokenmeter::ids::{NodeId, RecordId};
use tokenmeter::journal::{self, Journal};
use tokenmeter::ledger::{Applier, Filter, Ledger, LedgerError, Place, PostgresSettings};
use tokenmeter::record::Record;

use super::{lag_ends, serving};
use crate::asks;
use crate::chaos::{ChaosProxy, Direction, End, Plan};
use crate::cluster::Cluster;
use crate::stand::PATIENCE;

fn place(port: u16) -> Place {
    Place::Postgres(Arc::new(PostgresSettings::new(&Cluster::url_at(port), None).unwrap()))
}

#[tokio::test]
async fn a_conversation_cut_at_any_byte_loses_nothing_and_doubles_nothing() {
    let cluster = Cluster::start();
    let stand = serving(&cluster, "");
    stand.ask(&asks::chat()).fake("words=5").send().await;
    lag_ends(&stand).await;
    let template: Record = serde_json::from_str(stand.run(&["records"]).lines().next().unwrap()).unwrap();
    drop(stand);
    let cut = tokio::task::spawn_blocking(move || cut_at_every_byte(&cluster, &template)).await;
    cut.unwrap();
}

fn cut_at_every_byte(cluster: &Cluster, template: &Record) {
    let chaos = ChaosProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, cluster.port()))).unwrap();
    let place_behind = place(chaos.address().port());
    let folder = tempfile::tempdir().unwrap();
    let settings = journal::Settings {
        node: Some(NodeId::parse("cut").unwrap()),
        ..journal::Settings::at(folder.path().to_owned())
    };
    let journal = Arc::new(Journal::open(settings).unwrap().journal);
    let mut written = Vec::new();
    let append = |written: &mut Vec<String>| {
        for _ in 0..3 {
            let id = RecordId::new(template.started_at);
            let (_, record) = journal.append_record(Record { id, ..template.clone() }).unwrap();
            written.push(serde_json::to_string(&record).unwrap());
        }
    };
    // Applies until everything is in, or something went wrong; whether all went well.
    let apply = || {
        let begun = Instant::now();
        let applier = loop {
            match Applier::start(Arc::clone(&journal), &place_behind, None, || {}) {
                Ok(applier) => break applier,
                // The server may not have noticed yet that the connection before is gone.
                Err(LedgerError::NodeTaken { .. }) if begun.elapsed() < PATIENCE => {}
                Err(error) => panic!("{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        while applier.applied() < journal.end() && applier.failures() == 0 {
            assert!(begun.elapsed() < PATIENCE, "neither applied nor failed");
            std::thread::sleep(Duration::from_millis(1));
        }
        applier.failures() == 0
    };
    append(&mut written);
    assert!(apply());
    append(&mut written);
    assert!(apply());
    // The second conversation is as each of the following: no table has to be made.
    let passed = *chaos.passed().last().unwrap();
    let cuts = if std::env::var_os("TOKENMETER_LONG").is_some() { 2_000 } else { 200 };
    let (connections, mut failed) = (chaos.passed().len() as u64, 0);
    for number in 0..cuts {
        let (direction, bytes) = match number % 2 {
            0 => (Direction::ToTarget, passed.to_target),
            _ => (Direction::ToClient, passed.to_client),
        };
        let end = if number % 3 == 0 { End::Reset } else { End::Close };
        append(&mut written);
        chaos.plan_next([Plan::cut(direction, bytes * number / cuts, end)]);
        failed += u64::from(!apply());
    }
    // One that was cut before there was anything to apply had another try at once.
    let died = failed + chaos.passed().len() as u64 - connections - cuts;
    while !apply() {}
    eprintln!("of {cuts} conversations like {passed:?}, each cut at another byte, {died} died of it");
    assert!(died > cuts / 2, "only {died} cuts were felt");
    let ledger = Ledger::open(&place(cluster.port())).unwrap();
    let verified = ledger.verify().unwrap().unwrap();
    let records = ledger.records(&Filter::default(), None, usize::MAX).unwrap();
    let cut = records.iter().filter(|record| record.node.as_str() == "cut");
    let mut kept: Vec<(u64, String)> = cut.map(|record| (record.seq, serde_json::to_string(record).unwrap())).collect();
    kept.sort();
    assert_eq!(kept.into_iter().map(|(_, json)| json).collect::<Vec<_>>(), written);
    assert_eq!(verified.records, 1 + written.len() as u64);
}
