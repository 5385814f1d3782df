//! What a batch put out: a line a request, each with an answer in its endpoint's own shape. Summed, because each line
//! is a call of its own.

use std::borrow::Cow;

use serde_json::json;
use serde_json::value::RawValue;

use super::usage::Usage;
use crate::operation::Operation;
use crate::usage::{Anomaly, TokenCounts, Units};
use crate::wires::markers;
use crate::wires::object::{Object, string};
use crate::wires::{Observer, Reading, UsageSeen};

/// Reads the lines.
#[derive(Debug)]
pub(super) struct Batch {
    provider: String,
    /// The model of every line so far; `None` where they differ.
    model: Option<String>,
    service_tier: Option<String>,
    /// Lines that told their usage.
    lines: u64,
    tokens: TokenCounts,
    units: Units,
    anomaly: Option<Anomaly>,
}

impl Batch {
    pub(super) fn new(provider: &str) -> Self {
        Self {
            provider: provider.to_owned(),
            model: None,
            service_tier: None,
            lines: 0,
            tokens: TokenCounts::default(),
            units: Units::new(),
            anomaly: None,
        }
    }

    fn read(&mut self, line: &[u8]) -> Option<()> {
        let line = Object::parse(line)?;
        let body = line.object("response").and_then(|response| response.object("body"));
        // A line too long to hold is reduced to what is wanted of it, by its whole name.
        let of = |name: &str, whole_name: &str| match &body {
            Some(body) => body.get(name),
            None => line.get(whole_name),
        };
        let text = |name, whole_name| of(name, whole_name).and_then(string).map(Cow::into_owned);
        let mut usage = Usage::default();
        if !usage.take(of("usage", "response.body.usage")?) {
            return None;
        }
        let operation = match text("object", "response.body.object").as_deref() {
            Some("response") => Operation::Responses,
            Some("list") => Operation::Embeddings,
            Some("text_completion") => Operation::TextCompletion,
            Some(_) | None => Operation::Chat,
        };
        let (model, service_tier) =
            (text("model", "response.body.model"), text("service_tier", "response.body.service_tier"));
        let (tokens, anomaly) = usage.tokens(operation, &self.provider, model.as_deref().unwrap_or_default());
        if self.lines == 0 {
            (self.model, self.service_tier) = (model, service_tier);
        } else {
            self.model.take_if(|known| Some(&*known) != model.as_ref());
            self.service_tier.take_if(|known| Some(&*known) != service_tier.as_ref());
        }
        self.lines = self.lines.saturating_add(1);
        self.tokens = sum(self.tokens, tokens);
        for (name, count) in usage.units() {
            let known = self.units.entry(name).or_default();
            *known = known.saturating_add(count);
        }
        self.anomaly = self.anomaly.or(anomaly);
        Some(())
    }

    /// The sum, in the shape in which a batch itself tells its usage.
    fn raw(&self) -> Option<Box<RawValue>> {
        let sum = json!({
            "requests": self.lines,
            "input_tokens": self.tokens.input_total(),
            "input_tokens_details": {"cached_tokens": self.tokens.cache_read},
            "output_tokens": self.tokens.output,
            "output_tokens_details": {"reasoning_tokens": self.tokens.reasoning},
            "total_tokens": self.tokens.total(),
        });
        RawValue::from_string(sum.to_string()).ok()
    }
}

impl Observer for Batch {
    fn unit(&mut self, data: &[u8]) {
        if markers::has_value(&markers::USAGE, data) || markers::has_value(&markers::BODY_USAGE, data) {
            // A line without usage is a request that failed.
            let _: Option<()> = self.read(data);
        }
    }

    fn is_terminal(&self) -> bool {
        false
    }

    fn reading(&mut self) -> Reading {
        let has_told = self.lines > 0;
        Reading {
            model: self.model.clone(),
            usage: if has_told { UsageSeen::Final } else { UsageSeen::Nothing },
            tokens: self.tokens,
            usage_raw: has_told.then(|| self.raw()).flatten(),
            units: self.units.clone(),
            service_tier: self.service_tier.clone(),
            anomaly: self.anomaly,
            ..Reading::default()
        }
    }
}

/// Both counts of each kind together; what neither knows stays unknown.
fn sum(one: TokenCounts, other: TokenCounts) -> TokenCounts {
    let both = |of: fn(&TokenCounts) -> Option<u64>| match (of(&one), of(&other)) {
        (Some(one), Some(other)) => Some(one.saturating_add(other)),
        (one, other) => one.or(other),
    };
    TokenCounts {
        input: both(|counts| counts.input),
        cache_read: both(|counts| counts.cache_read),
        cache_write: both(|counts| counts.cache_write),
        output: both(|counts| counts.output),
        reasoning: both(|counts| counts.reasoning),
        cache_write_1h: both(|counts| counts.cache_write_1h),
        audio_input: both(|counts| counts.audio_input),
        audio_output: both(|counts| counts.audio_output),
        image_input: both(|counts| counts.image_input),
        image_output: both(|counts| counts.image_output),
    }
}
