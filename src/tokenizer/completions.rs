//! Completions: what the text of an answer counts as, by its vendor's rule.
//!
//! In: the texts of an answer, apart from each other, and a tokenizer. Out: tokens. A rule's constants are what a vendor
//! counts around text and calls of an answer that came to its end; of one that was cut the delivered text alone is
//! counted. Rules are of recorded answers whose usage was reported (November 2026); `tests/completions.rs` holds them
//! against such.

use super::{BY_LENGTH, Counted, Counter, by_length, scaled};
use crate::operation::Operation;
use crate::wires::{Countable, Kind};

/// What an answer is to, and how it ended.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// What was asked.
    pub operation: Operation,
    /// Whether the answer came to its end.
    pub is_whole: bool,
}

/// How a vendor counts what its models say, where only another tokenizer is at hand.
#[derive(Clone, Copy, Debug)]
struct Rule {
    /// Words in the model's name, one of which makes it this rule's.
    names: &'static [&'static str],
    /// Tokens of text, in per cent of those at hand.
    per_cent: u64,
    /// Tokens around each choice that says something and calls nothing.
    text: u64,
    /// Tokens around one call.
    one_call: u64,
    /// Tokens around several calls, and around each of them.
    calls: u64,
    each_call: u64,
}

/// First match first: later names are parts of earlier ones. `OpenAI`'s are told by their beginnings, in [`rule_of`].
const RULES: [Rule; 14] = [
    Rule { names: &["gpt-oss"], per_cent: 100, text: 4, one_call: 12, calls: 2, each_call: 10 },
    Rule { names: CLAUDES_SINCE_4_7, per_cent: 150, text: 5, one_call: 37, calls: 8, each_call: 29 },
    Rule { names: &["claude"], per_cent: 117, text: 3, one_call: 45, calls: 16, each_call: 29 },
    Rule { names: &["gemini"], per_cent: 106, text: 0, one_call: 1, calls: 0, each_call: 5 },
    Rule { names: &["gemma"], per_cent: 108, text: 1, one_call: 7, calls: 0, each_call: 7 },
    Rule { names: &["deepseek"], per_cent: 103, text: 0, one_call: 27, calls: 14, each_call: 13 },
    Rule { names: &["qwen", "qwq"], per_cent: 103, text: 1, one_call: 15, calls: 0, each_call: 15 },
    Rule { names: MISTRALS, per_cent: 105, text: 1, one_call: 3, calls: 1, each_call: 2 },
    Rule { names: &["llama"], per_cent: 103, text: 1, one_call: 10, calls: 0, each_call: 10 },
    Rule { names: &["grok"], per_cent: 100, text: 0, one_call: 24, calls: 0, each_call: 24 },
    Rule { names: &["command"], per_cent: 108, text: 2, one_call: 31, calls: 27, each_call: 4 },
    Rule { names: &["kimi", "moonshot"], per_cent: 115, text: 1, one_call: 11, calls: 0, each_call: 11 },
    Rule { names: &["nova"], per_cent: 102, text: 1, one_call: 11, calls: 0, each_call: 15 },
    Rule { names: &["sonar"], per_cent: 100, text: 0, one_call: 0, calls: 0, each_call: 0 },
];

/// Claudes with the tokenizer of 4.7.
const CLAUDES_SINCE_4_7: &[&str] = &[
    "claude-opus-4-7",
    "claude-opus-4.7",
    "claude-opus-4-8",
    "claude-opus-4.8",
    "claude-sonnet-5",
    "claude-opus-5",
    "claude-haiku-5",
    "claude-fable",
];
const MISTRALS: &[&str] =
    &["mistral", "mixtral", "ministral", "codestral", "magistral", "devstral", "pixtral", "voxtral"];

/// Models of vendors that nothing is known of.
const STRANGER: Rule = Rule { names: &[], per_cent: 103, text: 1, one_call: 10, calls: 0, each_call: 10 };

/// `OpenAI`'s own, by the model's beginning; the tokenizer is theirs.
const OPENAI: [(&[&str], [u64; 4]); 5] = [
    (&["gpt-4-0613", "gpt-3.5-turbo-0613", "gpt-3.5-turbo-16k"], [0, 4, 14, 7]),
    // Their words come in a channel of their own, behind what was thought.
    (&["gpt-5-chat"], [0, 7, 14, 7]),
    (&["gpt-5.", "gpt-6"], [3, 10, 17, 7]),
    (&["gpt-5", "o4", "codex-mini", "o1", "o3"], [9, 16, 11, 11]),
    (&["gpt-", "chatgpt-", "davinci", "babbage", "ft:", "azure_deployment"], [0, 7, 14, 7]),
];

/// What the Responses API counts beside the chat's constants, by the same beginnings.
const RESPONSES: [(&[&str], [u64; 4]); 4] = [
    (&["gpt-5-chat"], [1, 8, 17, 7]),
    (&["gpt-5.", "gpt-6"], [4, 11, 20, 7]),
    (&["gpt-5", "o4", "codex-mini", "o3"], [6, 13, 11, 11]),
    (&["gpt-", "chatgpt-", "o1", "ft:", "azure_deployment"], [1, 8, 17, 7]),
];

/// What the answer whose text is `delivered` counts as, by the tokenizer at hand.
pub fn measure_completion(delivered: &Countable, answered: Answered, counter: &Counter<'_>) -> Counted {
    let rule = rule_of(answered.operation, counter.model());
    let (mut tokens, mut extrapolated, mut seen, mut choices, mut method) = (0_u64, 0_u64, 0_usize, 0_u64, None);
    for (kind, text) in delivered.texts().filter(|(_, text)| !text.is_empty()) {
        let counted = counter.count(text);
        tokens = tokens.saturating_add(counted.tokens);
        extrapolated = extrapolated.saturating_add(counted.extrapolated);
        seen = seen.saturating_add(text.len());
        choices = choices.saturating_add(u64::from(kind == Kind::Said));
        // The worse of two methods names the count.
        method = method.filter(|known| *known == BY_LENGTH).or(Some(counted.method));
    }
    let method = match (delivered.bytes_beyond, u64::try_from(seen).unwrap_or(u64::MAX)) {
        (0, _) => method.unwrap_or(counter.name()),
        (beyond, 0) => {
            tokens = by_length(beyond);
            BY_LENGTH
        }
        (beyond, seen) => {
            let beyond = scaled(tokens, beyond, seen);
            tokens = tokens.saturating_add(beyond);
            extrapolated = extrapolated.saturating_add(beyond);
            method.unwrap_or(BY_LENGTH)
        }
    };
    // What a rule's share is of.
    let is_of_openai = ["o200k", "cl100k", BY_LENGTH].contains(&method);
    let of_vendor = |tokens| if is_of_openai { rule.of_text(tokens) } else { tokens };
    let around = if answered.is_whole { rule.around(choices, delivered.calls) } else { 0 };
    let tokens = of_vendor(tokens).saturating_add(around).saturating_add(delivered.tokens);
    Counted { tokens, extrapolated: of_vendor(extrapolated), method }
}

/// `tokens` of a text that was measured by another tokenizer, as the model's vendor would count them.
pub fn of_vendor(tokens: u64, model: &str) -> u64 {
    rule_of(Operation::Chat, model).of_text(tokens)
}

impl Rule {
    const fn of_openai([text, one_call, calls, each_call]: [u64; 4]) -> Self {
        Self { names: &[], per_cent: 100, text, one_call, calls, each_call }
    }

    fn of_text(self, tokens: u64) -> u64 {
        tokens.saturating_mul(self.per_cent).saturating_add(50).checked_div(100).unwrap_or(0)
    }

    fn around(self, choices: u64, calls: u64) -> u64 {
        match calls {
            0 => self.text.saturating_mul(choices),
            1 => self.one_call,
            several => self.calls.saturating_add(self.each_call.saturating_mul(several)),
        }
    }
}

fn rule_of(operation: Operation, model: &str) -> Rule {
    let model = model.rsplit('/').next().unwrap_or(model).to_ascii_lowercase();
    if let Some(rule) = RULES.iter().find(|rule| rule.names.iter().any(|name| model.contains(name))) {
        return *rule;
    }
    let rules: &[(&[&str], [u64; 4])] = if operation == Operation::Responses { &RESPONSES } else { &OPENAI };
    let of_openai = rules.iter().find(|(names, _)| names.iter().any(|name| model.starts_with(name)));
    of_openai.map_or(STRANGER, |(_, constants)| Rule::of_openai(*constants))
}

/// Reasoning of a model that shows none of it, or less than it is paid for: nine in ten tokens, as recorded, and up to so
/// many before the first word.
const HIDDEN_FOR_EACH: u64 = 9;
const HIDDEN_AT_ONCE: u64 = 2_000;

/// Beginnings of the names of models that reason out of sight.
const SECRETIVE: [&str; 9] = ["o1", "o3", "o4", "gpt-5", "gpt-6", "codex", "gemini-2.5", "gemini-3", "grok-4"];

/// How many more tokens than `output` an answer may have cost, for reasoning that nobody outside can count.
pub fn hidden_at_most(delivered: &Countable, output: u64, model: &str) -> u64 {
    let name = model.rsplit('/').next().unwrap_or(model).to_ascii_lowercase();
    let is_secretive = SECRETIVE.iter().any(|begin| name.starts_with(begin))
        && !["gpt-5-chat", "non-reasoning"].iter().any(|exception| name.contains(exception));
    // What Claude shows of its thoughts is a summary.
    let is_summary = name.contains("claude") && delivered.texts().any(|(kind, _)| kind == Kind::Thought);
    if is_secretive || is_summary { output.saturating_mul(HIDDEN_FOR_EACH).max(HIDDEN_AT_ONCE) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;
    use crate::wires::Beside;

    /// A token a word, in the place of the tokenizer that the rules' shares are of.
    #[derive(Debug)]
    struct Words;

    impl Tokenizer for Words {
        fn name(&self) -> &'static str {
            "o200k"
        }

        fn count(&self, piece: &str) -> Option<u64> {
            u64::try_from(piece.split_whitespace().count()).ok()
        }
    }

    fn words(model: &str) -> Counter<'_> {
        Counter::new(&Words, model, usize::MAX)
    }

    fn measured(delivered: &Countable, model: &str, is_whole: bool) -> u64 {
        measure_completion(delivered, Answered { operation: Operation::Chat, is_whole }, &words(model)).tokens
    }

    fn said(text: &str) -> Countable {
        Countable { text: text.to_owned(), ..Countable::default() }
    }

    fn calling(calls: u64) -> Countable {
        let beside = (0..calls).map(|_| Beside { kind: Kind::Called, text: "f x".to_owned() }).collect();
        Countable { beside, calls, ..Countable::default() }
    }

    #[test]
    fn constants_are_of_whole_answers_and_a_cut_one_is_its_text() {
        for (model, whole, cut) in [
            ("gpt-4o-2024-08-06", 10, 10),
            ("gpt-5.6-sol", 13, 10),
            ("gpt-5-mini", 19, 10),
            ("openai/o4-mini", 19, 10),
            ("claude-sonnet-4-5", 15, 12),
            ("anthropic.claude-opus-4-7", 20, 15),
            ("some-model", 11, 10),
        ] {
            let text = said("a b c d e f g h i j");
            assert_eq!((measured(&text, model, true), measured(&text, model, false)), (whole, cut), "{model}");
        }
        for (calls, expected) in [(1, 2 + 7), (2, 4 + 28), (3, 6 + 35)] {
            assert_eq!(measured(&calling(calls), "gpt-4o", true), expected);
            assert_eq!(measured(&calling(calls), "gpt-4o", false), 2 * calls);
        }
        let of_responses = Answered { operation: Operation::Responses, is_whole: true };
        assert_eq!(measure_completion(&said("a b"), of_responses, &words("gpt-4o")).tokens, 3);
    }

    #[test]
    fn every_choice_costs_what_surrounds_it_and_thoughts_are_text() {
        let mut delivered = said("one two");
        for (kind, text) in [(Kind::Said, "uno dos"), (Kind::Thought, "hm hm hm")] {
            delivered.beside.push(Beside { kind, text: text.to_owned() });
        }
        assert_eq!(measured(&delivered, "gpt-5.4", true), 7 + 2 * 3);
        assert_eq!(measured(&Countable::default(), "gpt-5.4", true), 0);
    }

    #[test]
    fn what_was_not_kept_counts_at_the_rate_of_what_was() {
        let mut delivered = said("one two three four");
        delivered.bytes_beyond = delivered.bytes() * 2;
        assert_eq!(measured(&delivered, "gpt-4o", false), 12);
        let unseen = Countable { bytes_beyond: 4_001, tokens: 5, ..Countable::default() };
        let answered = Answered { operation: Operation::Chat, is_whole: false };
        assert_eq!(
            measure_completion(&unseen, answered, &words("gpt-4o")),
            Counted { tokens: 1_006, extrapolated: 0, method: "bytes" }
        );
        let endless = Countable { bytes_beyond: u64::MAX, tokens: u64::MAX, calls: u64::MAX, ..said("a") };
        assert_eq!(measured(&endless, "claude-3", true), u64::MAX);
    }

    #[test]
    fn hidden_reasoning_is_expected_of_those_who_hide_it() {
        for (model, expected) in [
            ("gpt-5-mini", 9_000),
            ("google/gemini-2.5-flash", 9_000),
            ("o4-mini", 9_000),
            ("gpt-5-chat-latest", 0),
            ("gpt-4o", 0),
            ("claude-sonnet-4-5", 0),
        ] {
            assert_eq!(hidden_at_most(&said("a"), 1_000, model), expected, "{model}");
        }
        let thinking = Countable { beside: vec![Beside { kind: Kind::Thought, text: "hm".into() }], ..said("a") };
        assert_eq!(hidden_at_most(&thinking, 2, "claude-sonnet-4-5"), HIDDEN_AT_ONCE);
        assert_eq!(hidden_at_most(&thinking, 2, "deepseek-reasoner"), 0);
    }
}
