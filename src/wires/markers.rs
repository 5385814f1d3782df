//! Cheap looks at a unit before anything is parsed.
//!
//! A quote within a JSON string stands behind a backslash, so a quoted name that is found is a real one. It may still
//! be a value, or a member of something deeper: who finds a marker parses and looks at the exact path.

use std::sync::LazyLock;

use memchr::memmem::Finder;

macro_rules! marker {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub(super) static $name: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new($text));)*
    };
}

marker! {
    /// Usage by `OpenAI`'s and Anthropic's name.
    USAGE = "\"usage\"";
    /// llama.cpp's counts, which come also where usage was not asked for.
    TIMINGS = "\"timings\"";
    /// A choice that may have ended.
    FINISH_REASON = "\"finish_reason\"";
    /// An error in the middle of a stream.
    ERROR = "\"error\"";
    /// An event of the Responses API that carries the whole response.
    RESPONSE = "\"response\"";
    /// An Anthropic event about a block of content: text, nothing to meter.
    CONTENT_BLOCK = "\"content_block_";
    /// An Anthropic message with its content.
    CONTENT = "\"content\"";
}

/// Whether `unit` has a member of the marker's name whose value is not null.
pub(super) fn has_value(marker: &Finder<'_>, unit: &[u8]) -> bool {
    marker.find_iter(unit).any(|at| {
        let after = unit.get(at.saturating_add(marker.needle().len())..).unwrap_or_default().trim_ascii_start();
        after.strip_prefix(b":").is_some_and(|value| !value.trim_ascii_start().starts_with(b"null"))
    })
}
