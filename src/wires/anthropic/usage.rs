//! One usage object of Anthropic.

use crate::wires::object::Object;
use crate::wires::told::Told;

/// What it tells.
#[derive(Debug)]
pub(super) struct Usage {
    /// The top-level counts.
    pub(super) told: Told,
    /// The sum of all iterations, where some are of a kind that the top level may leave out.
    pub(super) iterations: Option<Told>,
    /// Searches made.
    pub(super) searches: Option<u64>,
    /// `standard`, `priority` or `batch`.
    pub(super) service_tier: Option<String>,
}

impl Usage {
    pub(super) fn of(usage: &Object<'_>) -> Self {
        let mut tools = Told::default();
        Self {
            told: counts(usage),
            iterations: iterations(usage),
            searches: tools.first(usage.object("server_tool_use").as_ref(), &["web_search_requests"]),
            service_tier: usage.text("service_tier"),
        }
    }
}

fn counts(usage: &Object<'_>) -> Told {
    let mut told = Told::default();
    let of = Some(usage);
    told.input = told.first(of, &["input_tokens"]);
    told.output = told.first(of, &["output_tokens"]);
    told.cache_read = told.first(of, &["cache_read_input_tokens"]);
    told.cache_write = told.first(of, &["cache_creation_input_tokens"]);
    told.reasoning = told.first(usage.object("output_tokens_details").as_ref(), &["thinking_tokens"]);
    let split = usage.object("cache_creation");
    let short = told.first(split.as_ref(), &["ephemeral_5m_input_tokens"]);
    let long = told.first(split.as_ref(), &["ephemeral_1h_input_tokens"]);
    let parts = short.unwrap_or(0).saturating_add(long.unwrap_or(0));
    match told.cache_write {
        None => told.cache_write = short.or(long).map(|_| parts),
        // A split of nothing says nothing: what it leaves unexplained lives for five minutes, unless told before.
        Some(written) if written > 0 && parts == 0 => return told,
        Some(_) => {}
    }
    told.cache_write_1h = long;
    told
}

/// The sum of the iterations, where it is not all messages of the model that was asked.
fn iterations(usage: &Object<'_>) -> Option<Told> {
    let mut sum = None::<Told>;
    let mut has_others = false;
    for iteration in usage.objects("iterations") {
        has_others |= iteration.text("type").as_deref() != Some("message");
        sum.get_or_insert_default().add(counts(&iteration));
    }
    sum.filter(|_| has_others)
}

/// What iterations consumed beside the top-level counts: compactions, advisors, and models that declined before another
/// took over. Their prices are their own, so they are no tokens of the call's model.
pub(super) fn beside(all: &Told, top: &Told) -> [(&'static str, u64); 4] {
    let rest = |all: Option<u64>, top: Option<u64>| all.unwrap_or(0).saturating_sub(top.unwrap_or(0));
    [
        ("side_input_tokens", rest(all.input, top.input)),
        ("side_cache_read_tokens", rest(all.cache_read, top.cache_read)),
        ("side_cache_write_tokens", rest(all.cache_write, top.cache_write)),
        ("side_output_tokens", rest(all.output, top.output)),
    ]
}
