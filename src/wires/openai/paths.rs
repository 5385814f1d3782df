//! What a method and a path are: known by the path's end, whatever gateway, version or deployment stands before it.

use http::Method;

use crate::operation::Operation;
use crate::wires::{Consumption, Exchange, Wire};

/// The exchange that `method` and `path` are, read as `wire`; `None` where it is none of this dialect.
pub(super) fn recognise<'a>(wire: &'static dyn Wire, method: &Method, path: &'a str) -> Option<Exchange<'a>> {
    let segments: Vec<&'a str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    match *method {
        Method::POST => begun(wire, &segments),
        Method::GET => fetched(wire, &segments),
        _ => None,
    }
}

/// The same of a path that other APIs have too: Writer's chats, and Pollinations', whose path is the dialect's name.
pub(super) fn recognise_own(wire: &'static dyn Wire, method: &Method, path: &str) -> Option<Exchange<'static>> {
    let path = path.trim_end_matches('/');
    let is_chat = path.ends_with("/v1/chat") || path.ends_with("/openai");
    (method == Method::POST && is_chat).then(|| Exchange::new(wire, Operation::Chat))
}

fn begun<'a>(wire: &'static dyn Wire, segments: &[&'a str]) -> Option<Exchange<'a>> {
    let operation = match segments {
        // The last two are Databricks' and Snowflake's own names for the same.
        [.., "chat" | "agents", "completions"]
        | [.., "serving-endpoints", _, "invocations"]
        | [.., "cortex", "inference:complete"] => Operation::Chat,
        // The last are llama.cpp's own.
        [.., "completions" | "completion" | "infill"] => Operation::TextCompletion,
        [.., "responses"] | [.., "responses", "compact"] => Operation::Responses,
        // The last two are Voyage's.
        [.., "embeddings" | "contextualizedembeddings" | "multimodalembeddings"] => Operation::Embeddings,
        [.., "images", "generations" | "edits" | "variations"] => Operation::ImageGeneration,
        [.., "audio", "transcriptions" | "translations"] => Operation::Transcription,
        [.., "audio", "speech"] => Operation::Speech,
        // `/v2/rerank` is Cohere's, and shaped otherwise.
        [before @ .., "rerank" | "reranking"] if before.last() != Some(&"v2") => Operation::Rerank,
        [.., "ocr"] => Operation::Ocr,
        // The conversations are Mistral's; OpenAI's of that name only store, which nobody can tell by the path.
        [.., "conversations"]
        | [.., "conversations", _]
        | [.., "conversations", _, "restart"]
        | [.., "threads", "runs"]
        | [.., "threads", _, "runs"]
        | [.., "threads", _, "runs", _, "submit_tool_outputs"] => Operation::InvokeAgent,
        _ => return settled(wire, segments).or_else(|| free(wire, segments)),
    };
    Some(Exchange::new(wire, operation))
}

/// What answers with work that another call began.
fn settled<'a>(wire: &'static dyn Wire, segments: &[&'a str]) -> Option<Exchange<'a>> {
    let (operation, consumption, id) = match segments {
        [.., "responses", id, "cancel"] => (Operation::Responses, Consumption::Stored, id),
        [.., "threads", _, "runs", id] | [.., "threads", _, "runs", id, "cancel"] => {
            (Operation::InvokeAgent, Consumption::Result, id)
        }
        _ => return None,
    };
    Some(Exchange { consumption, object_in_path: Some(id), ..Exchange::new(wire, operation) })
}

fn fetched<'a>(wire: &'static dyn Wire, segments: &[&'a str]) -> Option<Exchange<'a>> {
    let (operation, consumption, id) = match segments {
        [.., "responses", id] => (Operation::Responses, Consumption::Stored, id),
        [.., "threads", _, "runs", id] => (Operation::InvokeAgent, Consumption::Result, id),
        // A file of a container or of a vector store is never a batch's.
        [.., "containers" | "vector_stores", _, "files", _, "content"] => return None,
        // Perhaps what a batch put out: its lines tell.
        [.., "files", id, "content"] => (Operation::Batch, Consumption::Result, id),
        [.., "realtime"] => return Some(Exchange::new(wire, Operation::Realtime)),
        _ => return None,
    };
    Some(Exchange { consumption, object_in_path: Some(id), ..Exchange::new(wire, operation) })
}

/// What costs nothing by nature although it is posted: uploads, what is stored, what begins a batch.
fn free(wire: &'static dyn Wire, segments: &[&str]) -> Option<Exchange<'static>> {
    let operation = match segments {
        [.., "responses", "input_tokens"] | [.., "tokenize" | "detokenize" | "tokenize-text"] => Operation::CountTokens,
        [.., "moderations"] => Operation::Moderation,
        // Also the files of a container or a vector store.
        [.., "files" | "uploads" | "containers" | "vector_stores" | "agents" | "assistants" | "threads"]
        | [.., "vector_stores" | "assistants" | "threads", _]
        | [.., "vector_stores", _, "files", _]
        | [.., "vector_stores", _, "file_batches"]
        | [.., "vector_stores", _, "file_batches", _, "cancel"]
        | [.., "uploads", _, "parts" | "complete" | "cancel"]
        | [.., "threads", _, "messages"]
        | [.., "threads", _, "messages", _]
        | [.., "conversations", _, "items"]
        | [.., "chat", "completions", _]
        // Mistral's batches.
        | [.., "batch", "jobs"]
        | [.., "batch", "jobs", _, "cancel"]
        | [.., "realtime", "sessions" | "client_secrets" | "transcription_sessions"] => Operation::Other,
        [before @ .., "batches"] | [before @ .., "batches", _, _] if before.last() != Some(&"messages") => {
            Operation::Other
        }
        _ => return None,
    };
    Some(Exchange::free(wire, operation))
}
