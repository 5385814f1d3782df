//! What a call costs in writes: one before the upstream is asked, one before the client gets the end.

use std::fmt::Write as _;
use std::process::Command;

use serde_json::{Value, json};

use crate::machine::tool;
use crate::stand::{Stand, http_with_pool, read};

#[tokio::test]
async fn a_call_writes_its_intent_before_the_upstream_and_its_record_before_the_end() {
    let Some(strace) = tool("STRACE") else { return };
    let mut stand =
        Stand::stopped(|base| format!("[[upstream]]\nname = \"openai\"\nwire = \"openai\"\nbase_url = \"{base}\"\n"));
    let trace = stand.path().join("trace");
    let server = stand.command(&["serve"]);
    let mut traced = Command::new(strace);
    // The tracer stands aside, so that the process we start is the server itself; descriptors are shown with what they are.
    traced
        .args(["-D", "-f", "-yy", "-s", "65536", "-e"])
        .arg("trace=read,recvfrom,write,writev,pwrite64,pwritev,sendto,sendmsg");
    traced.arg("-o").arg(&trace).arg(server.get_program()).args(server.get_args()).current_dir(stand.path());
    stand.serve_as(traced);
    let (proxy, upstream) = (stand.proxy().replace("http://", ""), stand.fake.address().to_string());

    let http = http_with_pool();
    let whole = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "how are you"}]});
    let mut stream = whole.clone();
    stream["stream"] = Value::Bool(true);
    let mut calls = 0;
    for body in [&whole, &stream, &whole, &stream] {
        let reply =
            read(http.request(stand.call("/openai/v1/chat/completions").json(body).request()).await.unwrap()).await;
        assert!(reply.status == 200 && reply.is_whole);
        calls += 1;
    }
    stand.terminate();
    stand.wait();
    let trace = std::fs::read_to_string(&trace).unwrap();
    // The first two calls make connections.
    let traces: Vec<&str> = trace.split("\"POST /openai/").skip(1).collect();
    assert_eq!(traces.len(), calls);
    for (name, of_call) in [("whole", traces[2]), ("stream", traces[3])] {
        let order = order(of_call, &proxy, &upstream);
        let (before, after) = order.split_once('U').unwrap_or_else(|| panic!("{name}: no request in {order}"));
        assert_eq!(before, "J", "{name}: {order}: one write of the journal, then the upstream");
        assert_eq!(after.matches('J').count(), 1, "{name}: {order}: one write of the journal behind the answer");
        assert!(!after.contains('U'), "{name}: {order}: one request");
        let (_, end) = after.split_once('J').unwrap();
        assert!(end.contains('E') && !after.starts_with('E'), "{name}: {order}: the end follows the record");
        let (unended, _) = after.split_once('E').unwrap();
        assert!(unended.contains('J'), "{name}: {order}: no end before the record");
    }
}

/// A call's writes in order: `J` to the journal, `U` to the upstream, `C` to the client, `E` where that holds the end.
fn order(trace: &str, proxy: &str, upstream: &str) -> String {
    let mut order = String::new();
    for line in trace.lines() {
        let Some((head, _)) = line.split_once(['"', '[']) else { continue };
        let is_write = ["write(", "writev(", "pwrite64(", "pwritev(", "sendto(", "sendmsg("];
        if !is_write.iter().any(|call| head.contains(&format!(" {call}"))) {
            continue;
        }
        if line.contains(".journal>") {
            order.push('J');
        } else if line.contains(&format!("->{upstream}]")) {
            order.push('U');
        } else if line.contains(&format!("[{proxy}->")) {
            // The last event of a stream, the closing brace of an answer.
            let is_end = line.contains("[DONE]") || line.contains("\\\"total_tokens\\\"");
            write!(order, "{}", if is_end { 'E' } else { 'C' }).unwrap();
        }
    }
    order
}
