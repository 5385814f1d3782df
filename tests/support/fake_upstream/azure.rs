//! Chat completions of Azure's deployments: `OpenAI`'s, and what the content filter says, which comes first in a
//! stream, in an event without choices.

use serde_json::{Value, json};

use super::answer::{Answer, event};
use super::openai;
use super::promise::Promise;
use super::script::Script;

pub(crate) fn chat(request: &Value, promise: &Promise, script: &Script) -> Answer {
    if let Some(status) = promise.error {
        let message = format!("the fake answers {status} as asked");
        return Answer::error(status, &json!({"error": {"code": status.to_string(), "message": message}}));
    }
    let mut answer = openai::chat(request, promise, script);
    if openai::is_stream(request) && answer.status.is_success() {
        let harmless = json!({"hate": {"filtered": false, "severity": "safe"}});
        let filter = json!({
            "id": "", "object": "", "created": 0, "model": "", "choices": [],
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": harmless}],
        });
        answer.pieces = Box::new(std::iter::once(event(script, None, &filter.to_string())).chain(answer.pieces));
    }
    answer
}
