//! What was counted of a prompt or an answer, in the parts that calibration weighs.

/// A prompt as its vendor's rule counts it, before anything was learned. Numbers and hashes only.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Tokens by the rule: what a model costs of which nothing was learned.
    pub tokens: u64,
    /// `o200k`, `cl100k`, the name of another tokenizer, or `bytes` where a length was all there was.
    pub method: &'static str,
    /// How well the rule is known to hold.
    pub rule: Rule,
    /// Tokens of all text, the arguments of calls included.
    pub text: u64,
    /// Messages.
    pub messages: u64,
    /// Calls in messages of the past.
    pub calls: u64,
    /// Tokens of the tools' definitions as JSON.
    pub tools: u64,
    /// How many tools.
    pub tool_count: u64,
    /// Tokens of the schema that the answer must have, as JSON.
    pub schema: u64,
    /// Pictures.
    pub images: u64,
    /// Whether there is more that nobody can count here.
    pub has_unseen: bool,
    /// Hash of what agents send again and again: system text, tools and schema. 0 where there is none of it.
    pub scaffold: u64,
}

/// How well a rule holds.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Rule {
    /// The vendor's own tokenizer and template: what remains is drift.
    Exact,
    /// Another vendor's tokenizer, scaled: off by tens of per cent until learned.
    #[default]
    Scaled,
}
