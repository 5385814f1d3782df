//! Config: what is wrong with a file is all said at once, where it is, before anything runs.

use std::process::Output;

use crate::stand::{PAYERS, Stand, upstreams};

/// Five problems.
const WRONG: &str = r#"
[report]
timezone = "Mars/Olympus"

[[upstream]]
name = "openai"
wire = "opnai"
base_url = "api.openai.com"
colour = "green"

[[team]]
id = "lab"
department = "nowhere"

[[department]]
id = "research"
"#;

fn said(stand: &Stand, arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = stand.command(arguments).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn check_says_every_problem_with_its_line() {
    let stand = Stand::stopped(|_| WRONG.to_owned());
    let (code, text) = said(&stand, &["check"]);
    assert_eq!(code, Some(78), "{text}");
    let file = std::fs::read_to_string(stand.path().join("tokenmeter.toml")).unwrap();
    let line_of = |part: &str| file.lines().position(|line| line.contains(part)).unwrap() + 1;
    for part in ["Mars/Olympus", "opnai", "\"api.openai.com\"", "green", "nowhere"] {
        let place = format!("tokenmeter.toml:{}", line_of(part));
        assert!(text.contains(&place), "{part} at {place}:\n{text}");
    }
    assert!(text.contains("5 problems"), "{text}");
    for wire in tokenmeter::wires::REGISTRY {
        assert!(text.contains(wire.name()), "what is known is told:\n{text}");
    }
}

#[test]
fn a_server_does_not_start_on_a_wrong_file() {
    let stand = Stand::stopped(|_| WRONG.to_owned());
    let (code, text) = said(&stand, &["serve"]);
    assert_eq!(code, Some(78));
    assert!(text.contains("5 problems"), "{text}");
    assert!(!stand.data().exists(), "nothing was begun");
}

#[test]
fn a_missing_secret_is_a_problem_of_the_server_and_of_nobody_else() {
    let stand = Stand::stopped(|base| upstreams(base) + PAYERS);
    let mut check = stand.command(&["check"]);
    let output = check.env_remove("TOKENMETER_STAND_KEY").output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8(output.stderr).unwrap().contains("TOKENMETER_STAND_KEY"));
    std::fs::create_dir(stand.data()).unwrap();
    for arguments in [&["report"][..], &["records"], &["verify"], &["keys", "list"]] {
        let output = stand.command(arguments).env_remove("TOKENMETER_STAND_KEY").output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
    }
    assert!(stand.run(&["check"]).contains("4 upstreams"));
}

#[test]
fn reading_before_the_first_start_says_what_to_do() {
    let stand = Stand::stopped(upstreams);
    for command in ["report", "records", "verify"] {
        let (code, text) = said(&stand, &[command]);
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("start `tokenmeter serve` once"), "{text}");
    }
}

#[test]
fn a_file_that_is_not_there_is_a_problem_too() {
    let stand = Stand::stopped(upstreams);
    std::fs::remove_file(stand.path().join("tokenmeter.toml")).unwrap();
    let (code, text) = said(&stand, &["check"]);
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("tokenmeter.toml"));
}

#[tokio::test]
async fn the_health_check_says_whether_the_server_is_ready() {
    // The health check must know the port beforehand.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("[listen]\nproxy = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:{port}\"\n");
    let mut stand = Stand::with(|base| format!("{listen}{}", upstreams(base)));
    assert!(stand.run(&["healthcheck"]).contains("ready"));
    stand.terminate();
    stand.wait();
    let (code, text) = said(&stand, &["healthcheck"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("no answer"), "{text}");
}

#[tokio::test]
async fn without_a_file_a_first_call_needs_no_key_and_no_network() {
    let mut stand = Stand::stopped(|_| String::new());
    let file = "[listen]\nproxy = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n";
    std::fs::write(stand.path().join("tokenmeter.toml"), file).unwrap();
    stand.serve();
    let reply = stand.call("/demo/v1/chat/completions").json(&crate::asks::chat().body).send().await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["object"], "chat.completion");
    let record = stand.only_record();
    assert_eq!(record["upstream"], "demo");
    assert_eq!(record["provenance"], "reported");
    assert!(stand.data().join("ledger.db").exists(), "records are in `data` of the working directory");
}
