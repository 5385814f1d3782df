//! What `OpenAI`'s models are billed for a prompt: the tokens of its text and what the provider puts around it.
//!
//! The cookbook documents chats of text (developers.openai.com/cookbook, "How to count tokens with tiktoken", read
//! 2026-11-20); the rest is inferred from reported counts, and `tests/counting.rs` holds it against recorded traffic.

use super::functions;
use super::measured::{Tally, is_system};
use crate::framing::compact::compacted;
use crate::operation::Operation;
use crate::wires::prompt::{Image, Message, Prompt, ToolCall};

/// Models that are shown a conversation alike.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Family {
    /// GPT-3.5 to GPT-4.5, and the chat models of later ones.
    Chat,
    /// o1, o3, o4.
    Reasoning,
    /// GPT-5 and later, Codex.
    Five,
}

impl Family {
    /// The family of a model by its name; `None` where it is not one of `OpenAI`'s.
    pub(super) fn of(model: &str) -> Option<Self> {
        let name = bare(model);
        let is = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        if is(&["gpt-5", "gpt-6", "codex"]) && !is(&["gpt-5-chat"]) {
            Some(Self::Five)
        } else if ["o1", "o3", "o4"].iter().any(|one| name.strip_prefix(one).is_some_and(is_end)) {
            Some(Self::Reasoning)
        } else if is(&[
            "gpt-3.5",
            "gpt-35",
            "gpt-4",
            "gpt-5",
            "chatgpt-",
            "text-embedding-",
            "davinci-002",
            "babbage-002",
        ]) {
            Some(Self::Chat)
        } else {
            None
        }
    }

    fn is_chat(self) -> bool {
        self == Self::Chat
    }
}

/// How a conversation is shown.
#[derive(Clone, Copy, Debug)]
struct Style {
    family: Family,
    is_responses: bool,
    /// GPT-5.1 and later.
    is_later: bool,
}

impl Style {
    /// Tokens of a call beside its name and its arguments.
    fn around_call(self) -> u64 {
        match (self.is_responses, self.family) {
            (false, Family::Chat) => 7,
            (false, Family::Reasoning | Family::Five) => 13,
            (true, Family::Chat) => 5,
            (true, Family::Reasoning | Family::Five) if self.is_later => 14,
            (true, Family::Reasoning | Family::Five) => 11,
        }
    }
}

fn is_end(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(['-', ':'])
}

/// A model's name without what gateways and fine-tuning put before it, in lower case.
pub(super) fn bare(model: &str) -> String {
    let name = model.rsplit('/').next().unwrap_or(model);
    let name = name.strip_prefix("ft:").unwrap_or(name);
    let name = name.strip_prefix("openai.").unwrap_or(name);
    name.to_ascii_lowercase()
}

/// The tokens of `prompt`, but for those sent as numbers and for what was not looked at.
pub(super) fn tokens(tally: &Tally<'_>, prompt: &Prompt, operation: Operation, family: Family, model: &str) -> u64 {
    let texts = sum(prompt.texts.iter().map(|text| tally.of(text)));
    let pictures = images(prompt, model);
    if prompt.messages.is_empty() && prompt.tools.is_empty() {
        return texts.saturating_add(pictures);
    }
    let name = bare(model);
    let is_responses = operation == Operation::Responses;
    let style = Style { family, is_responses, is_later: name.starts_with("gpt-5.") };
    let is_first_snapshot = name == "gpt-3.5-turbo-0301";
    let primer = if family.is_chat() { 3 } else { 2 };
    let tools = (!prompt.tools.is_empty()).then(|| functions::tools(&prompt.tools));
    let format = prompt.schema.as_ref().map(functions::response_format);
    let around = around_definitions(tally, prompt, style);
    // In chats they stand behind the instruction, in responses they stand alone.
    let instruction = prompt.messages.iter().position(|message| is_system(&message.role)).filter(|_| !is_responses);
    let definitions: Vec<&str> = [tools.as_deref(), format.as_deref()].into_iter().flatten().collect();
    let beside = match instruction {
        _ if definitions.is_empty() => 0,
        Some(_) => 0,
        None if is_responses => sum(definitions.iter().map(|definition| tally.of(definition))),
        None => tally.of(&definitions.join("\n\n")).saturating_add(if family.is_chat() { 4 } else { 1 }),
    };
    let messages = prompt.messages.iter().enumerate().map(|(at, message)| {
        let behind = if Some(at) == instruction { definitions.as_slice() } else { &[] };
        of_message(tally, prompt, message, behind, style).saturating_add(u64::from(is_first_snapshot))
    });
    let forced = match &prompt.forced_tool {
        Some(name) if family.is_chat() => tally.of(name).saturating_add(7),
        Some(_) | None => 0,
    };
    let parts = [texts, pictures, primer, sum(messages), beside, forced];
    sum(parts.into_iter()).saturating_add_signed(around)
}

/// What the definitions of tools and of the answer's shape cost beside their text.
fn around_definitions(tally: &Tally<'_>, prompt: &Prompt, style: Style) -> i64 {
    let is_undescribed = prompt.tools.first().is_some_and(|tool| tool.description.is_empty());
    let tools = match (style.is_responses, style.family) {
        _ if prompt.tools.is_empty() => 0,
        (true, Family::Chat) => -3,
        (true, Family::Reasoning) => 0,
        (true, Family::Five) => 3 - i64::from(is_undescribed),
        // The block's end takes the place of the message's.
        (false, Family::Chat) => -1,
        (false, Family::Reasoning) => 3,
        // A preamble on channels and tools.
        (false, Family::Five) => 84 - i64::from(is_undescribed),
    };
    let format = match (&prompt.schema, style.family) {
        (None, _) => 0,
        (Some(_), Family::Chat) if style.is_responses => 1,
        // It is asked for by its name, unless a function may be called in its place.
        (Some(_), Family::Chat) if !prompt.tools.is_empty() => 0,
        (Some(schema), Family::Chat) => i64::try_from(tally.of(&schema.name)).unwrap_or(0).saturating_add(2),
        (Some(_), Family::Reasoning | Family::Five) => {
            if style.is_responses {
                0
            } else {
                3
            }
        }
    };
    tools.saturating_add(format)
}

fn sum(parts: impl Iterator<Item = u64>) -> u64 {
    parts.fold(0, u64::saturating_add)
}

fn of_message(tally: &Tally<'_>, prompt: &Prompt, message: &Message, behind: &[&str], style: Style) -> u64 {
    let text = match behind {
        [] => tally.of(&message.text),
        behind => tally.of(&[&[message.text.as_str()], behind].concat().join("\n\n")),
    };
    if !message.calls.is_empty() {
        let said = if message.text.is_empty() { 0 } else { text.saturating_add(4) };
        return said.saturating_add(of_calls(tally, &message.calls, style));
    }
    if matches!(message.role.as_str(), "tool" | "function") {
        let name = match (message.name.as_deref(), caller(prompt, message)) {
            // What several calls at once came to is the result of that one call.
            (_, Some((_, caller))) if is_one_call(&caller.calls, style) => 0,
            (Some(name), _) => tally.of(name),
            (None, Some((call, _))) => tally.of(&call.name),
            (None, None) => 1,
        };
        return sum([6, text, name].into_iter());
    }
    let name = message.name.as_deref().map_or(0, |name| tally.of(name));
    let ending = if message.role == "assistant" && !style.family.is_chat() { 2 } else { 0 };
    sum([3, tally.of(&message.role), text, name, ending].into_iter())
}

/// The call whose result a message is, and the message that makes it.
fn caller<'a>(prompt: &'a Prompt, result: &Message) -> Option<(&'a ToolCall, &'a Message)> {
    let id = result.result_of.as_deref()?;
    prompt.messages.iter().rev().find_map(|message| {
        let call = message.calls.iter().find(|call| call.id == id)?;
        Some((call, message))
    })
}

/// Whether calls are made as one: in chats, several at once are a call of `multi_tool_use.parallel`.
fn is_one_call(calls: &[ToolCall], style: Style) -> bool {
    !style.is_responses && calls.len() > 1
}

fn of_calls(tally: &Tally<'_>, calls: &[ToolCall], style: Style) -> u64 {
    let compact = |call: &ToolCall| {
        compacted(&call.arguments).map_or_else(|| call.arguments.clone(), |json| json.get().to_owned())
    };
    if is_one_call(calls, style) {
        let uses = calls
            .iter()
            .map(|call| format!("{{\"recipient_name\":\"functions.{}\",\"parameters\":{}}}", call.name, compact(call)));
        let uses = format!("{{\"tool_uses\":[{}]}}", uses.collect::<Vec<_>>().join(","));
        return tally.of(&uses).saturating_add(if style.family == Family::Five { 18 } else { 12 });
    }
    let calls_alone = sum(calls.iter().map(|call| tally.of(&call.name).saturating_add(tally.of(&compact(call)))));
    let count = u64::try_from(calls.len()).unwrap_or(u64::MAX);
    calls_alone.saturating_add(count.saturating_mul(style.around_call()))
}

/// How a model bills pictures.
#[derive(Clone, Copy, Debug)]
enum Billing {
    /// By squares of 512 pixels, and a base.
    Tiles { base: u64, tile: u64 },
    /// By squares of 32 pixels, each of which is so many thousandths of a token.
    Patches { per_mille: u64 },
}

/// Patches that a picture has at most; a larger one is scaled down.
const PATCHES_MAX: u64 = 1_536;
/// What a picture of unknown size is taken for: a screenshot in high detail.
const USUAL_SIZE: (u32, u32) = (1_024, 1_024);

fn images(prompt: &Prompt, model: &str) -> u64 {
    let billing = billing(&bare(model));
    sum(prompt.images.iter().map(|image| of_image(*image, billing)))
}

fn billing(name: &str) -> Billing {
    let is = |prefix: &str| name.starts_with(prefix);
    if is("gpt-4o-mini") {
        Billing::Tiles { base: 2_833, tile: 5_667 }
    } else if is("gpt-4.1-mini") {
        Billing::Patches { per_mille: 1_620 }
    } else if is("gpt-4.1-nano") {
        Billing::Patches { per_mille: 2_460 }
    } else if is("o4-mini") {
        Billing::Patches { per_mille: 1_720 }
    } else if is("gpt-5-mini") {
        Billing::Patches { per_mille: 1_200 }
    } else if is("gpt-5-nano") {
        Billing::Patches { per_mille: 1_500 }
    } else if is("o1") || is("o3") {
        Billing::Tiles { base: 75, tile: 150 }
    } else if is("gpt-5") {
        Billing::Tiles { base: 70, tile: 140 }
    } else {
        Billing::Tiles { base: 85, tile: 170 }
    }
}

fn of_image(image: Image, billing: Billing) -> u64 {
    let (width, height) = image.size.unwrap_or(USUAL_SIZE);
    let (width, height) = (u64::from(width.max(1)), u64::from(height.max(1)));
    match billing {
        Billing::Tiles { base, .. } if image.is_low_detail => base,
        Billing::Tiles { base, tile } => {
            let tiles = tiles(width, height);
            base.saturating_add(tile.saturating_mul(tiles))
        }
        Billing::Patches { per_mille } => {
            let patches = width.div_ceil(32).saturating_mul(height.div_ceil(32)).min(PATCHES_MAX);
            patches.saturating_mul(per_mille).div_ceil(1_000)
        }
    }
}

/// Squares of 512 pixels of a picture that was made to fit 2,048 pixels, then its shorter side 768.
fn tiles(width: u64, height: u64) -> u64 {
    let (mut width, mut height) = (width, height);
    for (side, side_max) in [(width.max(height), 2_048), (0, 768)] {
        let side = if side == 0 { width.min(height) } else { side };
        if side > side_max {
            let scale = |length: u64| length.saturating_mul(side_max).checked_div(side).unwrap_or(0).max(1);
            (width, height) = (scale(width), scale(height));
        }
    }
    width.div_ceil(512).saturating_mul(height.div_ceil(512))
}
