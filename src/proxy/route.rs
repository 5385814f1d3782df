//! Route: which upstream a path means, and the path it is asked for there.
//!
//! `/openai/v1/chat/completions` names its upstream first. A path without a name is routed by its shape, so that one
//! base URL serves every SDK.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;

use super::upstream::Upstream;
use crate::ids::UpstreamName;
use crate::wires::Wire as _;
use crate::wires::gemini::Gemini;

/// The known upstreams, by name and by the shape of a path.
#[derive(Debug)]
pub(crate) struct Routes {
    by_name: HashMap<String, Arc<Upstream>>,
    /// In the order of the configuration.
    all: Vec<Arc<Upstream>>,
}

/// Paths that tell their wire without an upstream's name, first match first.
const SHAPES: &[(&str, &str)] = &[
    ("/v1/messages", "anthropic"),
    ("/v1/complete", "anthropic"),
    ("/v1beta/", "gemini"),
    ("/model/", "bedrock"),
    ("/api/chat", "ollama"),
    ("/api/generate", "ollama"),
    ("/api/embed", "ollama"),
    ("/api/embeddings", "ollama"),
    ("/v2/chat", "cohere"),
    ("/v2/embed", "cohere"),
    ("/v2/rerank", "cohere"),
    ("/v1/", "openai"),
];

/// First path segments that mean an API and so cannot be an upstream's name.
pub const RESERVED_NAMES: &[&str] = &["api", "model", "v1", "v1beta", "v2"];

impl Routes {
    pub(crate) fn new(upstreams: Vec<Arc<Upstream>>) -> Self {
        let by_name = upstreams.iter().map(|one| (one.settings.name.to_string(), Arc::clone(one))).collect();
        Self { by_name, all: upstreams }
    }

    /// The upstream that `path` means, and where in it the path begins that it is asked for; perhaps at its end.
    pub(crate) fn find(&self, path: &str) -> Option<(&Arc<Upstream>, usize)> {
        let inner = path.strip_prefix('/')?;
        let name = inner.split('/').next().unwrap_or(inner);
        if let Some(upstream) = self.by_name.get(name) {
            return Some((upstream, name.len().saturating_add(1)));
        }
        let wire = wire_of_shape(path)?;
        let upstream = self.all.iter().find(|one| one.settings.wire.name() == wire)?;
        Some((upstream, 0))
    }

    /// The upstream of that name.
    pub(crate) fn named(&self, name: &UpstreamName) -> Option<&Upstream> {
        self.by_name.get(name.as_str()).map(Arc::as_ref)
    }

    /// The names of the known upstreams, for people.
    pub(crate) fn names(&self) -> String {
        self.all.iter().map(|one| one.settings.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// The wire that the shape of `path` tells. Google's client asks at `/v1/models/NAME:verb`, beside `OpenAI`'s
/// `/v1/models/NAME`.
fn wire_of_shape(path: &str) -> Option<&'static str> {
    if path.starts_with("/v1/models/") && Gemini.recognise(&Method::POST, path).is_some() {
        return Some(Gemini.name());
    }
    SHAPES.iter().find(|(prefix, _)| has_shape(path, prefix)).map(|(_, wire)| *wire)
}

/// Whether `path` is `prefix` or lies below it.
fn has_shape(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with(['/', ':']))
}

#[cfg(test)]
mod tests {
    use super::{has_shape, wire_of_shape};

    #[test]
    fn models_of_gemini_and_of_openai_are_told_apart_by_the_verb() {
        assert_eq!(wire_of_shape("/v1/models/gemini-2.5-flash:generateContent"), Some("gemini"));
        assert_eq!(wire_of_shape("/v1/models/ft:gpt-4o-mini:acme::abc"), Some("openai"));
        assert_eq!(wire_of_shape("/v1/models"), Some("openai"));
    }

    #[test]
    fn no_upstream_has_the_name_that_a_shape_begins_with() {
        for (shape, _) in super::SHAPES {
            let first = shape.split('/').nth(1).unwrap();
            assert!(super::RESERVED_NAMES.contains(&first), "{shape}");
        }
    }

    #[test]
    fn a_shape_ends_at_a_segment() {
        assert!(has_shape("/v1/messages", "/v1/messages"));
        assert!(has_shape("/v1/messages/count_tokens", "/v1/messages"));
        assert!(!has_shape("/v1/messagesx", "/v1/messages"));
        assert!(has_shape("/v1/chat/completions", "/v1/"));
    }
}
