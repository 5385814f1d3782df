//! Encodings: the tokenizers that are built in. Their tables are made on first need and stay.

use std::collections::HashSet;
use std::fmt::Debug;

use tiktoken_rs::{CoreBPE, cl100k_base_singleton, o200k_base_singleton};

/// What cuts text into tokens.
pub trait Tokenizer: Debug + Send + Sync {
    /// What a count by it is called in records: `o200k`.
    fn name(&self) -> &'static str;

    /// The tokens of `piece`, in which nothing is a special token; `None` where it gives up. More than linear in hostile
    /// text, so that it is given short pieces: [`Counter`](super::Counter) cuts.
    fn count(&self, piece: &str) -> Option<u64>;

    /// Whether nobody knows how long it takes, so that it is given so much time and no more.
    fn is_timed(&self) -> bool {
        false
    }
}

/// An encoding of `OpenAI`'s.
#[derive(Debug)]
struct OfOpenAi {
    name: &'static str,
    table: fn() -> &'static CoreBPE,
}

/// That of its models since GPT-4o; `o200k_harmony` of the open ones is the same but for special tokens.
pub(super) static O200K: &dyn Tokenizer = &OfOpenAi { name: "o200k", table: o200k_base_singleton };
/// That of its models before, and of its embeddings.
pub(super) static CL100K: &dyn Tokenizer = &OfOpenAi { name: "cl100k", table: cl100k_base_singleton };

impl Tokenizer for OfOpenAi {
    fn name(&self) -> &'static str {
        self.name
    }

    fn count(&self, piece: &str) -> Option<u64> {
        // None is allowed: what looks like a special token in a user's text is text. Of the crate's ways to count this is
        // the one that returns what went wrong; the others panic.
        (self.table)().count(piece, &HashSet::new()).ok().and_then(|tokens| u64::try_from(tokens).ok())
    }
}

/// Other vendors' vocabularies.
#[cfg(feature = "vendor-tokenizers")]
pub(super) mod vendors {
    use tiktoken::get_encoding;

    use super::Tokenizer;

    /// A vocabulary by its name in the crate.
    #[derive(Debug)]
    struct OfVendor(&'static str);

    impl Tokenizer for OfVendor {
        fn name(&self) -> &'static str {
            self.0
        }

        fn count(&self, piece: &str) -> Option<u64> {
            get_encoding(self.0).and_then(|encoding| u64::try_from(encoding.count(piece)).ok())
        }

        fn is_timed(&self) -> bool {
            // Natural text takes a hundredth of a second a megabyte, but `DeepSeek`'s takes three for characters of private use.
            true
        }
    }

    pub(in crate::tokenizer) static DEEPSEEK: &dyn Tokenizer = &OfVendor("deepseek_v3");
    pub(in crate::tokenizer) static GLM4: &dyn Tokenizer = &OfVendor("glm4");
    pub(in crate::tokenizer) static GLM5: &dyn Tokenizer = &OfVendor("glm5");
    pub(in crate::tokenizer) static KIMI: &dyn Tokenizer = &OfVendor("kimi_k2");
    pub(in crate::tokenizer) static LLAMA3: &dyn Tokenizer = &OfVendor("llama3");
    pub(in crate::tokenizer) static MISTRAL: &dyn Tokenizer = &OfVendor("mistral_v3");
    pub(in crate::tokenizer) static QWEN: &dyn Tokenizer = &OfVendor("qwen2");

    #[cfg(test)]
    mod tests {
        use std::collections::HashSet;

        use proptest::prelude::*;
        use tiktoken_rs::{CoreBPE, cl100k_base_singleton, o200k_base_singleton};

        use super::*;

        /// Whether both implementations count `text` alike, in both vocabularies that both have.
        fn agree(text: &str) -> Result<(), TestCaseError> {
            let both: [(&str, &CoreBPE); 2] =
                [("o200k_base", o200k_base_singleton()), ("cl100k_base", cl100k_base_singleton())];
            for (name, reference) in both {
                let ours = get_encoding(name).unwrap().count(text);
                let theirs = reference.count(text, &HashSet::new()).unwrap();
                prop_assert_eq!(ours, theirs, "{} of {:?}", name, text);
            }
            Ok(())
        }

        #[test]
        fn natural_text_counts_as_in_the_other_implementation() {
            for text in [
                include_str!("../../README.md"),
                include_str!("../../Cargo.lock"),
                include_str!("encodings.rs"),
                "客户服务部在每个月的月底统计词元的消耗量，并把它交给财务部门。",
                "Größenwahn, naïve façade; ¿cuántos? Ελληνικά, русский язык, עברית, हिन्दी, 日本語のテキスト, 한국어 👩‍👩‍👧‍👦",
            ] {
                agree(text).unwrap();
            }
        }

        proptest! {
            #![proptest_config(ProptestConfig::with_cases(2_000))]

            #[test]
            fn random_text_counts_as_in_the_other_implementation(text in "\\PC{0,40}", blank in "\\s{0,6}", latin in "[ -~]{0,60}") {
                agree(&format!("{text}{blank}{latin}"))?;
                agree(&format!("{latin}{text}{blank}"))?;
            }

            #[test]
            fn no_text_stops_a_vendors_tokenizer(text in any::<String>()) {
                for tokenizer in [DEEPSEEK, GLM4, GLM5, KIMI, LLAMA3, MISTRAL, QWEN] {
                    let tokens = tokenizer.count(&text);
                    prop_assert!(tokens.is_some_and(|tokens| tokens <= text.len() as u64), "{}", tokenizer.name());
                }
            }
        }
    }
}
