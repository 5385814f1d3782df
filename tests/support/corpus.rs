//! Recorded exchanges: a folder with `dev.jsonl.gz`, one JSON object a line, kept outside the repository.
//!
//! `TOKENMETER_CORPUS` names the folder; by default it is looked for beside the checkout.

#![expect(clippy::expect_used, clippy::print_stderr, reason = "a corpus that is broken or missing must be heard")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

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
    /// The answer's body, decoded.
    pub(crate) fn body(&self) -> Vec<u8> {
        STANDARD.decode(self.body_base64.as_deref().unwrap_or_default()).expect("corpus bodies are base64")
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

/// Every row; `None`, said loudly, where there is no corpus.
#[expect(clippy::disallowed_methods, reason = "where the corpus is, is the machine's business")]
pub(crate) fn rows() -> Option<Vec<Row>> {
    let folder = std::env::var("TOKENMETER_CORPUS")
        .map_or_else(|_| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus"), PathBuf::from);
    let path = folder.join("dev.jsonl.gz");
    let Ok(file) = File::open(&path) else {
        eprintln!("\n!!! NO CORPUS at {}: recorded traffic is NOT replayed\n", path.display());
        return None;
    };
    let lines = BufReader::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(file))).lines();
    Some(
        lines
            .map(|line| serde_json::from_str(&line.expect("the corpus reads")).expect("a corpus line is a row"))
            .collect(),
    )
}
