//! Recorded answers, their usage taken away: what is counted of their text is what their providers had reported.
//!
//! Prints a table by provider and by what stands in an answer; rules are held to the part that can be known exactly.
#[path = "support/observed.rs"]
mod observed;
#[expect(dead_code, reason = "each test uses what it needs")]
#[path = "support/corpus.rs"]
mod support;

use std::collections::BTreeMap;

use observed::{exchange, observed};
use support::Row;
use tokenmeter::operation::Operation;
use tokenmeter::tokenizer::completions::{Answered, measure_completion};
use tokenmeter::tokenizer::{Counter, Tokenizers};
use tokenmeter::wires::Kind;

/// Of the chats of `OpenAI`'s models that say something, so many in a hundred are counted to within two tokens.
const NEAR_PER_CENT_MIN: u64 = 90;

/// What stands in an answer.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Feature {
    Text,
    Calls,
    /// With or without calls.
    ReasoningShown,
    /// Its share is in the provider's count and nowhere in the answer.
    ReasoningHidden,
}

/// An answer counted here beside what its provider reported.
struct Counted {
    provider: String,
    family: String,
    feature: Feature,
    reported: u64,
    ours: u64,
    by_length: u64,
}

impl Counted {
    fn off(&self) -> u64 {
        self.ours.abs_diff(self.reported)
    }

    /// Per mille of what was reported.
    fn relative(&self) -> u64 {
        1000 * self.off() / self.reported.max(1)
    }
}

/// What is counted of a row whose output is tokens of text; `None` of every other.
fn counted(row: &Row) -> Option<Counted> {
    let exchange = exchange(row)?;
    let talks = [Operation::Chat, Operation::TextCompletion, Operation::Responses, Operation::GenerateContent];
    let reported = row.expected("output_tokens_total").filter(|reported| *reported > 0)?;
    let is_of_text = ["output_audio_tokens", "output_image_tokens"].iter().all(|of| row.expected(of).unwrap_or(0) == 0);
    if !talks.contains(&exchange.operation) || !is_of_text || row.status != Some(200) {
        return None;
    }
    let mut observer = observed(row, &exchange, None, [&row.body()[..]].into_iter());
    let reading = observer.reading();
    let delivered = observer.delivered();
    let asked_for = || row.request_body.get("model").and_then(|model| model.as_str().map(str::to_owned));
    let model = reading.model.or_else(asked_for).or_else(|| exchange.model()).unwrap_or_default();
    let answered = Answered { operation: exchange.operation, is_whole: !reading.is_error };
    let tokenizers = Tokenizers::default();
    let is_shown = delivered.texts().any(|(kind, _)| kind == Kind::Thought);
    let feature = match (is_shown, row.expected("reasoning_tokens").unwrap_or(0) > 0) {
        (true, _) => Feature::ReasoningShown,
        (false, true) => Feature::ReasoningHidden,
        (false, false) if delivered.calls > 0 => Feature::Calls,
        (false, false) => Feature::Text,
    };
    Some(Counted {
        provider: row.provider.clone(),
        family: row.api_family.clone(),
        feature,
        reported,
        ours: measure_completion(&delivered, answered, &tokenizers.counter("any", &model)).tokens,
        by_length: measure_completion(&delivered, answered, &Counter::by_length(&model)).tokens,
    })
}

fn line(name: &str, rows: &[&Counted]) -> String {
    let share = |of: usize| format!("{} %", 100 * of / rows.len().max(1));
    let near = |most: u64| rows.iter().filter(|row| row.off() <= most).count();
    let mut relative: Vec<u64> = rows.iter().map(|row| row.relative()).collect();
    relative.sort_unstable();
    let quantile = |per_cent: usize| relative.get(relative.len() * per_cent / 100).copied().unwrap_or_default();
    let within = rows.iter().filter(|row| row.relative() <= 50).count();
    let tenths = |per_mille: u64| format!("{}.{} %", per_mille / 10, per_mille % 10);
    let columns = [rows.len().to_string(), share(near(0)), share(near(2)), share(within)];
    format!("{name:<44}| {} | {} | {}", columns.join(" | "), tenths(quantile(50)), tenths(quantile(90)))
}

#[test]
fn recorded_answers_are_counted_near_what_their_providers_reported() {
    let Some(rows) = support::rows() else { return };
    let counted: Vec<Counted> =
        rows.iter().filter(|row| row.usage_present && row.metered).filter_map(counted).collect();
    let mut table: BTreeMap<String, Vec<&Counted>> = BTreeMap::new();
    for row in &counted {
        for provider in [row.provider.as_str(), "~ all"] {
            table.entry(format!("{provider} {:?}", row.feature)).or_default().push(row);
        }
    }
    let head = "provider, feature                           | n | exact | within 2 tokens | within 5 % | p50 | p90";
    let lines = table.iter().filter(|(_, rows)| rows.len() >= 8).map(|(name, rows)| line(name, rows));
    let of_openai = |row: &&Counted| {
        ["openai", "azure"].contains(&row.provider.as_str())
            && row.family == "openai.chat"
            && row.feature == Feature::Text
    };
    let chats: Vec<&Counted> = counted.iter().filter(of_openai).collect();
    let held = line("chats of OpenAI's models that say something", &chats);
    let all: Vec<String> = std::iter::once(head.to_owned()).chain(lines).chain([held]).collect();
    support::say(&all.join("\n"));
    let near = chats.iter().filter(|row| row.off() <= 2).count();
    assert!(100 * near as u64 >= NEAR_PER_CENT_MIN * chats.len() as u64, "{near} of {} are near", chats.len());

    // The same by length alone, for what is long enough to have a length.
    let long: Vec<&Counted> = counted.iter().filter(|row| row.feature == Feature::Text && row.ours >= 30).collect();
    let is_near = |row: &&&Counted| 100 * row.by_length.abs_diff(row.ours) <= 35 * row.ours;
    let near = long.iter().filter(is_near).count();
    support::say(&format!("by length: {near} of {} within 35 % of what is counted", long.len()));
    assert!(100 * near >= 98 * long.len());
}
