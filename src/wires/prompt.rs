//! What a request says, in words that hold for every wire: what the rules of local counting go by.
//!
//! Each wire fills in what its own requests have, through a `Draft` that bounds what is held; nothing is rendered and
//! nothing is counted here.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

/// Bytes of text kept of one prompt, some 250,000 tokens; of the rest only the length is known.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Bytes of an encoded picture in which its width and height are looked for: in a JPEG they may stand behind 64 KiB of
/// what the camera noted.
const PICTURE_BYTES_MAX: usize = 128 << 10;
/// Pictures whose width and height are looked for; more are only counted.
const PICTURES_MAX: usize = 1_000;

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
    /// Whether there is more that nobody can count here: files, audio, a history or a template that the provider keeps,
    /// tools that it runs itself.
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
    /// Its arguments: JSON as text, or the text that a tool without a schema takes.
    pub arguments: String,
}

/// A function that the model may call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it says of itself.
    pub description: String,
    /// The JSON schema of its arguments, its members in their order; null where it has none.
    pub parameters: Value,
    /// The whole definition as compact JSON, as it was sent.
    pub definition: String,
}

/// The shape that an answer must have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schema {
    /// Its name.
    pub name: String,
    /// What it says of itself.
    pub description: String,
    /// The JSON schema, its members in their order.
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

impl Prompt {
    /// A prompt of which only the length is known.
    pub fn of_length(bytes_beyond: u64) -> Self {
        Self { bytes_beyond, ..Self::default() }
    }
}

/// A prompt that is being filled in: of its text no more is kept than there is room for.
#[derive(Debug)]
pub(super) struct Draft {
    prompt: Prompt,
    room: usize,
}

impl Draft {
    pub(super) fn new() -> Self {
        Self { prompt: Prompt::default(), room: TEXT_BYTES_MAX }
    }

    /// What was filled in.
    pub(super) fn finish(self) -> Prompt {
        self.prompt
    }

    /// Appends a piece of text.
    pub(super) fn push_str(&mut self, to: &mut String, piece: &str) {
        let (kept, beyond) = piece.split_at_checked(piece.floor_char_boundary(self.room)).unwrap_or((piece, ""));
        to.push_str(kept);
        self.room = self.room.saturating_sub(kept.len());
        self.leave_out(beyond.len());
    }

    /// Appends a value: a string's text, nothing of null, of anything else the JSON that it is.
    pub(super) fn push(&mut self, to: &mut String, value: &Value) {
        match value {
            Value::Null => {}
            Value::String(text) => self.push_str(to, text),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                self.push_str(to, &value.to_string());
            }
        }
    }

    /// A value as text of its own.
    pub(super) fn text(&mut self, value: &Value) -> String {
        let mut text = String::new();
        self.push(&mut text, value);
        text
    }

    /// A text with no message around it. Token numbers are counted, an array is a text an element.
    pub(super) fn input(&mut self, value: &Value) {
        match value {
            Value::Number(_) => self.tokens(1),
            Value::Array(items) => items.iter().for_each(|item| self.input(item)),
            Value::String(_) => {
                let text = self.text(value);
                self.text_alone(text);
            }
            Value::Null | Value::Bool(_) | Value::Object(_) => {}
        }
    }

    /// A text with no message around it, taken up already.
    pub(super) fn text_alone(&mut self, text: String) {
        if !text.is_empty() {
            self.prompt.texts.push(text);
        }
    }

    /// Tokens sent as numbers.
    pub(super) fn tokens(&mut self, tokens: u64) {
        self.prompt.tokens = self.prompt.tokens.saturating_add(tokens);
    }

    /// A message behind those before.
    pub(super) fn message(&mut self, message: Message) {
        self.prompt.messages.push(message);
    }

    /// An instruction that stands beside the messages.
    pub(super) fn instruction(&mut self, text: String) {
        self.message(Message { role: "system".to_owned(), text, ..Message::default() });
    }

    /// The message that came last.
    pub(super) fn last_message(&mut self) -> Option<&mut Message> {
        self.prompt.messages.last_mut()
    }

    /// A call of a function.
    pub(super) fn call(&mut self, id: Option<&Value>, name: Option<&Value>, arguments: Option<&Value>) -> ToolCall {
        let mut text = |value: Option<&Value>| value.map(|value| self.text(value)).unwrap_or_default();
        ToolCall { id: text(id), name: text(name), arguments: text(arguments) }
    }

    /// A function that the model may call: its `definition`, and the object in it that holds name and description.
    pub(super) fn tool(&mut self, definition: &Value, function: &Value, parameters: Option<&Value>) {
        let before = self.prompt.bytes_beyond;
        let definition = self.text(definition);
        let is_whole = self.prompt.bytes_beyond == before;
        // They are parts of the definition: where that was kept, these are bounded too.
        let part = |name: &str| function.get(name).and_then(Value::as_str).filter(|_| is_whole).unwrap_or_default();
        self.prompt.tools.push(Tool {
            name: part("name").to_owned(),
            description: part("description").to_owned(),
            parameters: parameters.filter(|_| is_whole).cloned().unwrap_or_default(),
            definition,
        });
    }

    /// The function that the model must call.
    pub(super) fn forced_tool(&mut self, name: Option<&Value>) {
        let name = name.and_then(Value::as_str).map(|name| self.text(&name.into()));
        self.prompt.forced_tool = name.or(self.prompt.forced_tool.take());
    }

    /// The model must call a function, and there is only one.
    pub(super) fn force_only_tool(&mut self) {
        if let [tool] = self.prompt.tools.as_slice() {
            self.prompt.forced_tool = Some(tool.name.clone());
        }
    }

    /// The shape that the answer must have: a JSON schema, and the object that holds its name and description.
    pub(super) fn schema(&mut self, schema: &Value, of: Option<&Value>) {
        let length = schema.to_string().len();
        let mut part = |name: &str| of.and_then(|of| of.get(name)).map(|value| self.text(value)).unwrap_or_default();
        let (name, description) = (part("name"), part("description"));
        let is_whole = length <= self.room;
        if is_whole {
            self.room = self.room.saturating_sub(length);
        } else {
            self.leave_out(length);
        }
        let schema = if is_whole { schema.clone() } else { Value::Null };
        self.prompt.schema = Some(Schema { name, description, schema });
    }

    /// A picture: a `data:` URL, or base64 with nothing before it; of another URL nothing more is known.
    pub(super) fn image(&mut self, source: Option<&str>, is_low_detail: bool) {
        let is_looked_at = self.prompt.images.len() < PICTURES_MAX;
        let size = source.filter(|_| is_looked_at).and_then(size_of_picture);
        self.prompt.images.push(Image { size, is_low_detail });
    }

    /// Something that nobody can count here.
    pub(super) fn unseen(&mut self) {
        self.prompt.has_unseen = true;
    }

    fn leave_out(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.prompt.bytes_beyond = self.prompt.bytes_beyond.saturating_add(bytes);
    }
}

/// Width and height, by the first bytes of a picture in base64.
fn size_of_picture(source: &str) -> Option<(u32, u32)> {
    let encoded = match source.strip_prefix("data:") {
        Some(rest) => rest.split_once(";base64,")?.1,
        None if source.contains(':') => return None,
        None => source,
    };
    // A whole number of groups of four letters, each of which is three bytes.
    let length = encoded.len().min(PICTURE_BYTES_MAX) & !3;
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let head = GeneralPurpose::new(&STANDARD, config).decode(encoded.as_bytes().get(..length)?).ok()?;
    let size = imagesize::blob_size(&head).ok()?;
    Some((u32::try_from(size.width).ok()?, u32::try_from(size.height).ok()?))
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn size(bytes: &[u8]) -> Option<(u32, u32)> {
        size_of_picture(&format!("data:image/x;base64,{}", STANDARD.encode(bytes)))
    }

    #[test]
    fn a_pictures_first_bytes_tell_its_size() {
        let png = [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".as_slice(), &[0, 0, 2, 0, 0, 0, 1, 0, 8, 2, 0, 0, 0]].concat();
        assert_eq!(size(&png), Some((512, 256)));
        assert_eq!(size(b"GIF89a\x40\x01\xf0\x00\xf7\x00\x00"), Some((320, 240)));
        let jpeg = b"\xff\xd8\xff\xe0\x00\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0\xff\xc0\x00\x11\x08\x00\x64\x00\xc8\x03\x01\x22\0\x02\x11\x01\x03\x11\x01";
        assert_eq!(size(jpeg), Some((200, 100)));
        let webp = b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f\x63\x40\x0c\x00\x00\x00\x00\x00\x00\x00";
        assert_eq!(size(webp), Some((100, 50)));
        assert_eq!(size_of_picture(&STANDARD.encode(&png)), Some((512, 256)), "base64 with nothing before it");
        for none in
            ["", "data:", "data:image/png;base64,", "data:image/png,x", "https://example.org/a.png", "file-1", "ÄÖÜ"]
        {
            assert_eq!(size_of_picture(none), None, "{none}");
        }
    }

    #[test]
    fn of_a_long_prompt_the_begin_is_kept_and_the_rest_measured() {
        let mut draft = Draft::new();
        let long = "ä".repeat(400_000);
        for _ in 0..2 {
            let text = draft.text(&long.as_str().into());
            draft.message(Message { text, ..Message::default() });
        }
        draft.tool(&Value::from("{\"name\":\"f\"}"), &serde_json::json!({"name": "f"}), None);
        draft.schema(&serde_json::json!({"type": "object"}), None);
        let prompt = draft.finish();
        let kept: usize = prompt.messages.iter().map(|message| message.text.len()).sum();
        assert_eq!(kept, TEXT_BYTES_MAX);
        assert_eq!(prompt.bytes_beyond, 1_600_000 - (1 << 20) + 12 + 17);
        assert_eq!((prompt.tools.len(), prompt.tools[0].name.as_str()), (1, ""), "counted, not held");
    }
}
