//! PostgreSQL as the ledger of many servers: whatever happens to it, no call notices, and nothing is lost or doubled.

mod cuts;
mod retention;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::task::JoinSet;

use crate::asks;
use crate::cluster::Cluster;
use crate::stand::{PATIENCE, PAYERS, Stand, http_with_pool, read, upstreams};

const URL: &str = "TOKENMETER_STAND_POSTGRES";
/// Clients that ask at the same time.
const CLIENTS: usize = 4;

fn config(more: &str) -> impl FnOnce(&str) -> String {
    move |base| format!("[ledger]\npostgres_url_env = \"{URL}\"\n{more}\n{}{PAYERS}", upstreams(base))
}

/// A stand that keeps its records in `cluster`, not yet serving.
fn stopped(cluster: &Cluster, more: &str) -> Stand {
    let mut stand = Stand::stopped(config(more));
    stand.set(URL, cluster.url());
    stand
}

fn serving(cluster: &Cluster, more: &str) -> Stand {
    let mut stand = stopped(cluster, more);
    stand.serve();
    stand
}

/// Clients that ask without pause, until they are told to end.
struct Load {
    clients: JoinSet<()>,
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    /// The longest that a call took, in milliseconds.
    slowest: Arc<AtomicU64>,
}

impl Load {
    fn start(stand: &Stand, pause: Duration) -> Self {
        let mut load = Self {
            clients: JoinSet::new(),
            is_over: Arc::default(),
            answered: Arc::default(),
            slowest: Arc::default(),
        };
        for client in 0..CLIENTS {
            let proxy = stand.proxy().to_owned();
            let (is_over, answered, slowest) =
                (Arc::clone(&load.is_over), Arc::clone(&load.answered), Arc::clone(&load.slowest));
            load.clients.spawn(async move {
                let http = http_with_pool();
                let asks = asks::whole();
                for turn in client.. {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let ask = &asks[turn % asks.len()];
                    let request = Request::post(format!("{proxy}{}", ask.path))
                        .header("content-type", "application/json")
                        .header("x-tokenmeter-team", if turn % 3 == 0 { "lab" } else { "support-bot" })
                        .header("x-fake", format!("words={}", 1 + turn % 17))
                        .body(Full::from(ask.body.to_string()))
                        .unwrap();
                    let begun = Instant::now();
                    let reply = read(http.request(request).await.unwrap()).await;
                    assert_eq!((reply.status, reply.is_whole), (StatusCode::OK, true));
                    slowest.fetch_max(begun.elapsed().as_millis().try_into().unwrap(), Ordering::Relaxed);
                    answered.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(pause).await;
                }
            });
        }
        load
    }

    /// Waits until that many more calls were answered.
    async fn answers(&self, more: u64) {
        let before = self.answered.load(Ordering::Relaxed);
        let begun = Instant::now();
        while self.answered.load(Ordering::Relaxed) < before + more {
            assert!(begun.elapsed() < PATIENCE, "calls are not answered any more");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How many calls were answered, all of them.
    async fn end(mut self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
        self.answered.load(Ordering::Relaxed)
    }
}

/// Exactly `calls` records are in the ledger, each of another call, and everything adds up.
fn assert_whole(stand: &Stand, calls: u64) {
    let records = stand.records();
    let ids: BTreeSet<&str> = records.iter().map(|record| record["id"].as_str().unwrap()).collect();
    assert_eq!((records.len() as u64, ids.len() as u64), (calls, calls), "{}", stand.log());
    assert!(stand.run(&["verify"]).starts_with("the ledger adds up"));
    assert_eq!(stand.report(&[])["total"]["requests"], calls);
}

async fn lag_ends(stand: &Stand) {
    stand.metric_becomes("tokenmeter_ledger_lag_seconds", &[], 0.0).await;
}

#[tokio::test]
async fn postgres_says_what_sqlite_says() {
    let cluster = Cluster::start();
    let mut stand = serving(&cluster, "");
    let key = stand.key("lab").await;
    for ask in asks::whole().iter().chain(&asks::streams()) {
        stand.ask(ask).header("x-api-key", &key).fake("words=12;cached=3").send().await;
        stand.ask(ask).header("x-tokenmeter-tags", "env=prod,who=客服").fake("words=7;cut_after_bytes=60").send().await;
    }
    stand.ask(&asks::chat()).header("x-tokenmeter-team", "support-bot").fake("status=429").send().await;
    stand.terminate();
    assert_eq!(stand.wait(), Some(0));
    // The same journal, applied to a file by whoever reads first.
    let mut file = Stand::stopped(|base| format!("{}{PAYERS}", upstreams(base)));
    std::fs::create_dir_all(file.data()).unwrap();
    file.run(&["report"]);
    let copied = std::process::Command::new("cp").arg("-a").arg(stand.data().join("journal")).arg(file.data()).status();
    assert!(copied.unwrap().success());
    for command in [
        &["records", "--format", "jsonl"][..],
        &["records", "--format", "csv"],
        &["records", "--format", "jsonl", "--team", "lab", "--from", "2020-01-01T00:00:00Z"],
        &["report"],
        &["report", "--format", "csv", "--by", "team,model,operation,provider,upstream,app,key,department"],
        &["report", "--format", "json"],
        &["verify"],
    ] {
        let (here, there) = (file.run(command), stand.run(command));
        assert!(here.lines().count() > usize::from(command != ["verify"]), "{command:?}: {here}");
        assert_eq!(here, there, "{command:?}");
    }
    assert_eq!(stand.run(&["keys", "list"]).lines().count(), 2);
    assert!(file.run(&["keys", "list"]).lines().count() == 1, "keys are not in the journal");
    file.serve();
}

#[tokio::test]
async fn postgres_killed_ten_times_under_load_loses_no_record_and_doubles_none() {
    let mut cluster = Cluster::start();
    let mut stand = serving(&cluster, "");
    let load = Load::start(&stand, Duration::from_millis(5));
    for round in 0..10 {
        load.answers(25).await;
        if round % 2 == 0 {
            cluster.kill();
        } else {
            cluster.stop_at_once();
        }
        load.answers(10).await;
        cluster.restart();
    }
    load.answers(25).await;
    let calls = load.end().await;
    stand.terminate();
    assert_eq!(stand.wait(), Some(0));
    assert_whole(&stand, calls);
    assert_eq!(stand.fake.requests().len() as u64, calls);
}

#[tokio::test]
async fn postgres_away_for_a_minute_is_noticed_by_no_call_and_drained_behind() {
    let mut cluster = Cluster::start();
    let stand = serving(&cluster, "");
    let load = Load::start(&stand, Duration::from_millis(40));
    load.answers(20).await;
    cluster.stop_at_once();
    let away = Instant::now();
    while away.elapsed() < Duration::from_mins(1) {
        load.answers(10).await;
    }
    assert!(stand.metric("tokenmeter_ledger_lag_seconds", &[]).await > 30.0);
    assert_eq!(stand.get(&format!("{}/readyz", stand.admin())).await.status, StatusCode::OK);
    cluster.restart();
    let back = Instant::now();
    let slowest = load.slowest.load(Ordering::Relaxed);
    let calls = load.end().await;
    lag_ends(&stand).await;
    eprintln!("{calls} calls, the slowest {slowest} ms, drained within {} ms", back.elapsed().as_millis());
    assert!(slowest < 5_000, "a call took {slowest} ms");
    assert_whole(&stand, calls);
}

#[tokio::test]
async fn two_servers_share_the_ledger_and_its_keys() {
    let cluster = Cluster::start();
    let (one, other) = (serving(&cluster, ""), serving(&cluster, ""));
    let key = one.run(&["keys", "new", "--team", "lab"]).trim().to_owned();
    let made = Instant::now();
    for stand in [&one, &other] {
        loop {
            let probe = stand.call("/keyless/v1/models").method(http::Method::GET).header("x-api-key", &key);
            if probe.send().await.text().contains("no_credential") {
                break;
            }
            assert!(made.elapsed() < PATIENCE, "a server does not learn of a new key");
        }
    }
    eprintln!("a key was known to both servers within {} ms", made.elapsed().as_millis());
    let probes = one.fake.requests().len() + other.fake.requests().len();
    let loads = [&one, &other].map(|stand| Load::start(stand, Duration::ZERO));
    let mut calls = 0;
    for load in loads {
        load.answers(300).await;
        calls += load.end().await;
    }
    lag_ends(&one).await;
    lag_ends(&other).await;
    let records = one.records();
    let from_clients = records.iter().filter(|record| record["status"] == 200).count();
    assert_eq!((from_clients as u64, probes), (calls, 0));
    assert_eq!(records, other.records());
    assert_eq!(one.report(&[]), other.report(&["--by", "department,team"]));
    assert_eq!(one.run(&["verify"]), other.run(&["verify"]));
    let nodes: BTreeSet<&str> = records.iter().map(|record| record["node"].as_str().unwrap()).collect();
    assert_eq!(nodes.len(), 2);
    let id = one.run(&["keys", "list"]).lines().last().unwrap().split_whitespace().next().unwrap().to_owned();
    other.run(&["keys", "revoke", &id]);
    let revoked = Instant::now();
    while one.ask(&asks::chat()).header("x-api-key", &key).send().await.status != StatusCode::UNAUTHORIZED {
        assert!(revoked.elapsed() < PATIENCE, "a server does not learn that a key was revoked");
    }
}

#[tokio::test]
async fn a_job_begun_on_one_server_and_fetched_on_both_is_counted_once() {
    let cluster = Cluster::start();
    let one = serving(&cluster, "");
    let mut other = Stand::stopped(|_| config("")(&one.fake.base_url()));
    other.set(URL, cluster.url());
    other.serve();
    let begun = one.ask(&asks::responses().with("background", true.into())).send().await.json();
    let path = format!("/openai/v1/responses/{}", begun["id"].as_str().unwrap());
    let reported = async |stand: &Stand| {
        let fetched = stand.call(&path).method(http::Method::GET).send().await;
        assert_eq!(fetched.status, StatusCode::OK);
        lag_ends(stand).await;
        one.records().iter().filter(|record| record["provenance"] == "reported").count()
    };
    let asked = Instant::now();
    while reported(&other).await == 0 {
        assert!(asked.elapsed() < PATIENCE, "a server does not learn of another's job");
    }
    // What is promised: each server knows within a few seconds what the others counted.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((reported(&one).await, reported(&other).await), (1, 1));
}

#[tokio::test]
async fn a_stalled_postgres_stalls_no_call() {
    let cluster = Cluster::start();
    let stand = serving(&cluster, "");
    let load = Load::start(&stand, Duration::from_millis(5));
    load.answers(100).await;
    let before = load.slowest.swap(0, Ordering::Relaxed);
    cluster.signal("STOP");
    let stopped = Instant::now();
    while stopped.elapsed() < Duration::from_secs(5) {
        load.answers(10).await;
    }
    let meanwhile = load.slowest.load(Ordering::Relaxed);
    cluster.signal("CONT");
    let calls = load.end().await;
    eprintln!("the slowest call took {before} ms before and {meanwhile} ms while PostgreSQL was stopped");
    assert!(meanwhile < 2_000, "a call took {meanwhile} ms");
    lag_ends(&stand).await;
    assert_whole(&stand, calls);
}

#[tokio::test]
async fn a_standby_that_lost_seconds_gets_them_again() {
    let mut cluster = Cluster::start();
    let mut stand = serving(&cluster, "");
    let load = Load::start(&stand, Duration::ZERO);
    load.answers(60).await;
    cluster.stop_at_once();
    cluster.save("standby");
    cluster.restart();
    load.answers(60).await;
    let mut calls = load.end().await;
    lag_ends(&stand).await;
    // What the standby lacks is in a segment that the ledger has had whole.
    stand.terminate();
    assert_eq!(stand.wait(), Some(0));
    stand.serve();
    let load = Load::start(&stand, Duration::ZERO);
    load.answers(60).await;
    let begun = Instant::now();
    while std::fs::read_dir(stand.data().join("journal/kept")).map_or(0, Iterator::count) == 0 {
        assert!(begun.elapsed() < PATIENCE, "no segment is set aside");
        load.answers(1).await;
    }
    cluster.kill();
    cluster.put_back("standby");
    cluster.restart();
    load.answers(60).await;
    calls += load.end().await;
    lag_ends(&stand).await;
    assert_whole(&stand, calls);
    assert!(!stand.log().contains("records are in neither journal nor ledger"));
}

#[tokio::test]
async fn a_server_that_starts_without_postgres_serves_and_gives_no_place_twice() {
    let mut cluster = Cluster::start();
    let mut stand = serving(&cluster, "node = \"fra\"");
    let key = stand.key("lab").await;
    stand.ask(&asks::chat()).header("x-api-key", &key).send().await;
    lag_ends(&stand).await;
    let known = stand.records().len() as u64;
    stand.terminate();
    assert_eq!(stand.wait(), Some(0));
    let copy = stand.data().join("keys.json");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&copy).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(!std::fs::read_to_string(&copy).unwrap().contains(&key));
    cluster.stop_at_once();

    stand.serve();
    assert_eq!(stand.get(&format!("{}/readyz", stand.admin())).await.status, StatusCode::OK);
    for _ in 0..3 {
        let reply = stand.ask(&asks::chat()).header("x-api-key", &key).send().await;
        assert_eq!(reply.status, StatusCode::OK);
    }
    // One without any copy of the keys knows none: it must not be asked.
    let mut fresh = stopped(&cluster, "");
    fresh.serve();
    let reply = fresh.get(&format!("{}/readyz", fresh.admin())).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(reply.text().contains("virtual keys"), "{}", reply.text());

    cluster.restart();
    lag_ends(&stand).await;
    lag_ends(&fresh).await;
    let begun = Instant::now();
    while fresh.get(&format!("{}/readyz", fresh.admin())).await.status != StatusCode::OK {
        assert!(begun.elapsed() < PATIENCE, "not ready though PostgreSQL is back");
    }
    assert_whole(&stand, known + 3);
    let mut nodes: BTreeMap<String, u64> = BTreeMap::new();
    for record in stand.records() {
        *nodes.entry(record["node"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert!(nodes.len() == 2 && nodes["fra"] == known && nodes.keys().all(|node| node.starts_with("fra")), "{nodes:?}");
    // With PostgreSQL there it is itself again.
    stand.terminate();
    assert_eq!(stand.wait(), Some(0));
    stand.serve();
    stand.ask(&asks::chat()).header("x-api-key", &key).send().await;
    lag_ends(&stand).await;
    assert_whole(&stand, known + 4);
    assert_eq!(stand.records().last().unwrap()["node"], "fra");
}

#[tokio::test]
async fn many_that_start_at_once_make_one_schema() {
    let cluster = Cluster::start();
    let stand = stopped(&cluster, "");
    let begin = || stand.command(&["keys", "list"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let commands: Vec<_> = (0..6).map(|_| begin()).collect();
    for command in commands {
        let output = command.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8(output.stderr).unwrap());
    }
    assert_eq!(cluster.sql("usage", "SELECT COUNT(*), MAX(version) FROM tokenmeter.schema_version"), "1|3");
}

#[tokio::test]
async fn two_servers_of_one_name_are_told_so() {
    let cluster = Cluster::start();
    let one = serving(&cluster, "node = \"fra\"");
    one.ask(&asks::chat()).send().await;
    lag_ends(&one).await;
    let other = stopped(&cluster, "node = \"fra\"");
    let mut second = other.command(&["serve"]);
    let mut second = second.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while second.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE * 2 {
            second.kill().unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let output = second.wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(error.contains("another process writes records of node `fra`") && error.contains("ledger.node"), "{error}");
    one.ask(&asks::chat()).send().await;
    lag_ends(&one).await;
    assert_whole(&one, 2);
}

#[tokio::test]
async fn what_is_changed_behind_the_ledgers_back_is_found_and_a_newer_schema_refused() {
    let cluster = Cluster::start();
    let mut stand = serving(&cluster, "node = \"fra\"");
    for _ in 0..4 {
        stand.ask(&asks::chat()).fake("words=5").send().await;
    }
    stand.terminate();
    assert_eq!(stand.wait(), Some(0));
    assert_whole(&stand, 4);
    for sql in ["UPDATE records SET team = 'x'", "DELETE FROM records", "TRUNCATE records"] {
        let error = cluster.try_sql("usage", &format!("SET search_path TO tokenmeter; {sql}")).unwrap_err();
        assert!(error.contains("append-only"), "{sql}: {error}");
    }
    let freely = "SET search_path TO tokenmeter; SET session_replication_role TO replica;";
    for (change, back, found) in [
        (
            "UPDATE records SET input = input + 1 WHERE seq = 2",
            "UPDATE records SET input = input - 1 WHERE seq = 2",
            "record 2 of node fra was changed",
        ),
        (
            "CREATE TABLE aside AS SELECT * FROM records WHERE seq = 3; DELETE FROM records WHERE seq = 3",
            "INSERT INTO records SELECT * FROM aside; DROP TABLE aside",
            "node fra has no record 3, but one of 4",
        ),
        (
            "CREATE TABLE aside AS SELECT * FROM records WHERE seq = 4; DELETE FROM records WHERE seq = 4",
            "INSERT INTO records SELECT * FROM aside; DROP TABLE aside",
            "node fra is applied up to record 4 by its position, but its last record is 3",
        ),
        ("UPDATE buckets SET output = output + 1", "UPDATE buckets SET output = output - 1", "its records sum to"),
        ("UPDATE positions SET last_seq = 9", "UPDATE positions SET last_seq = 4", "applied up to record 9"),
        (
            "UPDATE positions SET chain = '\\x00'",
            "UPDATE positions SET chain = (SELECT chain FROM records WHERE seq = 4)",
            "the chain of node fra ends in",
        ),
    ] {
        cluster.sql("usage", &format!("{freely} {change}"));
        let output = stand.command(&["verify"]).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(found), "{change}: {error}");
        cluster.sql("usage", &format!("{freely} {back}"));
    }
    assert_whole(&stand, 4);
    cluster.sql("usage", "UPDATE tokenmeter.schema_version SET version = 99");
    for command in [&["records"][..], &["serve"]] {
        let output = stand.command(command).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains("ledger `usage on 127.0.0.1` has schema 99"), "{error}");
        assert!(!error.contains("secret-of-the-cluster"), "{error}");
    }
}

#[tokio::test]
async fn postgres_is_spoken_to_by_tls_and_its_certificate_verified() {
    let authority = authority();
    let issued = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let server_key = rcgen::KeyPair::generate().unwrap();
    let certificate = issued.signed_by(&server_key, &authority.1).unwrap();
    let cluster = Cluster::with(|data| {
        std::fs::write(data.join("server.crt"), certificate.pem()).unwrap();
        std::fs::write(data.join("server.key"), server_key.serialize_pem()).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(data.join("server.key"), private).unwrap();
        std::fs::write(
            data.join("pg_hba.conf"),
            "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\nhost postgres all 127.0.0.1/32 trust\n",
        )
        .unwrap();
        vec!["ssl=on".to_owned()]
    });
    let ca_file = |pem: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), pem).unwrap();
        file
    };
    let (right, wrong) = (ca_file(&authority.0), ca_file(&self::authority().0));
    let by_name = cluster.url().replace("127.0.0.1", "localhost");
    let believing = |file: &tempfile::NamedTempFile| format!("postgres_ca_file = {:?}", file.path().to_str().unwrap());
    let mut stand = stopped(&cluster, &believing(&right));
    stand.set(URL, format!("{by_name}?sslmode=verify-full&channel_binding=require"));
    stand.serve();
    stand.ask(&asks::chat()).send().await;
    lag_ends(&stand).await;
    assert_whole(&stand, 1);
    let sessions = "SELECT COUNT(*) > 0 AND BOOL_AND(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                    WHERE application_name = 'tokenmeter'";
    assert_eq!(cluster.sql("usage", sessions), "t");
    let refused = |url: &str, more: &str| {
        let mut stand = stopped(&cluster, more);
        stand.set(URL, url.to_owned());
        let output = stand.command(&["records"]).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let error = refused(&by_name, &believing(&wrong));
    assert!(error.contains("UnknownIssuer") || error.contains("invalid peer certificate"), "{error}");
    let error = refused(&cluster.url(), &believing(&right));
    assert!(error.contains("not valid for name"), "{error}");
    let error = refused(&format!("{by_name}?sslmode=disable"), "");
    assert!(error.contains("no encryption"), "{error}");
}

/// A certificate authority: its certificate, and what it signs by.
fn authority() -> (String, rcgen::Issuer<'static, rcgen::KeyPair>) {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), rcgen::Issuer::new(params, key))
}
