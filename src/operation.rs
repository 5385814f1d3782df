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
    /// Gemini's Interactions.
    Interaction,
    /// A run of an agent that the provider keeps: `OpenAI`'s assistants.
    InvokeAgent,
    /// Pictures, made or edited.
    ImageGeneration,
    /// Speech to text, translated or not.
    Transcription,
    /// Text to speech.
    Speech,
    /// Texts judged by policy.
    Moderation,
    /// Documents put in an order.
    Rerank,
    /// Pages read.
    Ocr,
    /// The results of a batch.
    Batch,
    /// A session over a WebSocket: tunnelled, not read.
    Realtime,
    /// A prompt's tokens counted by the provider: no consumption.
    CountTokens,
    /// Anything else: passed, recorded, not read.
    Other,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 17] = [
        Self::Chat,
        Self::TextCompletion,
        Self::Responses,
        Self::Embeddings,
        Self::GenerateContent,
        Self::Interaction,
        Self::InvokeAgent,
        Self::ImageGeneration,
        Self::Transcription,
        Self::Speech,
        Self::Moderation,
        Self::Rerank,
        Self::Ocr,
        Self::Batch,
        Self::Realtime,
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
            Self::Interaction => "interaction",
            Self::InvokeAgent => "invoke_agent",
            Self::ImageGeneration => "image_generation",
            Self::Transcription => "transcription",
            Self::Speech => "speech",
            Self::Moderation => "moderation",
            Self::Rerank => "rerank",
            Self::Ocr => "ocr",
            Self::Batch => "batch",
            Self::Realtime => "realtime",
            Self::CountTokens => "count_tokens",
            Self::Other => "other",
        }
    }
}
