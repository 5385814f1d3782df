//! Encodings: the tokenizers that are built in. Their tables are made on first need and stay.

use std::fmt::{self, Debug, Formatter};
use std::sync::LazyLock;

use super::vocabulary::{Table, Vocabulary};

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
struct OfOpenAi {
    name: &'static str,
    vocabulary: &'static LazyLock<Option<Vocabulary>>,
}

/// That of its models since GPT-4o; `o200k_harmony` of the open ones is the same but for special tokens.
pub(super) static O200K: &dyn Tokenizer = &OfOpenAi { name: "o200k", vocabulary: &O200K_VOCABULARY };
/// That of its models before, and of its embeddings.
pub(super) static CL100K: &dyn Tokenizer = &OfOpenAi { name: "cl100k", vocabulary: &CL100K_VOCABULARY };

static O200K_VOCABULARY: LazyLock<Option<Vocabulary>> = LazyLock::new(|| {
    let table = Table {
        lengths: include_bytes!(concat!(env!("OUT_DIR"), "/o200k.lengths")),
        tokens: include_bytes!(concat!(env!("OUT_DIR"), "/o200k.tokens")),
    };
    Vocabulary::new(&table, O200K_PATTERN)
});
static CL100K_VOCABULARY: LazyLock<Option<Vocabulary>> = LazyLock::new(|| {
    let table = Table {
        lengths: include_bytes!(concat!(env!("OUT_DIR"), "/cl100k.lengths")),
        tokens: include_bytes!(concat!(env!("OUT_DIR"), "/cl100k.tokens")),
    };
    Vocabulary::new(&table, CL100K_PATTERN)
});

// Both of github.com/openai/tiktoken, `tiktoken_ext/openai_public.py`.
const O200K_PATTERN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const CL100K_PATTERN: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+",
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
);

impl Debug for OfOpenAi {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("OfOpenAi").field(&self.name).finish()
    }
}

impl Tokenizer for OfOpenAi {
    fn name(&self) -> &'static str {
        self.name
    }

    fn count(&self, piece: &str) -> Option<u64> {
        let tokens = self.vocabulary.as_ref().and_then(|vocabulary| vocabulary.count(piece))?;
        u64::try_from(tokens).ok()
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
        use proptest::prelude::*;

        use super::super::tests::NATURAL;
        use super::super::{CL100K, O200K};
        use super::*;

        /// Whether both implementations count `text` alike, in both vocabularies that both have.
        fn agree(text: &str) -> Result<(), TestCaseError> {
            for (name, reference) in [("o200k_base", O200K), ("cl100k_base", CL100K)] {
                let ours = get_encoding(name).unwrap().count(text);
                prop_assert_eq!(u64::try_from(ours).ok(), reference.count(text), "{} of {:?}", name, text);
            }
            Ok(())
        }

        #[test]
        fn natural_text_counts_as_in_the_other_implementation() {
            for text in NATURAL {
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use tiktoken_rs::{cl100k_base_singleton, o200k_base_singleton};

    use super::*;

    pub(super) const NATURAL: [&str; 5] = [
        include_str!("../../README.md"),
        include_str!("../../Cargo.lock"),
        include_str!("encodings.rs"),
        "客户服务部在每个月的月底统计词元的消耗量，并把它交给财务部门。",
        "Größenwahn, naïve façade; ¿cuántos? Ελληνικά, русский язык, עברית, हिन्दी, 日本語のテキスト, 한국어 👩‍👩‍👧‍👦",
    ];

    /// Whether a text has as many tokens as `tiktoken-rs` finds in it, in both encodings.
    fn agree(text: &str) -> Result<(), TestCaseError> {
        for (ours, theirs) in [(O200K, o200k_base_singleton()), (CL100K, cl100k_base_singleton())] {
            let theirs = theirs.count(text, &HashSet::new()).unwrap();
            prop_assert_eq!(ours.count(text), u64::try_from(theirs).ok(), "{} of {:?}", ours.name(), text);
        }
        Ok(())
    }

    #[test]
    fn every_token_has_its_rank_and_no_special_one_has() {
        for (vocabulary, tokens) in [(&O200K_VOCABULARY, 199_998), (&CL100K_VOCABULARY, 100_256)] {
            assert_eq!(vocabulary.as_ref().map(Vocabulary::tokens), Some(tokens));
        }
    }

    #[test]
    fn natural_and_hostile_text_counts_as_in_the_crate() {
        for text in NATURAL {
            agree(text).unwrap();
        }
        agree("don't WE'LL you'Ve  \r\n\t 1234567 <|endoftext|> <|fim_prefix|>").unwrap();
        agree("").unwrap();
        // Beyond a hundred bytes a piece the crate merges in another way.
        for unit in ["a", "A", "ab", "=", " ", "\n", "/*", "客", "🦀", "\u{301}", "lorem", "0"] {
            for times in [1, 2, 3, 31, 99, 100, 101, 1_000] {
                agree(&unit.repeat(times)).unwrap();
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn random_text_counts_as_in_the_crate(
            text in "\\PC{0,40}", blank in "\\s{0,6}", latin in "[ -~]{0,60}", word in "[a-zA-Z]{0,300}", any in any::<String>(),
        ) {
            agree(&format!("{text}{blank}{latin}{word}{any}"))?;
            agree(&format!("{word}{latin}{text}{blank}"))?;
        }
    }
}
