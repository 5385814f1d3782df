//! A user's own tokenizer: the `tokenizer.json` that comes with a model's weights.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::Tokenizer as Pipeline;

use super::encodings::Tokenizer;

/// A tokenizer that was read from a file.
#[derive(Clone, Debug)]
pub struct FileTokenizer(Box<Pipeline>);

/// What is wrong with a file: no tokenizer, or one of a kind that is not known here.
#[derive(Debug, thiserror::Error)]
#[error("is no tokenizer: {0}")]
pub struct NoTokenizer(String);

impl FileTokenizer {
    /// The tokenizer that `bytes` are, in the format of Hugging Face's library (`tokenizer.json`).
    pub fn parse(bytes: &[u8]) -> Result<Self, NoTokenizer> {
        let mut pipeline = Pipeline::from_bytes(bytes).map_err(|error| NoTokenizer(error.to_string()))?;
        // Both are for training: here they would make all texts equally long.
        pipeline.with_truncation(None).map_err(|error| NoTokenizer(error.to_string()))?.with_padding(None);
        Ok(Self(Box::new(pipeline)))
    }
}

impl Tokenizer for FileTokenizer {
    fn name(&self) -> &'static str {
        "tokenizer_json"
    }

    fn count(&self, piece: &str) -> Option<u64> {
        // What a file says is not ours: where it leads the library into a panic, the piece is measured instead.
        let encoded = catch_unwind(AssertUnwindSafe(|| self.0.encode_fast(piece, false))).ok()?.ok()?;
        u64::try_from(encoded.len()).ok()
    }

    fn is_timed(&self) -> bool {
        // Anything may be in a file. What models come with takes up to six seconds for a megabyte of the wrong kind: words
        // of 99 letters, a million `=`, a ligature that is eighteen letters.
        true
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Whole words, blanks between them, and nothing else.
    pub(crate) const WORDS: &str = r#"{
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "hello": 1, "world": 2}, "unk_token": "[UNK]"}}"#;

    #[test]
    fn a_file_counts_as_it_says() {
        let words = FileTokenizer::parse(WORDS.as_bytes()).unwrap();
        assert_eq!(words.count("hello world, hello!"), Some(5), "and is not cut to two");
        assert_eq!(words.count(""), Some(0));
        assert_eq!(words.name(), "tokenizer_json");
    }

    #[test]
    fn what_is_no_tokenizer_says_so() {
        for text in ["", "{}", "[]", "null", "{\"model\": {\"type\": \"BPE\"}}", WORDS.trim_end_matches('}')] {
            let error = FileTokenizer::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("is no tokenizer: "), "{error}");
        }
    }
}
