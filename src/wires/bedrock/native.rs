//! A model's own words, in whichever shape its vendor speaks: told apart by the words, since an ARN hides the vendor.

use super::converse::Converse;
use super::plain::Plain;
use crate::operation::Operation;
use crate::wires::anthropic::Anthropic;
use crate::wires::delivered::Delivered;
use crate::wires::object::Object;
use crate::wires::openai::OpenAi;
use crate::wires::{Observer, Reading, Wire};

/// Reads the words of one model.
pub(super) enum Native {
    /// Nothing was read yet.
    Unknown(Operation),
    /// A shape that has its own reader: Converse (Nova), Messages (Claude), chat completions (Mistral, AI21, gpt-oss).
    Shared(Box<dyn Observer>),
    /// Counts beside the text.
    Plain(Box<Plain>),
}

impl Native {
    /// Reads a body, or a chunk of one.
    pub(super) fn read(&mut self, json: &[u8], is_whole: bool) {
        if let Self::Plain(plain) = self
            && plain.takes(json)
        {
            return;
        }
        if let Some(operation) = self.undecided()
            && let Some(object) = Object::parse(json)
        {
            match shared(&object, operation) {
                Some(observer) => *self = Self::Shared(observer),
                None if matches!(self, Self::Unknown(_)) => *self = Self::Plain(Box::new(Plain::new(operation))),
                None => {}
            }
        }
        match self {
            Self::Unknown(_) => {}
            Self::Shared(observer) => observer.unit(json),
            Self::Plain(plain) => plain.read(json, is_whole),
        }
    }

    /// The operation, while nothing that was read decides the shape.
    fn undecided(&self) -> Option<Operation> {
        match self {
            Self::Unknown(operation) => Some(*operation),
            Self::Plain(plain) => plain.undecided(),
            Self::Shared(_) => None,
        }
    }

    pub(super) fn is_terminal(&self) -> bool {
        match self {
            Self::Unknown(_) | Self::Plain(_) => false,
            Self::Shared(observer) => observer.is_terminal(),
        }
    }

    pub(super) fn reading(&mut self) -> Reading {
        match self {
            Self::Unknown(_) => Reading::default(),
            Self::Shared(observer) => observer.reading(),
            Self::Plain(plain) => plain.reading(),
        }
    }

    pub(super) fn kept(&self) -> Option<&Delivered> {
        match self {
            Self::Unknown(_) => None,
            Self::Shared(observer) => observer.kept(),
            Self::Plain(plain) => Some(plain.kept()),
        }
    }
}

/// The reader of the shape that these words show, where it has one of its own.
fn shared(words: &Object<'_>, operation: Operation) -> Option<Box<dyn Observer>> {
    let converse = ["messageStart", "contentBlockStart", "contentBlockDelta", "messageStop", "metadata", "stopReason"];
    let usage = words.object("usage");
    let counts = |names: &[&str]| usage.as_ref().is_some_and(|usage| usage.get_any(names).is_some());
    let kind = words.text("type");
    let kind = kind.as_deref().unwrap_or_default();
    if words.get_any(&converse).is_some() || counts(&["inputTokens", "outputTokens"]) {
        Some(Box::new(Converse::new()))
    } else if words.get("choices").is_some() || counts(&["prompt_tokens"]) {
        Some(OpenAi.observer(operation, "bedrock"))
    } else if matches!(kind, "message" | "message_start" | "ping" | "error") || words.get("content").is_some() {
        Some(Anthropic.observer(Operation::Chat, "bedrock"))
    } else {
        None
    }
}
