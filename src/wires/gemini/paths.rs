//! What the paths of Google's model APIs ask for. Vertex has the same behind a project, a location and a publisher.

use http::Method;

use crate::operation::Operation;
use crate::wires::{Consumption, Exchange, Wire};

/// Collections whose members have methods.
const COLLECTIONS: [&str; 3] = ["/models/", "/tunedModels/", "/endpoints/"];

/// Collections that are only kept and looked at. Storing a cache costs by the hour, beginning a batch nothing yet.
const STORES: [&str; 6] = ["cachedContents", "files", "operations", "batches", "batchPredictionJobs", "auth_tokens"];

/// Whether a path is Vertex's.
pub(in crate::wires) fn is_vertex(path: &str) -> bool {
    path.contains("/publishers/")
        || path.starts_with("/ws/google.cloud.aiplatform.")
        || (path.contains("/projects/") && path.contains("/locations/"))
}

/// The exchange of `wire` that `method` and `path` are.
pub(in crate::wires) fn exchange_of<'a>(
    wire: &'static dyn Wire,
    method: &Method,
    path: &'a str,
) -> Option<Exchange<'a>> {
    let path = path.trim_end_matches('/');
    let (parents, last) = path.rsplit_once('/')?;
    let collection = parents.rsplit('/').next().unwrap_or_default();
    let (name, verb) = method_of(last).map_or((last, None), |(name, verb)| (name, Some(verb)));
    // A session over a WebSocket.
    if last.contains("BidiGenerateContent") {
        return Some(Exchange::new(wire, Operation::Realtime));
    }
    if method == Method::POST
        && let Some((collection, member)) = member_of(path)
        && let Some((name, verb)) = method_of(member)
        && let Some(exchange) = of_method(wire, name, verb)
    {
        // An endpoint's number is no model.
        return Some(Exchange { model_in_path: (collection != "/endpoints/").then_some(name), ..exchange });
    }
    match verb {
        Some("download") if method == Method::GET && collection == "files" => Some(Exchange {
            object_in_path: Some(name),
            stream_in_path: Some(false),
            consumption: Consumption::Result,
            ..Exchange::new(wire, Operation::Batch)
        }),
        Some(_) => (collection == "interactions" || STORES.contains(&collection)).then(|| free(wire)),
        None => of_store(wire, method, parents, collection, name),
    }
}

/// A collection whose members have methods, and what stands behind it: gateways' models have slashes in their names.
fn member_of(path: &str) -> Option<(&'static str, &str)> {
    COLLECTIONS.into_iter().find_map(|collection| Some((collection, path.rsplit_once(collection)?.1)))
}

/// A name and the method of it; some clients escape the colon between them.
pub(in crate::wires) fn method_of(member: &str) -> Option<(&str, &str)> {
    let colon = member.rfind(':').map(|at| (at, 1));
    let escaped = || member.rfind("%3A").or_else(|| member.rfind("%3a")).map(|at| (at, 3));
    let (at, length) = colon.or_else(escaped)?;
    Some((member.get(..at)?, member.get(at.saturating_add(length)..)?))
}

/// A method of a model.
fn of_method(wire: &'static dyn Wire, model: &str, verb: &str) -> Option<Exchange<'static>> {
    let whole = |operation| Exchange { stream_in_path: Some(false), ..Exchange::new(wire, operation) };
    Some(match verb {
        "generateContent" => whole(Operation::GenerateContent),
        "streamGenerateContent" => {
            Exchange { stream_in_path: Some(true), ..Exchange::new(wire, Operation::GenerateContent) }
        }
        "embedContent" | "batchEmbedContents" => whole(Operation::Embeddings),
        "predict" => whole(predicted_by(model)),
        // Videos: what they cost is in no answer.
        "predictLongRunning" => whole(Operation::ImageGeneration),
        "countTokens" | "computeTokens" => Exchange::free(wire, Operation::CountTokens),
        "batchGenerateContent" | "asyncBatchEmbedContent" | "fetchPredictOperation" => free(wire),
        _ => return None,
    })
}

/// What a model predicts, by the names of Google's.
fn predicted_by(model: &str) -> Operation {
    if model.contains("embedding") {
        Operation::Embeddings
    } else if ["imagen", "imagegeneration", "imagetext", "virtual-try-on"].iter().any(|name| model.starts_with(name)) {
        Operation::ImageGeneration
    } else {
        Operation::Other
    }
}

/// What is kept, and what is made of it.
fn of_store<'a>(
    wire: &'static dyn Wire,
    method: &Method,
    parents: &str,
    collection: &str,
    last: &'a str,
) -> Option<Exchange<'a>> {
    let is_get = method == Method::GET;
    // OpenAI has batches and files too, behind `/v1/`.
    let is_google = parents.contains("/v1beta") || parents.contains("/v1alpha") || is_vertex(parents);
    match (collection, last) {
        (_, "interactions") if method == Method::POST && (is_google || collection == "v1") => {
            Some(Exchange::new(wire, Operation::Interaction))
        }
        ("interactions", id) if is_get => Some(Exchange {
            object_in_path: Some(id),
            consumption: Consumption::Stored,
            ..Exchange::new(wire, Operation::Interaction)
        }),
        ("batches", id) if is_get && is_google => Some(Exchange {
            object_in_path: Some(id),
            stream_in_path: Some(false),
            consumption: Consumption::Result,
            ..Exchange::new(wire, Operation::GenerateContent)
        }),
        (_, "cancel") if parents.contains("/interactions/") => Some(free(wire)),
        _ if is_google && (STORES.contains(&last) || STORES.contains(&collection)) => Some(free(wire)),
        _ => None,
    }
}

fn free(wire: &'static dyn Wire) -> Exchange<'static> {
    Exchange::free(wire, Operation::Other)
}
