//! Calls as an organisation makes them, made up: intents and records for a journal of any length.

use jiff::{SignedDuration, Timestamp};
use serde_json::value::RawValue;
use tokenmeter::ids::{AppId, DepartmentId, KeyId, NodeId, Provider, RecordId, TeamId, UpstreamName};
use tokenmeter::money::NanoUsd;
use tokenmeter::operation::Operation;
use tokenmeter::record::{AttributedBy, CostByKind, Intent, Progress, Record};
use tokenmeter::usage::{Outcome, Provenance, TokenCounts, Units};

const TEAMS: u64 = 60;
const DEPARTMENTS: u64 = 9;
const APPS: u64 = 4;

/// Provider, model asked for, model that answered.
const MODELS: [(&str, &str, &str); 6] = [
    ("openai", "gpt-5", "gpt-5-2025-08-07"),
    ("openai", "gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
    ("anthropic", "claude-sonnet-4-5", "claude-sonnet-4-5-20250929"),
    ("anthropic", "claude-haiku-4-5", "claude-haiku-4-5-20251001"),
    ("gemini", "gemini-2.5-flash", "gemini-2.5-flash"),
    ("gemini", "gemini-2.5-pro", "gemini-2.5-pro"),
];

/// The calls of a span of time, one after the other, the same each time.
#[derive(Debug)]
pub(crate) struct Calls {
    begin: Timestamp,
    apart: SignedDuration,
    number: u64,
    state: u64,
}

impl Calls {
    /// As many calls as there may be from `begin` on, `apart` from each other.
    pub(crate) fn new(begin: Timestamp, apart: SignedDuration) -> Self {
        Self { begin, apart, number: 0, state: 0x9e37_79b9_7f4a_7c15 }
    }

    /// A number below `bound`: xorshift, which is random enough for what is made up.
    fn below(&mut self, bound: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % bound
    }

    fn at(&self) -> Timestamp {
        let since = self.apart.saturating_mul(i32::try_from(self.number % (1 << 30)).unwrap());
        self.begin.saturating_add(since).unwrap()
    }
}

/// What the call `id` has brought by `at`: so many tokens of text.
pub(crate) fn progress(id: RecordId, at: Timestamp, delivered_tokens: u64) -> Progress {
    Progress {
        id,
        at,
        model: None,
        status: Some(200),
        is_reported: false,
        tokens: TokenCounts::default(),
        units: Units::new(),
        usage_raw: None,
        service_tier: None,
        anomaly: None,
        delivered_tokens,
        delivered_bytes: 0,
    }
}

impl Iterator for Calls {
    type Item = (Intent, Record);

    fn next(&mut self) -> Option<Self::Item> {
        self.number += 1;
        let started_at = self.at();
        // Few teams make most calls.
        let team = self.below(TEAMS).min(self.below(TEAMS));
        let app = self.below(APPS);
        let (provider, asked, answered) = MODELS[usize::try_from(self.below(6)).unwrap()];
        let stream = self.below(3) > 0;
        let intent = Intent {
            id: RecordId::new(started_at),
            started_at,
            department: DepartmentId::parse(&format!("department-{}", team % DEPARTMENTS)).unwrap(),
            team: TeamId::parse(&format!("team-{team}")).unwrap(),
            app: Some(AppId::parse(&format!("app-{app}")).unwrap()),
            key: Some(KeyId::parse(&format!("k_{team:02}{app:02}")).unwrap()),
            attributed_by: AttributedBy::Key,
            tags: [("env".to_owned(), if self.below(4) > 0 { "prod" } else { "test" }.to_owned())].into(),
            upstream: UpstreamName::parse(provider).unwrap(),
            wire: provider.to_owned(),
            provider: Provider::parse(provider).unwrap(),
            operation: if provider == "gemini" { Operation::GenerateContent } else { Operation::Chat },
            model_requested: Some(asked.to_owned()),
            stream,
            body_bytes: Some(400 + self.below(20_000)),
            is_consumption: true,
        };
        let record = self.record_of(&intent, answered);
        Some((intent, record))
    }
}

impl Calls {
    fn record_of(&mut self, intent: &Intent, model: &str) -> Record {
        let (input, cache_read, output) = (20 + self.below(4_000), self.below(3_000), 1 + self.below(900));
        let usage = format!(
            "{{\"prompt_tokens\":{},\"completion_tokens\":{output},\"total_tokens\":{},\"prompt_tokens_details\":\
             {{\"cached_tokens\":{cache_read},\"audio_tokens\":0}},\"completion_tokens_details\":{{\"reasoning_tokens\":0}}}}",
            input + cache_read,
            input + cache_read + output,
        );
        let cost = [input * 1_250, cache_read * 125, output * 10_000].map(|cost| NanoUsd::new(cost.cast_signed()));
        let duration_ms = 300 + self.below(30_000);
        Record {
            id: intent.id,
            started_at: intent.started_at,
            ended_at: intent.started_at + SignedDuration::from_millis(duration_ms.cast_signed()),
            department: intent.department.clone(),
            team: intent.team.clone(),
            app: intent.app.clone(),
            key: intent.key.clone(),
            attributed_by: intent.attributed_by,
            tags: intent.tags.clone(),
            node: NodeId::unassigned(),
            seq: 0,
            upstream: intent.upstream.clone(),
            wire: intent.wire.clone(),
            provider: intent.provider.clone(),
            operation: intent.operation,
            model_requested: intent.model_requested.clone(),
            model: Some(model.to_owned()),
            stream: intent.stream,
            status: Some(200),
            outcome: Outcome::Completed,
            provenance: Provenance::Reported,
            tokens: TokenCounts {
                input: Some(input),
                cache_read: Some(cache_read),
                output: Some(output),
                reasoning: Some(0),
                ..TokenCounts::default()
            },
            units: Units::new(),
            usage_raw: Some(RawValue::from_string(usage).unwrap()),
            job: None,
            service_tier: Some("default".to_owned()),
            estimate: None,
            delivered_output: None,
            anomaly: None,
            cost_nanousd: Some(
                cost.iter().fold(NanoUsd::new(0), |sum, cost| NanoUsd::new(sum.as_i64() + cost.as_i64())),
            ),
            cost_nanousd_by_kind: CostByKind {
                input: Some(cost[0]),
                cache_read: Some(cost[1]),
                cache_write: None,
                output: Some(cost[2]),
            },
            price: Some(format!("genai-prices 2026-11-10 {}/{model}", intent.provider)),
            time_to_first_byte_ms: Some(100 + self.below(900)),
            duration_ms,
        }
    }
}
