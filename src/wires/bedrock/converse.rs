//! Converse, whole or streamed; Nova's own bodies have the same shape.
//!
//! A stream's usage is in its last event, `metadata`, which comes after `messageStop`.

use serde_json::value::RawValue;

use crate::framing::compact::compacted;
use crate::usage::Units;
use crate::wires::delivered::{Delivered, Text};
use crate::wires::markers;
use crate::wires::object::{Count, Object};
use crate::wires::told::{Cached, Told};
use crate::wires::{Observer, Reading, UsageSeen};

/// Reads an answer.
#[derive(Debug)]
pub(super) struct Converse {
    told: Told,
    raw: String,
    units: Units,
    service_tier: Option<String>,
    seen: UsageSeen,
    is_finished: bool,
    is_terminal: bool,
    delivered: Delivered,
}

impl Converse {
    pub(super) fn new() -> Self {
        Self {
            told: Told::default(),
            raw: String::new(),
            units: Units::new(),
            service_tier: None,
            seen: UsageSeen::Nothing,
            is_finished: false,
            is_terminal: false,
            delivered: Delivered::new(read_text),
        }
    }

    fn read(&mut self, object: &Object<'_>) {
        let metadata = object.object("metadata");
        self.is_finished |= object.get_any(&["messageStop", "stopReason", "metadata"]).is_some();
        self.is_terminal |= metadata.is_some();
        let holder = metadata.as_ref().unwrap_or(object);
        self.service_tier = service_tier(holder).or_else(|| self.service_tier.take());
        if let Some(usage) = holder.get("usage") {
            self.take(usage);
        }
    }

    fn take(&mut self, raw: &RawValue) {
        let Some(usage) = Object::parse(raw.get().as_bytes()) else { return };
        let mut told = Told::default();
        // The longer names repeat the same numbers; Nova's own bodies have only them.
        told.cache_read = told.first(Some(&usage), &["cacheReadInputTokens", "cacheReadInputTokenCount"]);
        told.cache_write = told.first(Some(&usage), &["cacheWriteInputTokens", "cacheWriteInputTokenCount"]);
        told.input = told.first(Some(&usage), &["inputTokens"]);
        told.output = told.first(Some(&usage), &["outputTokens"]);
        told.total = told.first(Some(&usage), &["totalTokens"]);
        for detail in usage.objects("cacheDetails").filter(|detail| detail.text("ttl").as_deref() == Some("1h")) {
            if let Some(written) = told.first(Some(&detail), &["inputTokens"]) {
                told.cache_write_1h = Some(told.cache_write_1h.unwrap_or(0).saturating_add(written));
            }
        }
        let is_empty = told.is_empty();
        self.told.merge(told);
        if is_empty {
            return;
        }
        let tools = usage.object("serverToolUsage");
        let searches = Told::default().first(tools.as_ref(), &["webSearchRequests", "web_search_requests"]);
        if let Some(searches) = searches.filter(|searches| *searches > 0) {
            self.units.insert("searches".to_owned(), searches);
        }
        self.seen = UsageSeen::Final;
        self.raw.clear();
        self.raw.push_str(raw.get());
    }
}

/// The tier, else that the answer was given by the faster and dearer hardware.
fn service_tier(holder: &Object<'_>) -> Option<String> {
    let latency = || holder.object("performanceConfig").and_then(|config| config.text("latency"));
    holder
        .object("serviceTier")
        .and_then(|tier| tier.text("type"))
        .or_else(|| latency().filter(|latency| latency != "standard"))
}

impl Observer for Converse {
    fn unit(&mut self, data: &[u8]) {
        if (markers::STOP_REASON.find(data).is_some() || markers::USAGE.find(data).is_some())
            && let Some(object) = Object::parse(data)
        {
            self.read(&object);
        }
        self.delivered.push(data);
    }

    fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    fn reading(&mut self) -> Reading {
        let (tokens, anomaly) = self.told.disjoint(Cached::Beside);
        Reading {
            usage: self.seen,
            tokens,
            usage_raw: compacted(&self.raw),
            units: self.units.clone(),
            service_tier: self.service_tier.clone(),
            anomaly: anomaly.or_else(|| self.told.total_differs(&tokens)),
            is_finished: self.is_finished,
            ..Reading::default()
        }
    }

    fn kept(&self) -> Option<&Delivered> {
        Some(&self.delivered)
    }
}

fn read_text(unit: &[u8], text: &mut Text) {
    let Some(object) = Object::parse(unit) else { return };
    if let Some(message) = object.object("output").and_then(|output| output.object("message")) {
        for (number, block) in (0..).zip(message.objects("content")) {
            read_block(&block, Count::Of(number), text);
        }
    }
    for (event, part) in [("contentBlockStart", "start"), ("contentBlockDelta", "delta")] {
        let Some(event) = object.object(event) else { continue };
        if let Some(block) = event.object(part) {
            read_block(&block, event.count("contentBlockIndex"), text);
        }
    }
}

/// A block of content, or a piece of one: text, a call, reasoning, cited text.
fn read_block(block: &Object<'_>, number: Count, text: &mut Text) {
    text.push_raw(block.get("text"));
    if let Some(call) = block.object("toolUse") {
        text.call(number, call.get("name"), call.get("input"));
    }
    if let Some(reasoning) = block.object("reasoningContent") {
        text.think(reasoning.get("text"));
        text.think(reasoning.object("reasoningText").as_ref().and_then(|reasoning| reasoning.get("text")));
    }
    for cited in block.object("citationsContent").iter().flat_map(|citations| citations.objects("content")) {
        text.push_raw(cited.get("text"));
    }
}
