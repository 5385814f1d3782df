//! The disk errs, somebody else holds the ledger, a second tokenmeter comes: calls are refused or do not notice, and all
//! goes on when that is over.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::asks;
use crate::machine::tool;
use crate::stand::{PATIENCE, PAYERS, Stand, read, upstreams};

use super::{RECOVERY, assert_all_recorded, assert_refused, is_long, logged, segments, until_status};

/// Writes of a process to one file fail while this lives.
struct FailingWrites(Child);

impl FailingWrites {
    fn of(strace: &Path, stand: &Stand, file: &Path, error: &str) -> Self {
        let mut command = Command::new(strace);
        command.args(["-f", "-p", &stand.pid().to_string(), "-o", "/dev/null", "-e", "trace=pwrite64", "-P"]).arg(file);
        command.args(["-e", &format!("inject=pwrite64:error={error}")]).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert!(line.contains("attached"), "{line}");
        std::thread::spawn(move || drop(std::io::copy(&mut said, &mut std::io::sink())));
        Self(child)
    }

    fn end(mut self) {
        assert!(Command::new("kill").args(["-INT", &self.0.id().to_string()]).status().unwrap().success());
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn a_disk_that_errs_is_refused_until_what_is_on_it_was_read_back() {
    let Some(strace) = tool("STRACE") else { return };
    let stand = Stand::start();
    for (round, error) in ["EIO", "EROFS"].into_iter().enumerate() {
        let in_flight = stand.ask(&asks::chat_stream()).fake("stall_after=3;words=9").begin().await;
        let journal = segments(&stand.data().join("journal")).pop().unwrap();
        let failing = FailingWrites::of(&strace, &stand, &journal, error);
        let asked = stand.fake.requests().len();
        for ask in [asks::chat(), asks::messages(), asks::generate()] {
            assert_refused(&ask, &stand.ask(&ask).send().await);
        }
        assert_eq!(stand.fake.requests().len(), asked, "a refused call reached the provider");
        assert_eq!(stand.get(&format!("{}/readyz", stand.admin())).await.status, 503);
        failing.end();
        let recovered = until_status(&stand, &asks::chat(), 200).await;
        assert!(recovered < RECOVERY, "{error}: {recovered:?}");
        let after = segments(&stand.data().join("journal")).pop().unwrap();
        assert!(after > journal, "{error}: it goes on in a new file");
        logged(&stand, "the journal takes calls again", round + 1).await;
        stand.fake.release("stall");
        assert!(read(in_flight).await.is_whole);
        assert_all_recorded(&stand);
    }
}

/// Holds the ledger as a `sqlite3` shell within a transaction does.
const HOLD: &str = r#"
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("COMMIT")
"#;

#[tokio::test]
async fn a_ledger_that_somebody_else_holds_is_noticed_by_no_call() {
    let Some(python) = tool("PYTHON") else { return };
    let stand = Stand::start();
    stand.ask(&asks::chat()).send().await;
    stand.records_when(1);
    // The second is longer than anybody waits for a lock.
    for seconds in if is_long() { vec!["1", "5", "15", "30"] } else { vec!["1", "7"] } {
        let mut holder = Command::new(&python)
            .args(["-c", HOLD])
            .arg(stand.data().join("ledger.db"))
            .arg(seconds)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "held");
        let began = Instant::now();
        let applied = stand.metric("tokenmeter_ledger_applied_records_total", &[]).await;
        for _ in 0..20 {
            assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
        }
        let held: Duration = Duration::from_secs(seconds.parse().unwrap());
        assert!(began.elapsed() < held, "20 calls wait for the ledger: {:?}", began.elapsed());
        assert!(stand.metric("tokenmeter_ledger_applied_records_total", &[]).await < applied + 20.0);
        if held > Duration::from_secs(6) {
            let refused = stand.command(&["keys", "new", "--team", "lab"]).output().unwrap();
            let said = String::from_utf8(refused.stderr).unwrap();
            assert!(began.elapsed() < held + PATIENCE && !refused.status.success(), "{said}");
            assert!(said.contains("the ledger is locked by another process"), "{said}");
        }
        holder.wait().unwrap();
        assert_eq!(stand.get(&format!("{}/readyz", stand.admin())).await.status, 200);
        assert_all_recorded(&stand);
    }
}

#[tokio::test]
async fn a_second_tokenmeter_on_the_same_folder_is_told_so_and_disturbs_nobody() {
    let stand = Stand::start();
    stand.ask(&asks::chat()).send().await;
    let in_flight = stand.ask(&asks::chat_stream()).fake("stall_after=3;words=9").begin().await;
    let second = stand.command(&["serve"]).output().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{said}");
    let directory = stand.data().join("journal");
    let expected = format!(
        "journal `{}` is in use by another process; stop it or choose another `ledger.directory`",
        directory.display()
    );
    assert!(said.contains(&expected), "{said}");
    stand.fake.release("stall");
    assert!(read(in_flight).await.is_whole);
    assert_eq!(stand.ask(&asks::messages()).send().await.status, 200);
    assert_all_recorded(&stand);
}

#[tokio::test]
async fn a_journal_that_may_not_be_looked_at_any_more_refuses_until_it_may() {
    const NOBODY: &str = "65534";
    let mut stand = Stand::stopped(|base| format!("{}{PAYERS}", upstreams(base)));
    let chown = Command::new("chown").args(["-R", &format!("{NOBODY}:{NOBODY}")]).arg(stand.path()).status().unwrap();
    assert!(chown.success(), "the server is to run as nobody: run this story as root");
    let server = stand.command(&["serve", "--log", "debug"]);
    let mut as_nobody = Command::new("setpriv");
    as_nobody.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"]).arg(server.get_program());
    as_nobody.args(server.get_args()).current_dir(stand.path());
    as_nobody.envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
    stand.serve_as(as_nobody);
    assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
    let in_flight = stand.ask(&asks::chat_stream()).fake("stall_after=3;words=9").begin().await;
    let chmod =
        |mode| assert!(Command::new("chmod").arg(mode).arg(stand.data().join("journal")).status().unwrap().success());
    chmod("000");
    until_status(&stand, &asks::chat(), 503).await;
    let asked = stand.fake.requests().len();
    assert_refused(&asks::messages(), &stand.ask(&asks::messages()).send().await);
    assert_eq!(stand.fake.requests().len(), asked);
    stand.fake.release("stall");
    assert!(read(in_flight).await.is_whole);
    let ready = stand.get(&format!("{}/readyz", stand.admin())).await.text();
    assert!(ready.contains("Permission denied") && ready.contains("journal"), "{ready}");
    chmod("755");
    let recovered = until_status(&stand, &asks::chat(), 200).await;
    assert!(recovered < RECOVERY, "{recovered:?}");
    assert_all_recorded(&stand);
}
