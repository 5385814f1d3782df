//! Asks: one question as each API puts it.

use serde_json::{Value, json};

use crate::fake_upstream::{Promise, promise};

/// A request, and the answer that the fake upstream promises for it.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// The upstream's name, then the provider's path.
    pub(crate) path: &'static str,
    pub(crate) body: Value,
}

/// What is asked everywhere: four words.
const PROMPT: &str = "how are you today";

impl Ask {
    /// What the fake answers and reports under `script`.
    pub(crate) fn promise(&self, script: &str) -> Promise {
        promise(self.provider_path(), self.body.to_string().as_bytes(), script)
    }

    /// The path as the provider knows it.
    pub(crate) fn provider_path(&self) -> &'static str {
        let named = self.path.trim_start_matches('/');
        &named[named.find('/').unwrap()..]
    }

    /// The same with another member in the body.
    pub(crate) fn with(mut self, member: &str, value: Value) -> Self {
        self.body[member] = value;
        self
    }
}

pub(crate) fn chat() -> Ask {
    let body = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": PROMPT}]});
    Ask { path: "/openai/v1/chat/completions", body }
}

/// A stream whose client does not ask for usage.
pub(crate) fn chat_stream() -> Ask {
    chat().with("stream", json!(true))
}

/// A stream whose client asks for usage itself.
pub(crate) fn chat_stream_with_usage() -> Ask {
    chat_stream().with("stream_options", json!({"include_usage": true}))
}

pub(crate) fn responses() -> Ask {
    Ask { path: "/openai/v1/responses", body: json!({"model": "gpt-4o-mini", "input": PROMPT}) }
}

pub(crate) fn responses_stream() -> Ask {
    responses().with("stream", json!(true))
}

pub(crate) fn embeddings() -> Ask {
    Ask { path: "/openai/v1/embeddings", body: json!({"model": "text-embedding-3-small", "input": PROMPT}) }
}

pub(crate) fn messages() -> Ask {
    let messages = json!([{"role": "user", "content": PROMPT}]);
    let body = json!({"model": "claude-sonnet-4-5", "max_tokens": 1000, "messages": messages});
    Ask { path: "/anthropic/v1/messages", body }
}

pub(crate) fn messages_stream() -> Ask {
    messages().with("stream", json!(true))
}

pub(crate) fn generate() -> Ask {
    let body = json!({"contents": [{"role": "user", "parts": [{"text": PROMPT}]}]});
    Ask { path: "/gemini/v1beta/models/gemini-2.5-flash:generateContent", body }
}

pub(crate) fn generate_stream() -> Ask {
    Ask { path: "/gemini/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", ..generate() }
}

/// The stream as one JSON array, which comes without `alt=sse`.
pub(crate) fn generate_array() -> Ask {
    Ask { path: "/gemini/v1beta/models/gemini-2.5-flash:streamGenerateContent", ..generate() }
}

/// Whole answers of every API that counts output.
pub(crate) fn whole() -> [Ask; 4] {
    [chat(), responses(), messages(), generate()]
}

/// Streams of every API.
pub(crate) fn streams() -> [Ask; 5] {
    [chat_stream(), responses_stream(), messages_stream(), generate_stream(), generate_array()]
}
