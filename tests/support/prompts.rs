//! What a prompt says, in one line.

#![expect(clippy::expect_used, reason = "a test's helpers fail like the test")]

use tokenmeter::operation::Operation;
use tokenmeter::wires;

/// Messages as `role: text call(arguments)`, then bare texts, tools as `{name}`, and what else there is.
pub(crate) fn said(wire: &str, operation: Operation, body: &str) -> String {
    let prompt = wires::by_name(wire).expect("a wire").prompt(operation, body.as_bytes()).expect("a prompt");
    let messages = prompt.messages.iter().map(|message| {
        let calls = message.calls.iter().map(|call| format!(" {}({})", call.name, call.arguments));
        format!("{}: {}{}", message.role, message.text, calls.collect::<String>())
    });
    let texts = prompt.texts.iter().cloned();
    let tools = prompt.tools.iter().map(|tool| format!("{{{}}}", tool.name));
    let beside = [
        (prompt.images.len(), "images"),
        (usize::try_from(prompt.tokens).unwrap_or(usize::MAX), "tokens"),
        (usize::from(prompt.has_unseen), "unseen"),
    ];
    let beside = beside.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}"));
    messages.chain(texts).chain(tools).chain(beside).collect::<Vec<_>>().join(" | ")
}
