//! What it costs to read an answer beside passing it on: `cargo bench --bench observers`.
//!
//! Streams of our own making, a megabyte of each, in the chunks that a socket gives, their words and counts changing as a
//! provider's do: throughput in bytes, and in units, which are what a provider calls chunks or events. `framer` cuts them
//! into units and looks at none; `observer` is the whole reading of an answer, of which keeping its text for local counting
//! is a part. Usage is found without parsing each unit, so the two lie close together.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "what fails here fails the bench")]

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use tokenmeter::framing::Framer;
use tokenmeter::operation::Operation;
use tokenmeter::wires;

const STREAM_BYTES: usize = 1 << 20;
/// An event or a few come with one read of a socket.
const CHUNK_BYTES: usize = 1200;

/// What stands in place of `WORD`, one after the other.
const WORDS: [&str; 8] = ["word", "a", "measured", "of", "Grüße", "tokens,", "\\n\\n", "unmistakably"];

/// A kind of answer: the wire, what was asked, how it is framed, one unit of text, and the last with usage. In the text
/// stand `WORD` and, for a count that grows, `NUMBER`.
struct Kind {
    name: &'static str,
    wire: &'static str,
    operation: Operation,
    content_type: &'static str,
    encoding: &'static str,
    text: &'static str,
    usage: &'static str,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name)
    }
}

const SSE: &str = "text/event-stream";
const LINES: &str = "application/x-ndjson";
const MESSAGES: &str = "application/vnd.amazon.eventstream";

const CHAT: Kind = Kind {
    name: "openai chat",
    wire: "openai",
    operation: Operation::Chat,
    content_type: SSE,
    encoding: "",
    text: "data: {\"id\":\"chatcmpl-BxQ1m0w8nVdT2\",\"object\":\"chat.completion.chunk\",\"created\":1764000000,\"model\":\"gpt-5-2025-08-07\",\"service_tier\":\"default\",\"system_fingerprint\":null,\"choices\":[{\"index\":0,\"delta\":{\"content\":\" WORD\"},\"finish_reason\":null}],\"usage\":null,\"obfuscation\":\"a8Zk2\"}\n\n",
    usage: "data: {\"id\":\"chatcmpl-BxQ1m0w8nVdT2\",\"object\":\"chat.completion.chunk\",\"model\":\"gpt-5-2025-08-07\",\"choices\":[],\"usage\":{\"prompt_tokens\":1836,\"completion_tokens\":391,\"total_tokens\":2227,\"prompt_tokens_details\":{\"cached_tokens\":1024,\"audio_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":128}}}\n\ndata: [DONE]\n\n",
};

/// Azure's and Vertex's answers are read as `OpenAI`'s and Gemini's.
const KINDS: &[Kind] = &[
    CHAT,
    Kind { name: "openai chat, gzip", encoding: "gzip", ..CHAT },
    Kind {
        name: "openai chat, usage in each chunk",
        text: "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1764000000,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" WORD\"},\"finish_reason\":null}],\"usage\":{\"prompt_tokens\":1836,\"total_tokens\":NUMBER,\"completion_tokens\":NUMBER}}\n\n",
        ..CHAT
    },
    Kind {
        name: "openai responses",
        operation: Operation::Responses,
        text: "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"sequence_number\":NUMBER,\"item_id\":\"msg_68ac0b1d2f\",\"output_index\":0,\"content_index\":0,\"delta\":\" WORD\",\"logprobs\":[],\"obfuscation\":\"a8Zk2\"}\n\n",
        usage: "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\",\"status\":\"completed\",\"model\":\"gpt-5\",\"output\":[],\"usage\":{\"input_tokens\":50,\"input_tokens_details\":{\"cached_tokens\":40},\"output_tokens\":20,\"output_tokens_details\":{\"reasoning_tokens\":5},\"total_tokens\":70}}}\n\n",
        ..CHAT
    },
    Kind {
        name: "anthropic messages",
        wire: "anthropic",
        text: "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" WORD\"}}\n\n",
        usage: "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"input_tokens\":15,\"output_tokens\":391}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        ..CHAT
    },
    Kind {
        name: "gemini generate",
        wire: "gemini",
        operation: Operation::GenerateContent,
        text: "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\" WORD and some more WORDs of one chunk\"}],\"role\":\"model\"},\"index\":0}],\"usageMetadata\":{\"promptTokenCount\":812,\"candidatesTokenCount\":NUMBER,\"totalTokenCount\":NUMBER,\"promptTokensDetails\":[{\"modality\":\"TEXT\",\"tokenCount\":812}]},\"modelVersion\":\"gemini-2.5-flash\",\"responseId\":\"a8Zk2\"}\r\n\r\n",
        usage: "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\".\"}],\"role\":\"model\"},\"finishReason\":\"STOP\",\"index\":0}],\"usageMetadata\":{\"promptTokenCount\":812,\"candidatesTokenCount\":391,\"totalTokenCount\":1203},\"modelVersion\":\"gemini-2.5-flash\"}\r\n\r\n",
        ..CHAT
    },
    Kind {
        name: "gemini generate, as an array",
        wire: "gemini",
        operation: Operation::GenerateContent,
        content_type: "application/json",
        text: ",{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\" WORD and some more WORDs of one chunk\"}],\"role\":\"model\"},\"index\":0}],\"modelVersion\":\"gemini-2.5-flash\"}\n",
        usage: ",{\"usageMetadata\":{\"promptTokenCount\":812,\"candidatesTokenCount\":391,\"totalTokenCount\":1203}}]",
        ..CHAT
    },
    Kind {
        name: "bedrock converse",
        wire: "bedrock",
        content_type: MESSAGES,
        text: "contentBlockDelta {\"contentBlockIndex\":0,\"delta\":{\"text\":\" WORD\"},\"p\":\"abcdefghijklmnop\"}",
        usage: "metadata {\"metrics\":{\"latencyMs\":512},\"usage\":{\"inputTokens\":15,\"outputTokens\":391,\"totalTokens\":406}}",
        ..CHAT
    },
    Kind {
        name: "bedrock invoke, claude",
        wire: "bedrock",
        content_type: MESSAGES,
        text: "chunk {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\" WORD\"}}",
        usage: "chunk {\"type\":\"message_stop\",\"amazon-bedrock-invocationMetrics\":{\"inputTokenCount\":15,\"outputTokenCount\":391}}",
        ..CHAT
    },
    Kind {
        name: "bedrock invoke, llama",
        wire: "bedrock",
        content_type: MESSAGES,
        text: "chunk {\"generation\":\" WORD\",\"prompt_token_count\":null,\"generation_token_count\":NUMBER,\"stop_reason\":null}",
        usage: "chunk {\"generation\":\"\",\"prompt_token_count\":null,\"generation_token_count\":39100,\"stop_reason\":\"stop\",\"amazon-bedrock-invocationMetrics\":{\"inputTokenCount\":15,\"outputTokenCount\":39100}}",
        ..CHAT
    },
    Kind {
        name: "cohere chat",
        wire: "cohere",
        text: "event: content-delta\ndata: {\"type\":\"content-delta\",\"index\":0,\"delta\":{\"message\":{\"content\":{\"text\":\" WORD\"}}}}\n\n",
        usage: "event: message-end\ndata: {\"type\":\"message-end\",\"delta\":{\"finish_reason\":\"COMPLETE\",\"usage\":{\"billed_units\":{\"input_tokens\":15,\"output_tokens\":391},\"tokens\":{\"input_tokens\":80,\"output_tokens\":391}}}}\n\ndata: [DONE]\n\n",
        ..CHAT
    },
    Kind {
        name: "ollama chat",
        wire: "ollama",
        content_type: LINES,
        text: "{\"model\":\"llama3.2\",\"created_at\":\"2026-11-22T13:22:01.123456Z\",\"message\":{\"role\":\"assistant\",\"content\":\" WORD\"},\"done\":false}\n",
        usage: "{\"model\":\"llama3.2\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":26,\"eval_count\":391}\n",
        ..CHAT
    },
    Kind {
        name: "cloudflare run",
        wire: "cloudflare",
        text: "data: {\"response\":\" WORD\",\"p\":\"abdefghijklmnopqrstuvwx\"}\n\n",
        usage: "data: {\"response\":\"\",\"usage\":{\"prompt_tokens\":15,\"completion_tokens\":391,\"total_tokens\":406}}\n\ndata: [DONE]\n\n",
        ..CHAT
    },
    Kind {
        name: "dashscope generation, usage in each event",
        wire: "dashscope",
        text: "id:NUMBER\nevent:result\n:HTTP_STATUS/200\ndata:{\"output\":{\"finish_reason\":\"null\",\"text\":\" WORD\"},\"usage\":{\"total_tokens\":NUMBER,\"input_tokens\":15,\"output_tokens\":NUMBER},\"request_id\":\"a8Zk2\"}\n\n",
        usage: "id:2\nevent:result\n:HTTP_STATUS/200\ndata:{\"output\":{\"finish_reason\":\"stop\",\"text\":\".\"},\"usage\":{\"total_tokens\":406,\"input_tokens\":15,\"output_tokens\":391}}\n\n",
        ..CHAT
    },
    Kind {
        name: "tgi generate",
        wire: "tgi",
        operation: Operation::TextCompletion,
        text: "data:{\"index\":NUMBER,\"token\":{\"id\":412,\"text\":\" WORD\",\"logprob\":-0.42,\"special\":false},\"generated_text\":null,\"details\":null}\n\n",
        usage: "data:{\"index\":8,\"token\":{\"id\":2,\"text\":\"\",\"logprob\":0.0,\"special\":true},\"generated_text\":\" word\",\"details\":{\"finish_reason\":\"eos_token\",\"generated_tokens\":391,\"input_length\":15}}\n\n",
        ..CHAT
    },
    Kind {
        name: "watsonx generation",
        wire: "watsonx",
        operation: Operation::TextCompletion,
        text: "id: NUMBER\nevent: message\ndata: {\"model_id\":\"ibm/granite\",\"created_at\":\"2026-11-22T13:22:01Z\",\"results\":[{\"generated_text\":\" WORD\",\"generated_token_count\":NUMBER,\"input_token_count\":0,\"stop_reason\":\"not_finished\"}]}\n\n",
        usage: "id: 4\nevent: message\ndata: {\"model_id\":\"ibm/granite\",\"results\":[{\"generated_text\":\"\",\"generated_token_count\":391,\"input_token_count\":0,\"stop_reason\":\"eos_token\"}]}\n\n",
        ..CHAT
    },
    Kind {
        name: "alephalpha complete",
        wire: "alephalpha",
        operation: Operation::TextCompletion,
        text: "data: {\"type\":\"stream_chunk\",\"index\":0,\"completion\":\" WORD\"}\n\n",
        usage: "data: {\"type\":\"stream_summary\",\"index\":0,\"model_version\":\"2022-04\",\"finish_reason\":\"maximum_tokens\"}\n\ndata: {\"type\":\"completion_summary\",\"num_tokens_prompt_total\":15,\"num_tokens_generated\":391}\n\n",
        ..CHAT
    },
];

/// A unit as it goes over the wire. Of a message the text is its event and its payload.
fn framed(kind: &Kind, text: &str) -> Vec<u8> {
    let Some((event, payload)) = text.split_once(' ').filter(|_| kind.content_type == MESSAGES) else {
        return text.as_bytes().to_vec();
    };
    let payload = match event {
        "chunk" => format!("{{\"bytes\":\"{}\",\"p\":\"abcdef\"}}", STANDARD.encode(payload)),
        _ => payload.to_owned(),
    };
    let mut headers = Vec::new();
    for (name, value) in [(":event-type", event), (":content-type", "application/json"), (":message-type", "event")] {
        headers.push(u8::try_from(name.len()).unwrap());
        headers.extend_from_slice(name.as_bytes());
        headers.push(7);
        headers.extend_from_slice(&u16::try_from(value.len()).unwrap().to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let length = |bytes: usize| u32::try_from(bytes).unwrap().to_be_bytes();
    let mut message = [length(16 + headers.len() + payload.len()), length(headers.len())].concat();
    message.extend_from_slice(&crc32fast::hash(&message).to_be_bytes());
    message.extend_from_slice(&headers);
    message.extend_from_slice(payload.as_bytes());
    message.extend_from_slice(&crc32fast::hash(&message).to_be_bytes());
    message
}

/// The whole answer, with usage at its end or without, encoded; and how many units it is.
fn answer(kind: &Kind, has_usage: bool) -> (Vec<u8>, usize) {
    let (mut answer, mut units) = (Vec::new(), 0);
    while answer.len() < STREAM_BYTES {
        let text = kind.text.replace("WORD", WORDS[units % WORDS.len()]).replace("NUMBER", &(units + 1).to_string());
        answer.extend_from_slice(&framed(kind, &text));
        units += 1;
    }
    if kind.content_type == "application/json" {
        answer.splice(..1, [b'[']);
    }
    if has_usage {
        answer.extend_from_slice(&framed(kind, kind.usage));
    }
    if kind.encoding.is_empty() {
        return (answer, units);
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&answer).unwrap();
    (encoder.finish().unwrap(), units)
}

fn framer(kind: &Kind) -> Framer {
    let members = wires::by_name(kind.wire).unwrap().members();
    Framer::new(Some(kind.content_type.as_bytes()), Some(kind.encoding.as_bytes()), members)
}

/// Per megabyte decoded: what the units cost before anybody looks at them.
#[divan::bench(args = KINDS)]
fn framer_only(bencher: Bencher<'_, '_>, kind: &Kind) {
    let (answer, units) = answer(kind, true);
    bencher.counter(BytesCount::new(STREAM_BYTES)).counter(ItemsCount::new(units)).bench(|| {
        let (mut framer, mut units) = (framer(kind), 0_u64);
        for chunk in answer.chunks(CHUNK_BYTES) {
            framer.feed(chunk, &mut |unit| units = units.wrapping_add(unit.len() as u64));
        }
        units
    });
}

fn observe(bencher: Bencher<'_, '_>, kind: &Kind, has_usage: bool) {
    let (answer, units) = answer(kind, has_usage);
    let wire = wires::by_name(kind.wire).unwrap();
    let read = || {
        let (mut framer, mut observer) = (framer(kind), wire.observer(kind.operation, "openai"));
        for chunk in answer.chunks(CHUNK_BYTES) {
            framer.feed(chunk, &mut |unit| observer.unit(unit));
        }
        framer.end(&mut |unit| observer.unit(unit));
        observer.reading().tokens
    };
    assert!(!has_usage || read().output.is_some(), "{kind}: no usage is found");
    bencher.counter(BytesCount::new(STREAM_BYTES)).counter(ItemsCount::new(units)).bench(read);
}

/// Per megabyte of a stream with usage at its end.
#[divan::bench(args = KINDS)]
fn observer_with_usage(bencher: Bencher<'_, '_>, kind: &Kind) {
    observe(bencher, kind, true);
}

/// Per megabyte of a stream that never tells its usage.
#[divan::bench(args = KINDS)]
fn observer_without_usage(bencher: Bencher<'_, '_>, kind: &Kind) {
    observe(bencher, kind, false);
}

fn main() {
    divan::main();
}
