//! Files are deleted, replaced, cut or spoilt, under a running server and before a start: never is there a ledger that is
//! silently empty.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http::Method;

use crate::asks;
use crate::stand::{PATIENCE, Stand, upstreams};

use super::{RECOVERY, assert_all_recorded, assert_refused, logged, segments, until_status};

async fn ready_text(stand: &Stand) -> String {
    stand.get(&format!("{}/readyz", stand.admin())).await.text()
}

/// Waits until the server is not ready, and says why.
async fn unready_text(stand: &Stand, part: &str) {
    let began = Instant::now();
    loop {
        let text = ready_text(stand).await;
        if text.contains(part) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{text} does not say {part:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn ledger(stand: &Stand) -> PathBuf {
    stand.data().join("ledger.db")
}

fn backup(stand: &Stand, to: &Path) {
    stand.run(&["backup", to.to_str().unwrap()]);
}

fn stop(stand: &mut Stand) {
    stand.terminate();
    assert_eq!(stand.wait(), Some(0));
}

#[tokio::test]
async fn ledger_files_deleted_under_a_running_server_are_written_back() {
    let stand = Stand::start();
    let key = stand.key("lab").await;
    let names = ["ledger.db", "ledger.db-wal", "ledger.db-shm"];
    for (round, deleted) in [&names[..1], &names[1..2], &names[2..], &names[..]].into_iter().enumerate() {
        for _ in 0..5 {
            assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
        }
        stand.records_when(stand.fake.requests().len());
        for name in deleted {
            fs::remove_file(stand.data().join(name)).unwrap();
        }
        assert_eq!(stand.ask(&asks::messages()).send().await.status, 200);
        logged(&stand, "it was written back", round + 1).await;
        let began = Instant::now();
        while !names.iter().all(|name| stand.data().join(name).exists()) {
            assert!(began.elapsed() < PATIENCE, "{deleted:?} stay away");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_all_recorded(&stand);
        // The keys are there too, for whoever opens the file now.
        let reply = stand.ask(&asks::chat()).header("x-api-key", &key).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(stand.run(&["keys", "list"]).lines().count(), 2);
    }
    // The server learns of keys from the file that is there.
    let another = stand.key("support-bot").await;
    assert_eq!(stand.ask(&asks::chat()).header("x-api-key", &another).send().await.status, 200);
    assert_all_recorded(&stand);
}

#[tokio::test]
async fn a_ledger_replaced_under_a_running_server_is_not_taken_for_the_one_that_was_there() {
    let mut stand = Stand::start();
    assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
    stop(&mut stand);
    let (older, kept) = (stand.path().join("older.db"), stand.path().join("kept.db"));
    backup(&stand, &older);
    stand.serve();
    assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
    stand.records_when(2);
    fs::rename(ledger(&stand), &kept).unwrap();
    fs::copy(&older, ledger(&stand)).unwrap();
    unready_text(&stand, "was replaced while it was open").await;
    let asked = stand.fake.requests().len();
    assert_refused(&asks::messages(), &stand.ask(&asks::messages()).send().await);
    assert_eq!(stand.fake.requests().len(), asked);
    // Put back, it is as if nothing had been.
    fs::rename(&kept, ledger(&stand)).unwrap();
    let recovered = until_status(&stand, &asks::chat(), 200).await;
    assert!(recovered < RECOVERY, "{recovered:?}");
    assert_all_recorded(&stand);
    // Emptied is another matter: nobody can put that back but a person.
    fs::File::options().write(true).open(ledger(&stand)).unwrap().set_len(0).unwrap();
    unready_text(&stand, "is damaged; stop tokenmeter and put a backup in its place").await;
    assert_refused(&asks::chat(), &stand.ask(&asks::chat()).send().await);
    stand.kill();
    for name in ["ledger.db-wal", "ledger.db-shm"] {
        fs::remove_file(stand.data().join(name)).unwrap();
    }
    fs::copy(&older, ledger(&stand)).unwrap();
    stand.serve();
    assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
    // The journal holds what the backup does not.
    assert_all_recorded(&stand);
}

#[tokio::test]
async fn a_server_does_not_start_on_a_ledger_that_is_gone_and_makes_none() {
    let mut stand = Stand::start();
    let key = stand.key("lab").await;
    assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
    stop(&mut stand);
    let kept = stand.path().join("kept.db");
    backup(&stand, &kept);
    let commands: [&[&str]; 6] =
        [&["serve"], &["report"], &["records"], &["verify"], &["keys", "list"], &["keys", "new", "--team", "lab"]];
    for spoil in ["deleted", "emptied", "another"] {
        match spoil {
            "deleted" => fs::remove_file(ledger(&stand)).unwrap(),
            "emptied" => fs::write(ledger(&stand), b"").unwrap(),
            _ => fs::write(ledger(&stand), [b'x'; 8192]).unwrap(),
        }
        for command in commands {
            let said = stand.run_failing(command);
            let expected = if spoil == "another" {
                "is damaged; stop tokenmeter and put a backup"
            } else {
                "is gone or empty, but journal"
            };
            assert!(said.contains(expected), "{spoil}, {command:?}: {said}");
            assert!(said.contains(&*ledger(&stand).display().to_string()), "{said}");
        }
        assert_eq!(ledger(&stand).exists(), spoil != "deleted", "a command made a ledger");
    }
    fs::copy(&kept, ledger(&stand)).unwrap();
    stand.serve();
    assert_eq!(stand.ask(&asks::chat()).header("x-api-key", &key).send().await.status, 200);
    assert_all_recorded(&stand);

    // To begin anew is a decision, not an accident.
    stop(&mut stand);
    fs::remove_file(ledger(&stand)).unwrap();
    fs::rename(stand.data().join("journal"), stand.path().join("journal-before")).unwrap();
    stand.serve();
    assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
    assert_eq!(stand.records_when(1).len(), 1);
}

#[tokio::test]
async fn an_older_backup_goes_on_and_what_is_lost_is_named() {
    let mut stand = Stand::start();
    let (first, second) = (stand.path().join("first.db"), stand.path().join("second.db"));
    for _ in 0..3 {
        assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
    }
    stop(&mut stand);
    backup(&stand, &first);
    // Each start begins a file of the journal; those before go once they are applied, here with the records 4 to 6.
    for kept in [None, Some(&second)] {
        stand.serve();
        for _ in 0..3 {
            assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
        }
        stop(&mut stand);
        if let Some(kept) = kept {
            backup(&stand, kept);
        }
    }
    fs::copy(&first, ledger(&stand)).unwrap();
    stand.serve();
    let log = stand.log();
    let told =
        log.lines().find(|line| line.contains("records are in neither journal nor ledger")).expect("the loss is told");
    assert!(told.contains("from=4") && told.contains("to=6"), "{told}");
    assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
    let seqs: Vec<u64> = stand.records_when(7).iter().map(|record| record["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [1, 2, 3, 7, 8, 9, 10]);
    let said = stand.run_failing(&["verify"]);
    assert!(said.contains("has no record 4"), "{said}");
    stop(&mut stand);

    // The later backup has them.
    fs::copy(&second, ledger(&stand)).unwrap();
    stand.serve();
    assert_all_recorded(&stand);

    // A ledger that knows nothing of what was applied and removed is another one.
    stop(&mut stand);
    fs::remove_file(ledger(&stand)).unwrap();
    fs::rename(stand.data().join("journal"), stand.path().join("away")).unwrap();
    stand.run(&["report"]);
    fs::rename(stand.path().join("away"), stand.data().join("journal")).unwrap();
    for command in ["serve", "report", "verify"] {
        let said = stand.run_failing(&[command]);
        assert!(said.contains("the ledger knows nothing of node") && said.contains("move the journal away"), "{said}");
    }
}

#[tokio::test]
async fn journal_files_deleted_under_a_running_server_are_written_back() {
    let mut stand = Stand::start();
    let journal = stand.data().join("journal");
    for round in 0..3 {
        let in_flight = stand.ask(&asks::chat_stream()).fake("stall_after=3;words=9").begin().await;
        assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
        let file = segments(&journal).pop().unwrap();
        match round {
            0 => fs::remove_file(&file).unwrap(),
            1 => fs::remove_dir_all(&journal).unwrap(),
            // Not deleted but replaced, by less than there was.
            _ => {
                let half = fs::read(&file).unwrap();
                fs::remove_file(&file).unwrap();
                fs::write(&file, &half[..half.len() / 2]).unwrap();
            }
        }
        let replied = stand.ask(&asks::messages()).send().await;
        assert!(replied.status == 200 || replied.status == 503, "{}", replied.text());
        logged(&stand, "writing it back", round + 1).await;
        until_status(&stand, &asks::chat(), 200).await;
        stand.fake.release("stall");
        assert!(crate::stand::read(in_flight).await.is_whole);
        assert!(journal.join("lock").exists());
        let second = stand.run_failing(&["serve"]);
        assert!(second.contains("is in use by another process"), "{second}");
        // Killed now, the next start finds what was written back.
        stand.kill();
        stand.serve();
        assert_all_recorded(&stand);
    }
}

#[tokio::test]
async fn a_journal_spoilt_in_the_middle_is_named_with_what_to_do() {
    // Every call's intent knows that what was before it was on the disk: a hole there is damage.
    let mut stand = Stand::with(|base| format!("[ledger]\ndurability = \"power\"\n{}", upstreams(base)));
    for _ in 0..4 {
        assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
    }
    assert_all_recorded(&stand);
    stand.kill();
    let file = segments(&stand.data().join("journal")).pop().unwrap();
    let whole = fs::read(&file).unwrap();
    let mut spoilt = whole.clone();
    let middle = spoilt.len() / 2;
    spoilt[middle] ^= 0x55;
    fs::write(&file, &spoilt).unwrap();
    for command in ["serve", "report", "records", "verify"] {
        let said = stand.run_failing(&[command]);
        assert!(said.contains(&format!("journal file `{}` is broken at byte", file.display())), "{command}: {said}");
        assert!(said.contains("put a whole copy in its place, or move it away"), "{command}: {said}");
    }
    // All of it was applied: moved away, nothing is missing.
    fs::rename(&file, stand.path().join("spoilt.journal")).unwrap();
    stand.serve();
    assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
    assert_all_recorded(&stand);
    assert_eq!(stand.call("/openai/v1/models").method(Method::GET).send().await.status, 200);
    stand.kill();
}

#[tokio::test]
async fn a_journal_cut_short_under_a_running_server_takes_no_more_calls() {
    let mut stand = Stand::start();
    for _ in 0..4 {
        assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
    }
    stand.records_when(4);
    let file = segments(&stand.data().join("journal")).pop().unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_len(100).unwrap();
    unready_text(&stand, "it was cut short while it was open").await;
    assert_refused(&asks::chat(), &stand.ask(&asks::chat()).send().await);
    assert_eq!(stand.fake.requests().len(), 4);
    stand.kill();
    // To a start it looks as after a power cut: the ledger has all of it, and its places are not given again.
    stand.serve();
    assert_eq!(stand.ask(&asks::chat()).send().await.status, 200);
    assert_all_recorded(&stand);
}
