//! One `usageMetadata` of Gemini.

use crate::usage::Anomaly;
use crate::wires::object::{Count, Object};
use crate::wires::told::Told;

/// Usage in Gemini's own parts. Each is absent when zero.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parts {
    /// Input is the prompt, output the candidates, reasoning the thoughts.
    pub(super) told: Told,
    /// What tools put into the prompt, counted beside it.
    pub(super) tool_prompt: Option<u64>,
}

impl Parts {
    pub(super) fn of(usage: &Object<'_>) -> Self {
        let mut told = Told::default();
        let of = Some(usage);
        told.input = told.first(of, &["promptTokenCount", "prompt_token_count"]);
        told.output = told.first(of, &["candidatesTokenCount", "candidates_token_count"]);
        told.total = told.first(of, &["totalTokenCount", "total_token_count"]);
        told.reasoning = told.first(of, &["thoughtsTokenCount", "thoughts_token_count"]);
        told.cache_read = told.first(of, &["cachedContentTokenCount", "cached_content_token_count"]);
        let tool_prompt = told.first(of, &["toolUsePromptTokenCount", "tool_use_prompt_token_count"]);
        // Embeddings name it in the singular.
        let prompt_details =
            ["promptTokensDetails", "prompt_tokens_details", "promptTokenDetails", "prompt_token_details"];
        let candidates_details = ["candidatesTokensDetails", "candidates_tokens_details"];
        told.audio_input = modality(usage, &prompt_details, "\"AUDIO\"", "4");
        told.image_input = modality(usage, &prompt_details, "\"IMAGE\"", "2");
        told.audio_output = modality(usage, &candidates_details, "\"AUDIO\"", "4");
        told.image_output = modality(usage, &candidates_details, "\"IMAGE\"", "2");
        Self { told, tool_prompt }
    }

    pub(super) fn merge(&mut self, later: Self) {
        self.told.merge(later.told);
        self.tool_prompt = later.tool_prompt.or(self.tool_prompt);
    }

    /// Whether the parts add up to the total, where there is one.
    pub(super) fn adds_up(&self) -> bool {
        self.told.total.is_none_or(|total| total == self.sum())
    }

    fn sum(&self) -> u64 {
        [self.told.input, self.told.output, self.told.reasoning, self.tool_prompt]
            .into_iter()
            .flatten()
            .fold(0, u64::saturating_add)
    }

    /// The counts in the convention of one input and one output, what is missing filled from the total.
    pub(super) fn settled(&self) -> (Told, Option<Anomaly>) {
        let mut told = self.told;
        let mut anomaly = None;
        if told.input.is_none() && told.total.is_some_and(|total| total > self.sum()) {
            told.input = told.total.and_then(|total| total.checked_sub(self.sum()));
        } else if !self.adds_up() {
            anomaly = Some(Anomaly::TotalDiffers);
        }
        told.input = sum(told.input, self.tool_prompt);
        told.output = sum(told.output, told.reasoning);
        if told.output.is_none() && told.total.is_some() && told.total == told.input {
            told.output = Some(0);
        }
        (told, anomaly)
    }
}

/// The tier that usage names; of the kinds of traffic on Vertex those that are one.
pub(super) fn service_tier(usage: &Object<'_>) -> Option<String> {
    let named = usage.text("serviceTier").or_else(|| usage.text("service_tier"));
    let of_traffic = || {
        let kind = usage.get_any(&["trafficType", "traffic_type"])?.get();
        let tier = match kind.trim_matches('"') {
            "ON_DEMAND_FLEX" => "flex",
            "ON_DEMAND_PRIORITY" => "priority",
            // Enums may be sent as numbers.
            "PROVISIONED_THROUGHPUT" | "2" => "provisioned_throughput",
            _ => return None,
        };
        Some(tier.to_owned())
    };
    named.or_else(of_traffic)
}

/// The sum of what is known; `None` where nothing is.
fn sum(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (None, None) => None,
        (one, other) => Some(one.unwrap_or(0).saturating_add(other.unwrap_or(0))),
    }
}

/// The tokens of one modality, by its name or, where enums are sent as numbers, by its number.
fn modality(usage: &Object<'_>, names: &[&str], word: &str, number: &str) -> Option<u64> {
    let name = names.iter().find(|name| usage.get(name).is_some())?;
    usage
        .objects(name)
        .filter(|detail| detail.get("modality").is_some_and(|kind| kind.get() == word || kind.get() == number))
        .filter_map(|detail| match (detail.count("tokenCount"), detail.count("token_count")) {
            (Count::Of(count), _) | (_, Count::Of(count)) => Some(count),
            (Count::Absent | Count::Invalid, Count::Absent | Count::Invalid) => None,
        })
        .fold(None, |known, count| sum(known, Some(count)))
}
