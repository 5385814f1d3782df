//! Models: which tokenizer is whose. One table, by the name that a provider gives a model, behind those of files.

use std::sync::Arc;

use super::counter::Counter;
use super::encodings::{CL100K, O200K, Tokenizer};
use super::file::FileTokenizer;
use super::openai::bare;

/// How much of one call's text is counted where nothing else is said.
pub const TEXT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Tokenizers by patterns of model names, in lower case and without what stands before a `/`; the first that fits.
const MODELS: &[(&[&str], &dyn Tokenizer)] = &[
    (
        &["gpt-4", "gpt-4-*", "gpt-4:*", "gpt-3.5*", "gpt-35*", "text-embedding-*", "davinci-002*", "babbage-002*"],
        CL100K,
    ),
    #[cfg(feature = "vendor-tokenizers")]
    (&["*distill-llama*", "*llama-3*", "*llama3*"], super::encodings::vendors::LLAMA3),
    #[cfg(feature = "vendor-tokenizers")]
    (&["*distill-qwen*", "*qwen*", "qwq-*"], super::encodings::vendors::QWEN),
    #[cfg(feature = "vendor-tokenizers")]
    (&["*deepseek*"], super::encodings::vendors::DEEPSEEK),
    #[cfg(feature = "vendor-tokenizers")]
    (
        &["*mistral*", "*ministral*", "magistral*", "devstral*", "codestral*", "pixtral*", "voxtral*"],
        super::encodings::vendors::MISTRAL,
    ),
    #[cfg(feature = "vendor-tokenizers")]
    (&["glm-5*"], super::encodings::vendors::GLM5),
    #[cfg(feature = "vendor-tokenizers")]
    (&["glm-*"], super::encodings::vendors::GLM4),
    #[cfg(feature = "vendor-tokenizers")]
    (&["*kimi*"], super::encodings::vendors::KIMI),
];

/// Which tokenizer counts for whom, and how much: those of files before those that are built in.
#[derive(Clone, Debug)]
pub struct Tokenizers {
    files: Arc<[OfFile]>,
    text_bytes_max: usize,
}

/// A tokenizer of a file, and whose it is.
#[derive(Clone, Debug)]
pub struct OfFile {
    /// The tokenizer.
    pub tokenizer: FileTokenizer,
    /// Names of upstreams; empty: any.
    pub upstreams: Vec<String>,
    /// Patterns of model names, in which a `*` stands for anything; empty: any.
    pub models: Vec<String>,
}

impl Default for Tokenizers {
    fn default() -> Self {
        Self::new(Vec::new(), TEXT_BYTES_MAX)
    }
}

impl Tokenizers {
    /// Those of `files`, the first that fits, beside those that are built in. Of one call's text `text_bytes_max` bytes are
    /// counted, the rest goes by their rate.
    pub fn new(files: Vec<OfFile>, text_bytes_max: usize) -> Self {
        Self { files: files.into(), text_bytes_max }
    }

    /// What counts a call of `model` at `upstream`.
    pub fn counter<'a>(&'a self, upstream: &str, model: &'a str) -> Counter<'a> {
        let of_file = self.files.iter().find(|file| file.is_of(upstream, model));
        let tokenizer = of_file.map_or_else(|| tokenizer_of(model), |file| &file.tokenizer);
        Counter::new(tokenizer, model, self.text_bytes_max)
    }

    /// Makes the tables of the built-in tokenizers that are needed most.
    pub fn load(&self) {
        for tokenizer in [O200K, CL100K] {
            tokenizer.count("");
        }
    }
}

impl OfFile {
    fn is_of(&self, upstream: &str, model: &str) -> bool {
        let (name, model) = (bare(model), model.to_ascii_lowercase());
        let fits = |pattern: &String| {
            let pattern = pattern.to_ascii_lowercase();
            is_match(&pattern, &model) || is_match(&pattern, &name)
        };
        (self.upstreams.is_empty() || self.upstreams.iter().any(|one| one == upstream))
            && (self.models.is_empty() || self.models.iter().any(fits))
    }
}

/// The tokenizer of `model`; `OpenAI`'s latest for all that are in no table.
fn tokenizer_of(model: &str) -> &'static dyn Tokenizer {
    let name = bare(model);
    let fits = |patterns: &[&str]| patterns.iter().any(|pattern| is_match(pattern, &name));
    MODELS.iter().find(|(patterns, _)| fits(patterns)).map_or(O200K, |(_, tokenizer)| *tokenizer)
}

/// Whether `name` is what `pattern` says, in which a `*` stands for anything.
fn is_match(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|begin| name.strip_prefix(begin)) else { return false };
    let Some(end) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::super::WORDS;
    use super::*;

    #[test]
    fn a_model_has_its_tokenizer() {
        for model in
            ["gpt-4", "gpt-4-turbo", "gpt-4-0613", "gpt-3.5-turbo", "gpt-35-turbo", "ft:gpt-4:acme", "openai/gpt-4"]
        {
            assert_eq!(tokenizer_of(model).name(), "cl100k", "{model}");
        }
        for model in [
            "gpt-4o",
            "gpt-4.1-mini",
            "gpt-4.5-preview",
            "gpt-5",
            "o4-mini",
            "claude-sonnet-4-5",
            "",
            "gpt-6",
            "gpt-oss-120b",
        ] {
            assert_eq!(tokenizer_of(model).name(), "o200k", "{model}");
        }
        assert_eq!(tokenizer_of("text-embedding-3-small").name(), "cl100k");
    }

    #[cfg(feature = "vendor-tokenizers")]
    #[test]
    fn a_vendors_model_has_its_own() {
        for (model, name) in [
            ("meta-llama/Llama-3.3-70B-Instruct-Turbo", "llama3"),
            ("us.meta.llama3-1-70b-instruct-v1:0", "llama3"),
            ("deepseek-r1-distill-llama-70b", "llama3"),
            ("llama-4-scout", "o200k"),
            ("deepseek-ai/DeepSeek-V3", "deepseek_v3"),
            ("deepseek-chat", "deepseek_v3"),
            ("DeepSeek-R1-Distill-Qwen-7B", "qwen2"),
            ("Qwen/Qwen3-32B", "qwen2"),
            ("mistral-large-latest", "mistral_v3"),
            ("ministral-8b-latest", "mistral_v3"),
            ("open-mixtral-8x22b", "o200k"),
            ("zai-org/GLM-4.6", "glm4"),
            ("glm-5", "glm5"),
            ("moonshotai/Kimi-K2-Instruct", "kimi_k2"),
            ("gpt-4", "cl100k"),
        ] {
            assert_eq!(tokenizer_of(model).name(), name, "{model}");
        }
    }

    #[test]
    fn a_file_comes_before_what_is_built_in() {
        let file = |upstreams: &[&str], models: &[&str]| OfFile {
            tokenizer: FileTokenizer::parse(WORDS.as_bytes()).unwrap(),
            upstreams: upstreams.iter().map(ToString::to_string).collect(),
            models: models.iter().map(ToString::to_string).collect(),
        };
        let tokenizers = Tokenizers::new(
            vec![file(&["vllm"], &[]), file(&[], &["Llama-3*", "acme/*"]), file(&["groq"], &["gpt-4"])],
            TEXT_BYTES_MAX,
        );
        for (upstream, model, name) in [
            ("vllm", "anything", "tokenizer_json"),
            ("together", "meta-llama/Llama-3-8B", "tokenizer_json"),
            ("together", "acme/tiny", "tokenizer_json"),
            ("together", "tiny", "o200k"),
            ("groq", "gpt-4", "tokenizer_json"),
            ("openai", "gpt-4", "cl100k"),
        ] {
            assert_eq!(tokenizers.counter(upstream, model).name(), name, "{model} at {upstream}");
        }
        assert_eq!(tokenizers.counter("vllm", "m").count("hello world").tokens, 2);
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, name) in [
            ("a", "a"),
            ("*", ""),
            ("*", "a"),
            ("a*", "a"),
            ("a*", "abc"),
            ("*c", "abc"),
            ("a*c", "abc"),
            ("*b*", "abc"),
        ] {
            assert!(is_match(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("a", "ab"),
            ("a", ""),
            ("", "a"),
            ("a*", "ba"),
            ("*c", "cb"),
            ("a*a", "a"),
            ("a*b*c", "acb"),
            ("*b*", "ac"),
        ] {
            assert!(!is_match(pattern, name), "{pattern} {name}");
        }
    }
}
