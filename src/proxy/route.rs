//! Route: which upstream a path means, and the path it is asked for there.
//!
//! `/openai/v1/chat/completions` names its upstream first. A path without a name is routed by its shape, so that one
//! base URL serves every SDK.

use std::collections::HashMap;
use std::sync::Arc;

use super::upstream::Upstream;

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
    ("/v1beta/models/", "gemini"),
    ("/v1beta/", "gemini"),
    ("/model/", "bedrock"),
    ("/api/chat", "ollama"),
    ("/api/generate", "ollama"),
    ("/v1/", "openai"),
];

/// First path segments that mean an API and so cannot be an upstream's name.
pub const RESERVED_NAMES: &[&str] = &["api", "model", "v1", "v1beta"];

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
        let (_, wire) = SHAPES.iter().find(|(prefix, _)| has_shape(path, prefix))?;
        let upstream = self.all.iter().find(|one| one.settings.wire.name() == *wire)?;
        Some((upstream, 0))
    }

    /// The names of the known upstreams, for people.
    pub(crate) fn names(&self) -> String {
        self.all.iter().map(|one| one.settings.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

/// Whether `path` is `prefix` or lies below it.
fn has_shape(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with(['/', ':']))
}

#[cfg(test)]
mod tests {
    use super::has_shape;

    #[test]
    fn a_shape_ends_at_a_segment() {
        assert!(has_shape("/v1/messages", "/v1/messages"));
        assert!(has_shape("/v1/messages/count_tokens", "/v1/messages"));
        assert!(!has_shape("/v1/messagesx", "/v1/messages"));
        assert!(has_shape("/v1/chat/completions", "/v1/"));
    }
}
