//! Recorded exchanges: a folder with `dev.jsonl.gz`, one JSON object a line, kept outside the repository.
//!
//! `TOKENMETER_CORPUS` names the folder; by default it is looked for beside the checkout.

#![expect(clippy::expect_used, clippy::panic, reason = "a corpus that is broken or missing must be heard")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

/// Families of recorded traffic: the wire of the upstream that they are asked of, and a path that says what they are,
/// for rows where none was recorded.
const FAMILIES: [(&str, &str, &str); 44] = [
    ("anthropic.batch", "anthropic", "/v1/messages/batches"),
    ("anthropic.batch_results", "anthropic", "/v1/messages/batches/msgbatch_1/results"),
    ("anthropic.complete", "anthropic", "/v1/complete"),
    ("anthropic.count_tokens", "anthropic", "/v1/messages/count_tokens"),
    ("anthropic.messages", "anthropic", "/v1/messages"),
    ("bedrock.converse", "bedrock", "/model/amazon.nova-lite-v1:0/converse"),
    ("bedrock.converse_stream", "bedrock", "/model/amazon.nova-lite-v1:0/converse-stream"),
    ("bedrock.count_tokens", "bedrock", "/model/anthropic.claude-v2/count-tokens"),
    ("bedrock.invoke", "bedrock", "/model/anthropic.claude-v2/invoke"),
    ("bedrock.invoke_stream", "bedrock", "/model/anthropic.claude-v2/invoke-with-response-stream"),
    ("cloudflare.run", "cloudflare", "/client/v4/accounts/ACCOUNT/ai/run/@cf/meta/llama-3.2-1b-instruct"),
    ("cohere.chat", "cohere", "/v2/chat"),
    ("cohere.embed", "cohere", "/v2/embed"),
    ("cohere.generate", "cohere", "/v1/generate"),
    ("cohere.rerank", "cohere", "/v2/rerank"),
    ("cohere.tokenize", "cohere", "/v1/tokenize"),
    ("gemini.cached_contents", "gemini", "/v1beta/cachedContents"),
    ("gemini.count_tokens", "gemini", "/v1beta/models/gemini-2.5-flash:countTokens"),
    ("gemini.embed", "gemini", "/v1beta/models/gemini-embedding-001:embedContent"),
    ("gemini.generate", "gemini", "/v1beta/models/gemini-2.5-flash:generateContent"),
    ("gemini.interactions", "gemini", "/v1beta/interactions"),
    ("mistral.ocr", "openai", "/v1/ocr"),
    ("ollama.native", "ollama", "/api/chat"),
    ("openai.assistants", "openai", "/v1/threads/runs"),
    ("openai.audio", "openai", "/v1/audio/transcriptions"),
    ("openai.batch", "openai", "/v1/batches"),
    ("openai.chat", "openai", "/v1/chat/completions"),
    ("openai.chat_store", "openai", "/v1/chat/completions"),
    ("openai.completions", "openai", "/v1/completions"),
    ("openai.embeddings", "openai", "/v1/embeddings"),
    ("openai.file_content", "openai", "/v1/files/file-1/content"),
    ("openai.images", "openai", "/v1/images/generations"),
    ("openai.input_tokens", "openai", "/v1/responses/input_tokens"),
    ("openai.moderations", "openai", "/v1/moderations"),
    ("openai.responses", "openai", "/v1/responses"),
    ("openai.responses_compact", "openai", "/v1/responses/compact"),
    ("openai.responses_get", "openai", "/v1/responses/resp_1"),
    ("other.non_metered", "openai", "/v1/models"),
    ("other.rerank", "openai", "/v1/rerank"),
    ("tgi.native", "tgi", "/generate"),
    ("vertex.anthropic", "vertex", "/v1/projects/P/locations/L/publishers/anthropic/models/claude:rawPredict"),
    ("vertex.generate", "vertex", "/v1/projects/P/locations/L/publishers/google/models/gemini:generateContent"),
    ("vertex.predict", "vertex", "/v1/projects/P/locations/L/publishers/google/models/gemini-embedding-001:predict"),
    ("watsonx.generation", "watsonx", "/ml/v1/text/generation_stream"),
];
// Not replayed: `realtime.ws`, which is frames of a WebSocket.

/// One recorded exchange.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Row {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) provider: String,
    #[serde(default)]
    pub(crate) api_family: String,
    #[serde(default)]
    pub(crate) method: Option<String>,
    /// Without host; absent where only the body was recorded.
    #[serde(default)]
    pub(crate) url_path: Option<String>,
    #[serde(default)]
    pub(crate) request_headers: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    pub(crate) request_body: Value,
    #[serde(default)]
    pub(crate) status: Option<u16>,
    /// `content-encoding` as first sent; the body here is decoded.
    #[serde(default)]
    pub(crate) response_headers: Option<BTreeMap<String, Value>>,
    #[serde(default)]
    pub(crate) framing: String,
    #[serde(default, rename = "response_body_b64")]
    body_base64: Option<String>,
    #[serde(default)]
    pub(crate) streaming: Option<bool>,
    #[serde(default)]
    pub(crate) metered: bool,
    #[serde(default)]
    pub(crate) expected: Value,
    #[serde(default)]
    pub(crate) usage_present: bool,
    #[serde(default)]
    pub(crate) recorded_chunk_sizes: Option<Vec<usize>>,
}

impl Row {
    /// The wire of the upstream that the row was asked of; `None` for a family that is not replayed.
    pub(crate) fn wire(&self) -> Option<&'static str> {
        let (_, wire, _) = FAMILIES.iter().find(|(family, ..)| *family == self.api_family)?;
        // Azure's families are those of OpenAI.
        Some(if self.provider == "azure" && *wire == "openai" { "azure" } else { wire })
    }

    /// The recorded path with its query, else one that says what the row is.
    pub(crate) fn path(&self) -> &str {
        let usual = FAMILIES.iter().find(|(family, ..)| *family == self.api_family).map_or("/", |(.., path)| path);
        self.url_path.as_deref().unwrap_or(usual)
    }

    /// The answer's body, decoded.
    pub(crate) fn body(&self) -> Vec<u8> {
        STANDARD.decode(self.body_base64.as_deref().unwrap_or_default()).expect("corpus bodies are base64")
    }

    /// Whether the provider contradicts itself, so that the reference is one reading of several.
    pub(crate) fn is_contradiction(&self) -> bool {
        let cached =
            self.expected("cached_input_tokens").unwrap_or(0) + self.expected("cache_write_tokens").unwrap_or(0);
        ["cached_gt_input", "reasoning_gt_output", "total_residual"].iter().any(|flag| self.is_flagged(flag))
            || self.expected("input_tokens_total").is_some_and(|total| total < cached)
    }

    /// A header of the answer.
    pub(crate) fn response_header(&self, name: &str) -> Option<&str> {
        self.response_headers
            .iter()
            .flatten()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .and_then(|(_, value)| value.as_str().or_else(|| value.get(0).and_then(Value::as_str)))
    }

    /// A count that the reference parser read; `None` where it read none.
    pub(crate) fn expected(&self, name: &str) -> Option<u64> {
        self.expected.get(name).and_then(Value::as_u64)
    }

    /// Whether the reference parser marked the row so.
    pub(crate) fn is_flagged(&self, name: &str) -> bool {
        self.expected.get(name).is_some_and(|flag| flag != false && !flag.is_null())
    }
}

/// Says something to whoever runs the tests, also of a test that passes: its output is captured otherwise.
pub(crate) fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").expect("somebody listens");
}

/// Every row; `None`, said loudly, where there is no corpus.
#[expect(clippy::disallowed_methods, reason = "where the corpus is, is the machine's business")]
pub(crate) fn rows() -> Option<Vec<Row>> {
    let folder = std::env::var("TOKENMETER_CORPUS")
        .map_or_else(|_| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus"), PathBuf::from);
    let path = folder.join("dev.jsonl.gz");
    let Ok(file) = File::open(&path) else {
        say(&format!("\n!!! NO CORPUS at {}: recorded traffic is NOT replayed\n", path.display()));
        return None;
    };
    let lines = BufReader::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(file))).lines();
    Some(
        lines
            .map(|line| serde_json::from_str(&line.expect("the corpus reads")).expect("a corpus line is a row"))
            .collect(),
    )
}

/// Content codings of answers.
pub(crate) const ENCODINGS: [&str; 4] = ["gzip", "deflate", "br", "zstd"];

/// `body` in a content coding.
pub(crate) fn encoded(body: &[u8], encoding: &str) -> Vec<u8> {
    let write = |writer: &mut dyn Write| writer.write_all(body).expect("memory takes what is written");
    match encoding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            write(&mut encoder);
            encoder.finish().expect("memory takes what is written")
        }
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            write(&mut encoder);
            encoder.finish().expect("memory takes what is written")
        }
        "br" => {
            let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 3, 20);
            write(&mut encoder);
            encoder.into_inner()
        }
        "zstd" => zstd::encode_all(body, 1).expect("memory takes what is written"),
        other => panic!("content-encoding {other}"),
    }
}
