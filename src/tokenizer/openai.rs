//! What `OpenAI`'s models are billed for a prompt: the tokens of its text and what the provider puts around it.
//!
//! The cookbook documents chats of text (developers.openai.com/cookbook, "How to count tokens with tiktoken", read
//! 2026-11-20); the rest is inferred from reported counts, and `tests/counting.rs` holds it against recorded traffic.

use std::collections::HashMap;

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
    let callers = callers(prompt);
    let messages = prompt.messages.iter().enumerate().map(|(at, message)| {
        let behind = if Some(at) == instruction { definitions.as_slice() } else { &[] };
        of_message(tally, &callers, message, behind, style).saturating_add(u64::from(is_first_snapshot))
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
    // A description in front costs a token.
    let described = i64::from(prompt.tools.first().is_some_and(|tool| !tool.description.is_empty()));
    let tools = match (style.is_responses, style.family) {
        _ if prompt.tools.is_empty() => 0,
        (true, Family::Chat) => -3,
        (true, Family::Reasoning) => 0,
        (true, Family::Five) => described.saturating_add(2),
        // The block's end takes the place of the message's.
        (false, Family::Chat) => -1,
        (false, Family::Reasoning) => 3,
        // A preamble on channels and tools.
        (false, Family::Five) => described.saturating_add(83),
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

fn of_message(tally: &Tally<'_>, callers: &Callers<'_>, message: &Message, behind: &[&str], style: Style) -> u64 {
    let text = match behind {
        [] => tally.of(&message.text),
        behind => tally.of(&[&[message.text.as_str()], behind].concat().join("\n\n")),
    };
    if !message.calls.is_empty() {
        let said = if message.text.is_empty() { 0 } else { text.saturating_add(4) };
        return said.saturating_add(of_calls(tally, &message.calls, style));
    }
    if matches!(message.role.as_str(), "tool" | "function") {
        let name = match (message.name.as_deref(), message.result_of.as_deref().and_then(|id| callers.get(id))) {
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

/// The calls of a conversation by their ids, each with the message that makes it.
type Callers<'a> = HashMap<&'a str, (&'a ToolCall, &'a Message)>;

fn callers(prompt: &Prompt) -> Callers<'_> {
    let mut callers = HashMap::new();
    for message in &prompt.messages {
        callers.extend(message.calls.iter().map(|call| (call.id.as_str(), (call, message))));
    }
    callers
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tokenizer::Tokenizers;
    use crate::tokenizer::measured::{Rule, measure};
    use crate::wires::Wire;
    use crate::wires::openai::OpenAi;

    fn prompt(operation: Operation, request: &serde_json::Value) -> Prompt {
        OpenAi.prompt(operation, request.to_string().as_bytes()).unwrap()
    }

    fn counted(operation: Operation, model: &str, request: &serde_json::Value) -> u64 {
        let measured =
            measure(&prompt(operation, request), operation, &Tokenizers::default().counter("openai", model), "openai");
        assert_eq!(measured.rule, Rule::Exact);
        measured.tokens
    }

    fn chat(model: &str, request: &serde_json::Value) -> u64 {
        counted(Operation::Chat, model, request)
    }

    fn n(text: &str) -> u64 {
        Tokenizers::default().counter("openai", "gpt-4o").count(text).tokens
    }

    #[test]
    fn a_model_has_its_family() {
        for (model, family) in [
            ("gpt-4o-2024-08-06", Some(Family::Chat)),
            ("openai/gpt-4.1-mini", Some(Family::Chat)),
            ("gpt-35-turbo", Some(Family::Chat)),
            ("ft:gpt-4o-mini-2024-07-18:acme::1", Some(Family::Chat)),
            ("gpt-5-chat-latest", Some(Family::Chat)),
            ("chatgpt-4o-latest", Some(Family::Chat)),
            ("o3-mini", Some(Family::Reasoning)),
            ("o1", Some(Family::Reasoning)),
            ("gpt-5", Some(Family::Five)),
            ("gpt-5.2-chat-latest", Some(Family::Five)),
            ("gpt-6", Some(Family::Five)),
            ("openai.gpt-oss-120b-1:0", None),
            ("o365-assistant", None),
            ("claude-sonnet-4-5", None),
            ("", None),
        ] {
            assert_eq!(Family::of(model), family, "{model}");
        }
    }

    /// The cookbook's conversation, for which the API said 124 in 2024; since then a name costs its tokens and no more.
    #[test]
    fn the_cookbooks_conversation_is_what_the_api_said() {
        let request = json!({"messages": [
            {"role": "system",
             "content": "You are a helpful, pattern-following assistant that translates corporate jargon into plain English."},
            {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
            {"role": "system", "name": "example_assistant",
             "content": "Things working well together will increase revenue."},
            {"role": "system", "name": "example_user",
             "content": "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage."},
            {"role": "system", "name": "example_assistant",
             "content": "Let's talk later when we're less busy about how to do better."},
            {"role": "user",
             "content": "This late pivot means we don't have time to boil the ocean for the client deliverable."},
        ]});
        assert_eq!(chat("gpt-4o", &request), 124 - 4);
        assert_eq!(chat("gpt-4-0613", &request), 129 - 4);
        assert_eq!(chat("gpt-3.5-turbo-0301", &request), 129 - 4 + 6);
    }

    #[test]
    fn a_question_is_its_text_and_what_is_around_it() {
        let request = json!({"messages": [{"role": "user", "content": "hello"}]});
        assert_eq!(chat("gpt-4o", &request), 3 + 3 + 1 + 1);
        assert_eq!(chat("gpt-5", &request), 2 + 3 + 1 + 1);
        assert_eq!(chat("o3", &request), 2 + 3 + 1 + 1);
        assert_eq!(counted(Operation::Responses, "gpt-4.1", &json!({"input": "hello"})), 8);
        let instructed = json!({"input": "hello", "instructions": "hello"});
        assert_eq!(counted(Operation::Responses, "gpt-4.1", &instructed), 8 + 5);
        let answered = json!({"messages": [
            {"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "hello"},
        ]});
        assert_eq!(chat("gpt-4o", &answered), 3 + 3 * 5);
        assert_eq!(chat("gpt-5", &answered), 2 + 3 * 5 + 2);
        assert_eq!(counted(Operation::Embeddings, "text-embedding-3-small", &json!({"input": ["hello", [1, 2]]})), 3);
        assert_eq!(counted(Operation::TextCompletion, "gpt-3.5-turbo-instruct", &json!({"prompt": "hello"})), 1);
    }

    #[test]
    fn tools_stand_behind_the_instruction_or_in_a_message_of_their_own() {
        let tools = json!([{"type": "function", "function": {"name": "ping", "description": "Ping."}}]);
        let block = "# Tools\n\n## functions\n\nnamespace functions {\n\n// Ping.\ntype ping = () => any;\n\n} // namespace functions";
        let user = json!({"role": "user", "content": "hello"});
        let alone = json!({"messages": [user], "tools": tools});
        assert_eq!(chat("gpt-4o", &alone), 8 + n(block) + 3);
        assert_eq!(chat("gpt-5", &alone), 7 + n(block) + 85);
        assert_eq!(chat("o3", &alone), 7 + n(block) + 4);
        let instructed = json!({"messages": [{"role": "system", "content": "Be kind."}, user], "tools": tools});
        assert_eq!(chat("gpt-4o", &instructed), 8 + 4 + n(&format!("Be kind.\n\n{block}")) - 1);
        let forced = json!({"messages": [user], "tools": tools, "tool_choice": {"type": "function", "function": {"name": "ping"}}});
        assert_eq!(chat("gpt-4o", &forced), chat("gpt-4o", &alone) + 7 + n("ping"));
        assert_eq!(chat("gpt-5", &forced), chat("gpt-5", &alone));
        let flat = json!([{"type": "function", "name": "ping", "description": "Ping."}]);
        let response = json!({"input": "hello", "tools": flat});
        assert_eq!(counted(Operation::Responses, "gpt-4o", &response), 8 + n(block) - 3);
        assert_eq!(counted(Operation::Responses, "gpt-5", &response), 7 + n(block) + 3);
        let wrapped = json!({"input": "hello", "tools": [{"type": "function", "name": "ping",
            "function": {"description": "Ping.", "parameters": {"properties": {"a": {}}}}}]});
        let bare = block.replace("// Ping.\n", "");
        assert_eq!(counted(Operation::Responses, "gpt-4o", &wrapped), 8 + n(&bare) - 3, "what is wrapped is not read");
    }

    #[test]
    fn calls_of_the_past_cost_their_names_and_arguments() {
        let call = |id: &str, name: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": "{ \"a\": 1 }"}});
        let result = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": "hello"});
        let user = json!({"role": "user", "content": "hello"});
        let one = json!({"messages": [user, {"role": "assistant", "content": null, "tool_calls": [call("1", "add")]}, result("1")]});
        let arguments = n("{\"a\":1}");
        assert_eq!(chat("gpt-4o", &one), 8 + (7 + n("add") + arguments) + (6 + 1 + n("add")));
        assert_eq!(chat("gpt-5", &one), 7 + (13 + n("add") + arguments) + (6 + 1 + n("add")));
        let two = json!({"messages": [user, {"role": "assistant", "tool_calls": [call("1", "add"), call("2", "mul")]}, result("1"), result("2")]});
        let uses = n(
            "{\"tool_uses\":[{\"recipient_name\":\"functions.add\",\"parameters\":{\"a\":1}},{\"recipient_name\":\"functions.mul\",\"parameters\":{\"a\":1}}]}",
        );
        assert_eq!(chat("gpt-4o", &two), 8 + (12 + uses) + 2 * (6 + 1));
        let items = json!({"input": [user,
            {"type": "function_call", "call_id": "1", "name": "add", "arguments": "{\"a\":1}"},
            {"type": "function_call_output", "call_id": "1", "output": "hello"}]});
        assert_eq!(counted(Operation::Responses, "gpt-4o", &items), 8 + (5 + n("add") + arguments) + (7 + n("add")));
    }

    #[test]
    fn an_answers_shape_is_shown_without_its_formalities() {
        let schema = json!({"type": "object", "properties": {"format": {"type": "integer", "minimum": 1}},
            "required": ["format"], "additionalProperties": false});
        let shown =
            "# Response Formats\n\n## size\n\n{\"type\":\"object\",\"properties\":{\"format\":{\"type\":\"integer\"}}}";
        let format = json!({"type": "json_schema", "name": "size", "schema": schema});
        let response = json!({"input": "hello", "text": {"format": format}});
        assert_eq!(counted(Operation::Responses, "gpt-4o", &response), 8 + n(shown) + 1);
        assert_eq!(counted(Operation::Responses, "gpt-5", &response), 7 + n(shown));
        let user = json!({"role": "user", "content": "hello"});
        let request = json!({"messages": [user], "response_format": {"type": "json_schema", "json_schema": format}});
        assert_eq!(chat("gpt-4o", &request), 8 + n(shown) + 6 + n("size"));
        let plain = json!({"messages": [user], "response_format": {"type": "json_object"}});
        assert_eq!(chat("gpt-4o", &plain), 8);
    }

    /// Sizes and prices as in platform.openai.com/docs/guides/images-vision, read 2026-11-20, and as reported.
    #[test]
    fn a_picture_is_billed_by_tiles_or_patches() {
        let tokens = |model: &str, size, is_low_detail| of_image(Image { size, is_low_detail }, billing(model));
        assert_eq!(tokens("gpt-4o", Some((1_024, 1_024)), false), 765);
        assert_eq!(tokens("gpt-4o", Some((2_048, 4_096)), false), 1_105);
        assert_eq!(tokens("gpt-4o", Some((4_096, 8_192)), true), 85);
        assert_eq!(tokens("gpt-4o-mini", Some((1, 1)), false), 8_500);
        assert_eq!(tokens("gpt-5", Some((1, 1)), false), 210);
        assert_eq!(tokens("o4-mini", Some((1_024, 1_024)), false), 1_762);
        assert_eq!(tokens("gpt-4.1-mini", Some((100_000, 100_000)), false), 2_489);
        assert_eq!(tokens("gpt-4o", None, false), 765);
        for model in ["gpt-4o", "gpt-4.1-nano"] {
            assert!(tokens(model, Some((u32::MAX, 0)), false) < 10_000, "{model}");
        }
    }
}
