//! Whatever a request holds, it is read and measured.

#[path = "support/prompts.rs"]
mod prompts;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenmeter::operation::Operation;
use tokenmeter::tokenizer::Tokenizers;
use tokenmeter::tokenizer::measured::measure;
use tokenmeter::wires;

use prompts::said;

#[test]
fn a_response_is_asked_for_by_items_of_all_kinds() {
    let request = json!({
        "instructions": "Be brief.",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "https://example.org/a.png"}]},
            {"type": "reasoning", "encrypted_content": "x"},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "b"},
            {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "c"}]},
            {"role": "assistant", "content": []},
            {"role": "user", "content": "d"},
        ],
        "tools": [{"type": "function", "name": "f"}],
    });
    let read = said("openai", Operation::Responses, &request.to_string());
    assert_eq!(
        read,
        "system: Be brief. | user: a | assistant:  f({}) g({}) | tool: b | tool: c | user: d | {f} | 1 images"
    );
}

#[test]
fn what_only_the_provider_knows_is_said() {
    for request in [
        json!({"input": "a", "previous_response_id": "resp_1"}),
        json!({"input": "a", "conversation": "conv_1"}),
        json!({"prompt": {"id": "pmpt_1"}}),
        json!({"input": "a", "tools": [{"type": "web_search"}]}),
        json!({"input": "a", "tools": [{"type": "mcp", "server_label": "x"}]}),
        json!({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]}),
        json!({"input": [{"role": "user", "content": "a"}, {"type": "reasoning", "encrypted_content": "x"}]}),
        json!({"input": [{"type": "item_reference", "id": "msg_1"}]}),
        json!({"input": "a", "reasoning": {"mode": "pro"}}),
    ] {
        assert!(said("openai", Operation::Responses, &request.to_string()).ends_with("1 unseen"), "{request}");
    }
    let plain = json!({"input": "a", "previous_response_id": null, "tools": []});
    assert_eq!(said("openai", Operation::Responses, &plain.to_string()), "user: a");
}

#[test]
fn a_message_to_claude_is_its_blocks() {
    let request = json!({
        "system": [{"type": "text", "text": "S"}],
        "messages": [
            {"role": "user", "content": "T"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "R"}]},
                {"type": "image", "source": {"type": "base64", "data": "AAAA"}}]},
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
    });
    let read = said("anthropic", Operation::Chat, &request.to_string());
    assert_eq!(read, "system: S | user: T | assistant: hm f({\"a\":1}) | user: R | {f} | 1 images");
    let server = json!({"messages": [], "tools": [{"type": "web_search_20250305", "name": "web_search"}]});
    assert!(said("anthropic", Operation::Chat, &server.to_string()).ends_with("1 unseen"));
}

/// Names that wires look for, and values that they may find there.
fn request() -> impl Strategy<Value = Value> {
    const WORDS: [&str; 36] = [
        "messages",
        "role",
        "content",
        "text",
        "type",
        "tool_calls",
        "function",
        "name",
        "arguments",
        "tools",
        "parameters",
        "input",
        "instructions",
        "image_url",
        "url",
        "data:image/png;base64,iVBORw0KGgo",
        "system",
        "user",
        "assistant",
        "tool",
        "function_call",
        "function_call_output",
        "message",
        "prompt",
        "contents",
        "parts",
        "functionCall",
        "tool_choice",
        "required",
        "response_format",
        "json_schema",
        "schema",
        "properties",
        "toolUse",
        "reasoning",
        "documents",
    ];
    let word = prop::sample::select(WORDS.to_vec());
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        "[aä🦀\\\\\" ]{0,9}".prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..6)
                .prop_map(|members| members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_json_is_read_and_measured_without_a_panic(request in request(), model in prop::sample::select(vec!["gpt-4o", "gpt-5", "o3", "claude"])) {
        let (body, tokenizers) = (request.to_string(), Tokenizers::default());
        for wire in wires::REGISTRY {
            for operation in [Operation::Chat, Operation::Responses, Operation::Embeddings, Operation::Interaction, Operation::Speech] {
                if let Some(prompt) = wire.prompt(operation, body.as_bytes()) {
                    let measured = measure(&prompt, operation, &tokenizers.counter("any", model), wire.name());
                    prop_assert!(measured.tokens < 1 << 40 || prompt.tokens > 0);
                }
            }
        }
    }
}
