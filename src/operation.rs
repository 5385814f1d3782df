//! Operation: what a call asked for.
//!
//! Touches nothing.

use serde::{Deserialize, Serialize};

/// What was asked, by OpenTelemetry `GenAI`'s name where it has one.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// A turn of a conversation: `OpenAI` chat completions, Anthropic Messages.
    Chat,
    /// `OpenAI`'s legacy completions.
    TextCompletion,
    /// `OpenAI`'s Responses.
    Responses,
    /// Vectors of texts.
    Embeddings,
    /// Gemini's `generateContent` and `streamGenerateContent`.
    GenerateContent,
    /// A prompt's tokens counted by the provider: no consumption.
    CountTokens,
    /// Anything else: passed, recorded, not read.
    Other,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 7] = [
        Self::Chat,
        Self::TextCompletion,
        Self::Responses,
        Self::Embeddings,
        Self::GenerateContent,
        Self::CountTokens,
        Self::Other,
    ];

    /// The value in records, labels and columns.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::TextCompletion => "text_completion",
            Self::Responses => "responses",
            Self::Embeddings => "embeddings",
            Self::GenerateContent => "generate_content",
            Self::CountTokens => "count_tokens",
            Self::Other => "other",
        }
    }
}
