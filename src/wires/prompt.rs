//! What a request says, in words that hold for every wire: what the rules of local counting go by.
//!
//! Each wire fills in what its own requests have; nothing is rendered and nothing is counted here.

use serde_json::Value;

/// A request's prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// In the order in which the model reads them. An instruction that stands beside the messages comes first, with the
    /// role `system`.
    pub messages: Vec<Message>,
    /// Texts with no message around them: of embeddings, plain completions, speech.
    pub texts: Vec<String>,
    /// The functions that the model may call.
    pub tools: Vec<Tool>,
    /// The one that it must call, where a certain one is named.
    pub forced_tool: Option<String>,
    /// The shape that its answer must have.
    pub schema: Option<Schema>,
    /// Pictures, wherever they stand.
    pub images: Vec<Image>,
    /// Tokens sent as numbers.
    pub tokens: u64,
    /// Bytes of text that were not looked at.
    pub bytes_beyond: u64,
    /// Whether there is more that nobody can count here: files, audio, a history or a template that the provider keeps.
    pub has_unseen: bool,
}

/// One message of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// `system`, `developer`, `user`, `assistant`, `tool`, `function`, whatever the provider calls them.
    pub role: String,
    /// The name that it carries beside its role.
    pub name: Option<String>,
    /// Its text parts, one behind the other.
    pub text: String,
    /// The calls that it makes.
    pub calls: Vec<ToolCall>,
    /// The id of the call that it is the result of.
    pub result_of: Option<String>,
}

/// A call of a function, in a message of the past.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ToolCall {
    /// The provider's id; empty where it has none.
    pub id: String,
    /// The function's name.
    pub name: String,
    /// Its arguments: JSON as text.
    pub arguments: String,
}

/// A function that the model may call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it says of itself.
    pub description: String,
    /// The JSON schema of its arguments; null where it has none.
    pub parameters: Value,
    /// The whole definition, as it was sent.
    pub definition: Value,
}

/// The shape that an answer must have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schema {
    /// Its name.
    pub name: String,
    /// What it says of itself.
    pub description: String,
    /// The JSON schema.
    pub schema: Value,
}

/// A picture.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Image {
    /// Width and height in pixels, where the picture's first bytes are in the request.
    pub size: Option<(u32, u32)>,
    /// Whether it is to be looked at in low detail.
    pub is_low_detail: bool,
}
