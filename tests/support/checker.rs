//! The checker: what must hold of a ledger, whatever happened to the machine, the provider and the clients.
//!
//! It is told what the oracle wrote, what the storm saw, and what tokenmeter says of it, and names every contradiction
//! by the invariant that it breaks:
//!
//! - **I1** what reached the provider, and what a client was told the record of, has exactly one record ([`calls`])
//! - **I2** `reported` counts are the provider's, field by field ([`calls`])
//! - **I3** the band of an estimate holds the truth ([`calls`])
//! - **I4** no id twice, each node's sequence without gaps ([`order`])
//! - **I5** records, report, CSV and metrics add up to the same ([`sums`])
//! - **I6** what a client saw the end of is recorded with the provider's own numbers ([`calls`])
//! - **I9** bytes and heads are passed on as they are, and a cut is seen as one ([`calls`])
//! - **I10** `tokenmeter verify` finds the ledger whole ([`integrity`])
//! - **I11** no prompt, answer or credential is in anything that was written ([`place::secrets`], [`calls`])
//! - **I12** memory, file descriptors and threads come back to where they were ([`place::Footprint`])
//!
//! Start an [`crate::oracle::Oracle`] and a server that has it for its upstreams, let a [`crate::storm::Storm`] rage, wait
//! until all is [`settled`], and [`expect_none`] of what the checks find. Several servers on one ledger are several
//! proxies of one storm, and their metrics are summed.
//!
//! The truth that I3 goes by is what somebody who reads the answer can know: the prompt, the words that passed, what
//! the provider told. Nobody can estimate reasoning that is neither shown nor told. Of an answer that broke off it is
//! known only that tokenmeter read at least what its client has and at most what the oracle wrote. And of a call that
//! was in flight when the process died the band need not hold what passed last, but the prompt: see
//! [`Evidence::may_have_died`].

#[path = "checker/place.rs"]
pub(crate) mod place;
#[path = "checker/sums.rs"]
pub(crate) mod sums;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::process::Output;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::oracle::{Answer, Attempt, Manners, Mix, Plan};
use crate::stand::{PATIENCE, Stand, sum_of};
use crate::storm::{End, Seen, hash};

/// Configuration of a server whose bands are to hold the truth every time, as I3 asks: of what was learned, bands hold
/// nine of ten, and what the oracle's models think out of sight is learned too.
pub(crate) const UNTAUGHT: &str = "[counting]\nlearn = false\n";

/// Statuses by which tokenmeter says that a provider did not answer; the oracle has none of them.
const OWN_STATUSES: [u16; 2] = [502, 504];

/// A contradiction.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// As in `I2`.
    pub(crate) invariant: &'static str,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.invariant, self.what)
    }
}

/// Fails where there is any, and tells the first of them.
pub(crate) fn expect_none(violations: &[Violation]) {
    let first: Vec<String> = violations.iter().take(12).map(ToString::to_string).collect();
    assert!(violations.is_empty(), "{} violations:\n{}", violations.len(), first.join("\n"));
}

/// A line of `tokenmeter records`, as far as it is checked.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) ended_at: jiff::Timestamp,
    pub(crate) department: String,
    pub(crate) team: String,
    #[serde(default)]
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) node: String,
    pub(crate) seq: u64,
    pub(crate) provider: String,
    pub(crate) model: Option<String>,
    pub(crate) stream: bool,
    pub(crate) status: Option<u16>,
    pub(crate) outcome: String,
    pub(crate) provenance: String,
    pub(crate) tokens: BTreeMap<String, u64>,
    pub(crate) usage_raw: Option<Box<RawValue>>,
    pub(crate) estimate: Option<Estimate>,
    pub(crate) service_tier: Option<String>,
    pub(crate) cost_nanousd: Option<i64>,
}

/// A record's `estimate`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Estimate {
    pub(crate) low: u64,
    pub(crate) high: u64,
}

impl Row {
    /// The number of the call that it is of.
    fn nonce(&self) -> Option<u64> {
        self.tags.get("call")?.parse().ok()
    }

    /// Tokens of a kind, none where it is unknown.
    pub(crate) fn count(&self, kind: &str) -> u64 {
        self.tokens.get(kind).copied().unwrap_or(0)
    }

    /// `input + cache_read + cache_write + output`.
    pub(crate) fn total(&self) -> u64 {
        ["input", "cache_read", "cache_write", "output"].iter().map(|kind| self.count(kind)).sum()
    }
}

/// The rows of what `tokenmeter records --format jsonl` printed.
pub(crate) fn rows(jsonl: &str) -> Vec<Row> {
    jsonl.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// All that is known of some calls.
pub(crate) struct Evidence<'a> {
    pub(crate) mix: Mix,
    pub(crate) attempts: &'a [Attempt],
    pub(crate) seen: &'a [Seen],
    pub(crate) rows: &'a [Row],
    /// The process was killed while they were made: then a call may be `orphaned`, and its client see its connection cut.
    /// What passed an orphan since the last note of its progress is not promised to be in its band.
    pub(crate) may_have_died: bool,
}

/// I1, I2, I3, I6, I9 and what of I11 the provider sees.
pub(crate) fn calls(evidence: &Evidence<'_>) -> Vec<Violation> {
    let mut found = Found::default();
    let mut attempts: HashMap<u64, Vec<&Attempt>> = HashMap::new();
    for attempt in evidence.attempts {
        attempts.entry(attempt.nonce).or_default().push(attempt);
    }
    let mut rows: HashMap<u64, Vec<&Row>> = HashMap::new();
    let asked: HashSet<u64> = evidence.seen.iter().map(|seen| seen.nonce).collect();
    for row in evidence.rows {
        match row.nonce().filter(|nonce| asked.contains(nonce)) {
            Some(nonce) => rows.entry(nonce).or_default().push(row),
            None => found.add("I1", format!("record {} is of no call: {row:?}", row.id)),
        }
    }
    for nonce in attempts.keys().filter(|nonce| !asked.contains(nonce)) {
        found.add("I1", format!("call {nonce} reached the provider and nobody asked it"));
    }
    for seen in evidence.seen {
        let nonce = seen.nonce;
        let attempts = attempts.get(&nonce).map_or(&[][..], Vec::as_slice);
        let rows = rows.get(&nonce).map_or(&[][..], Vec::as_slice);
        if attempts.len() > 1 {
            found.add("I1", format!("call {nonce} reached the provider {} times", attempts.len()));
        }
        if rows.len() > 1 {
            let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
            found.add("I1", format!("call {nonce} has {} records: {}", rows.len(), ids.join(", ")));
        }
        if let Some(record) = seen.record.as_deref().filter(|id| !rows.iter().any(|row| row.id == *id)) {
            found.add("I1", format!("call {nonce}: its client was told record {record}, which is not there"));
        }
        let attempt = attempts.first().copied();
        match (attempt, rows.first()) {
            (Some(_), None) => {
                found.add("I1", format!("call {nonce} reached the provider and has no record: {seen:?}"));
            }
            (attempt, Some(row)) => Call::new(evidence, attempt, seen, row, &mut found).judge(),
            (None, None) => {}
        }
    }
    found.0
}

/// All records and the metrics of a server, once each call that `seen` was told the record of and each of `attempts` has
/// its record: what is counted here follows its answer, what is finished in the background its client.
pub(crate) async fn settled(stand: &Stand, seen: &[Seen], attempts: &[Attempt]) -> (Vec<Row>, String) {
    let begun = Instant::now();
    loop {
        let are_over = sum_of(&stand.metrics().await, "tokenmeter_inflight_requests", &[]) == 0.0;
        let rows = rows(&stand.run(&["records", "--format", "jsonl"]));
        let ids: HashSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        let nonces: HashSet<Option<u64>> = rows.iter().map(Row::nonce).collect();
        let are_told = seen.iter().filter_map(|seen| seen.record.as_deref()).all(|id| ids.contains(id));
        let are_there = attempts.iter().all(|attempt| nonces.contains(&Some(attempt.nonce)));
        let metrics = stand.metrics().await;
        // The month's gauges follow the ledger. What is missing for good the checker names.
        let is_shown = sums::month(&rows, &metrics).is_empty();
        if (are_over && are_told && are_there && is_shown) || begun.elapsed() > PATIENCE {
            return (rows, metrics);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// I4. `rows` are all that there are.
pub(crate) fn order(rows: &[Row]) -> Vec<Violation> {
    let mut found = Found::default();
    let mut ids = HashSet::new();
    let mut seqs: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for row in rows {
        if !ids.insert(&row.id) {
            found.add("I4", format!("record {} is there twice", row.id));
        }
        seqs.entry(&row.node).or_default().push(row.seq);
    }
    for (node, mut seqs) in seqs {
        seqs.sort_unstable();
        for (place, seq) in (1..).zip(&seqs) {
            if place != *seq {
                found.add("I4", format!("node {node}: the {place}th record has seq {seq}"));
                break;
            }
        }
    }
    found.0
}

/// I10: what `tokenmeter verify` came to.
pub(crate) fn integrity(verify: &Output) -> Vec<Violation> {
    let mut found = Found::default();
    if !verify.status.success() {
        let said = [verify.stdout.as_slice(), &verify.stderr].concat();
        found.add("I10", format!("`verify` ended with {}: {}", verify.status, said.escape_ascii()));
    }
    found.0
}

/// Violations on their way.
#[derive(Default)]
struct Found(Vec<Violation>);

impl Found {
    fn add(&mut self, invariant: &'static str, what: String) {
        self.0.push(Violation { invariant, what });
    }
}

/// A call, and what is known of it.
struct Call<'a> {
    plan: Plan,
    answer: Answer,
    attempt: Option<&'a Attempt>,
    seen: &'a Seen,
    row: &'a Row,
    may_have_died: bool,
    /// For each piece of the answer, where it ends as the oracle writes it and as the client sees it.
    ends: Vec<(u64, u64)>,
    found: &'a mut Found,
}

impl<'a> Call<'a> {
    fn new(
        evidence: &Evidence<'_>,
        attempt: Option<&'a Attempt>,
        seen: &'a Seen,
        row: &'a Row,
        found: &'a mut Found,
    ) -> Self {
        let plan = evidence.mix.call(seen.nonce);
        let answer = Answer::of(&plan, attempt.is_some_and(|attempt| attempt.is_usage_asked));
        let (mut written, mut shown) = (0, 0);
        let ends = answer.pieces.iter().map(|piece| {
            let length = piece.text.len() as u64;
            written += length;
            // What only tokenmeter asked for, its client does not get.
            shown += if piece.is_asked_usage && !plan.asks_usage { 0 } else { length };
            (written, shown)
        });
        let ends = ends.collect();
        Self { plan, answer, attempt, seen, row, may_have_died: evidence.may_have_died, ends, found }
    }

    fn violates(&mut self, invariant: &'static str, what: &str) {
        let Self { plan, row, seen, attempt, .. } = self;
        let Row { id, outcome, provenance, tokens, status, .. } = row;
        let what = format!(
            "record {id} of call {}: {what} [{outcome}, {provenance}, status {status:?}, {tokens:?}; {:?} {} {:?}, {seen:?}, {attempt:?}]",
            plan.nonce,
            plan.api,
            if plan.is_stream { "stream" } else { "whole" },
            plan.fault,
        );
        self.found.add(invariant, what);
    }

    fn judge(&mut self) {
        if self.row.outcome == "orphaned" && !self.may_have_died {
            self.violates("I6", "`orphaned`, and no process died");
        }
        self.request();
        self.bytes();
        self.end();
        self.counts();
        self.band();
    }

    /// Whether the client has the provider's answer, or at least its head.
    fn is_answered(&self) -> bool {
        let is_own = |status| OWN_STATUSES.contains(status);
        self.attempt.is_some_and(|attempt| attempt.has_head)
            && self.seen.record.is_some()
            && !self.seen.status.as_ref().is_some_and(is_own)
    }

    /// How many pieces the client has whole.
    fn pieces_seen(&self) -> usize {
        if !self.is_answered() {
            return 0;
        }
        let length = self.ends.last().map_or(0, |(_, shown)| *shown);
        let is_whole = self.seen.end == End::Whole && self.seen.bytes == length;
        let mut before = 0;
        let is_seen = |(_, shown): &&(u64, u64)| {
            // What is taken out was read where something behind it has come.
            let is_shown = *shown > std::mem::replace(&mut before, *shown);
            is_whole || if is_shown { *shown <= self.seen.bytes } else { *shown < self.seen.bytes }
        };
        self.ends.iter().take_while(is_seen).count()
    }

    /// How many pieces the oracle wrote anything of.
    fn pieces_begun(&self) -> usize {
        let written = self.attempt.map_or(0, |attempt| attempt.written);
        self.ends.iter().take_while(|(end, _)| *end <= written).count()
            + usize::from(!self.is_written_to_an_end(written))
    }

    fn is_written_to_an_end(&self, written: u64) -> bool {
        written == 0 || self.ends.iter().any(|(end, _)| *end == written)
    }

    /// Tokens that are known by the end of so many pieces.
    fn countable(&self, pieces: usize) -> u64 {
        let last = pieces.min(self.answer.pieces.len()).checked_sub(1);
        last.map_or(0, |last| self.answer.pieces[last].countable).max(self.plan.prompt_tokens())
    }

    /// I9 and I11 of what the provider got.
    fn request(&mut self) {
        let Some(attempt) = self.attempt else { return };
        if let Some(came) = &attempt.altered {
            let what = format!("the provider was asked {came} instead of {}", self.plan.request());
            self.violates("I9", &what);
        }
        if let Some(leaked) = &attempt.leaked {
            let what = format!("the provider was sent `{leaked}`");
            self.violates("I11", &what);
        }
    }

    /// I9 of what the client got.
    fn bytes(&mut self) {
        let Seen { bytes, end, status, .. } = *self.seen;
        let is_patient = self.plan.manners == Manners::Patient;
        let whole = self.attempt.is_some_and(|attempt| attempt.is_whole);
        if !self.is_answered() {
            if whole && is_patient && !self.may_have_died {
                self.violates("I9", "the provider answered, and its client knows nothing of it");
            }
            return;
        }
        if status != Some(self.answer.status) {
            let what = format!("the provider's status was {}", self.answer.status);
            self.violates("I9", &what);
        }
        if self.seen.retry_after.as_deref() != self.answer.retry_after.map(str::as_bytes) {
            let what = format!("the provider's retry-after was {:?}", self.answer.retry_after);
            self.violates("I9", &what);
        }
        let mut shown = String::new();
        let mut before = 0;
        for ((_, end), piece) in self.ends.iter().zip(&self.answer.pieces) {
            if *end > std::mem::replace(&mut before, *end) {
                shown.push_str(&piece.text);
            }
        }
        match usize::try_from(bytes).ok().and_then(|bytes| shown.as_bytes().get(..bytes)) {
            None => self.violates("I9", "its client got more than was sent"),
            Some(sent) if hash(sent) != self.seen.hash => {
                self.violates("I9", "the bytes that its client got are not the provider's");
            }
            Some(_) => {}
        }
        let is_complete = bytes == shown.len() as u64;
        match end {
            End::Whole if !is_complete => self.violates("I9", "its client takes a part for the whole"),
            End::Whole if !whole => self.violates("I9", "its client takes a broken connection for an end"),
            End::Cut if whole && !self.may_have_died => self.violates("I9", "its client was cut off a whole answer"),
            End::Whole | End::Cut | End::Left => {}
        }
    }

    /// I6: what the client saw the end of.
    fn end(&mut self) {
        let length = self.ends.last().map_or(0, |(_, shown)| *shown);
        let is_at_end = self.seen.end == End::Whole || (self.answer.has_terminal && self.seen.bytes == length);
        if !self.is_answered() || !is_at_end {
            return;
        }
        let is_told = self.answer.pieces.iter().any(|piece| piece.told.as_ref().is_some_and(|told| told.is_final));
        let expected: &[(&str, &str)] = match self.answer.status {
            200 if self.answer.is_error && is_told => &[("upstream_cut", "reported")],
            200 if self.answer.is_error => &[("upstream_cut", "partial"), ("upstream_cut", "estimated")],
            200 if is_told => &[("completed", "reported")],
            200 => &[("completed", "estimated")],
            _ => &[("upstream_error", "none")],
        };
        let is = (self.row.outcome.as_str(), self.row.provenance.as_str());
        // What is counted here follows its end within the second; an error before any text costs nothing.
        let is_late = self.may_have_died && self.answer.status == 200 && !is_told && is.0 == "orphaned";
        let is_nothing = self.answer.is_error && is == ("upstream_cut", "none");
        if !(expected.contains(&is) || is_late || is_nothing) {
            let what = format!("its client saw the end, so it must be one of {expected:?}");
            self.violates("I6", &what);
        }
    }

    /// I2: whose the counts are.
    fn counts(&mut self) {
        let row = self.row;
        if self.is_answered() && row.outcome != "orphaned" && row.status != self.seen.status {
            self.violates("I2", "its client saw another status");
        }
        if row.stream != self.plan.is_stream {
            self.violates("I2", "`stream` is not what was asked");
        }
        // What the provider may have told by the time that tokenmeter stopped reading, and surely had.
        let (seen, begun) = (self.pieces_seen(), self.pieces_begun());
        let told =
            |to: usize| self.answer.pieces[..to].iter().filter_map(|piece| piece.told.clone()).collect::<Vec<_>>();
        let (sure, possible) = (told(seen), told(begun));
        let sure_last = sure.len().saturating_sub(1);
        match row.provenance.as_str() {
            "reported" => {
                let Some(last) = possible.iter().find(|told| told.is_final) else {
                    return self.violates("I2", "`reported`, and the provider had not reported");
                };
                let expected: BTreeMap<String, u64> =
                    last.tokens.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
                for name in expected.keys().chain(row.tokens.keys()).collect::<std::collections::BTreeSet<_>>() {
                    let (ours, theirs) = (row.tokens.get(name), expected.get(name));
                    if ours != theirs {
                        let what = format!("{name} {}, oracle {}", or_absent(ours), or_absent(theirs));
                        self.violates("I2", &what);
                    }
                }
                if !is_same(row.usage_raw.as_deref(), &last.raw) {
                    let what = format!("usage_raw is {:?}, oracle {}", row.usage_raw, last.raw);
                    self.violates("I2", &what);
                }
                if row.model.as_deref() != Some(self.plan.model()) {
                    let what = format!("model {:?}, oracle {}", row.model, self.plan.model());
                    self.violates("I2", &what);
                }
                if row.service_tier.as_deref() != self.plan.service_tier() {
                    let what = format!("tier {:?}, oracle {:?}", row.service_tier, self.plan.service_tier());
                    self.violates("I2", &what);
                }
            }
            "partial" => {
                let fits = possible[sure_last.min(possible.len())..].iter().any(|told| {
                    is_same(row.usage_raw.as_deref(), &told.raw)
                        && told.tokens.iter().all(|(name, count)| row.tokens.get(*name) == Some(count))
                });
                if !fits && row.outcome != "orphaned" {
                    let what = format!("its counts are none that the provider had told by then: {possible:?}");
                    self.violates("I2", &what);
                }
            }
            "none" | "unknown" if row.outcome == "orphaned" => {
                self.violates("I2", "what was in flight when the process died counts as nothing");
            }
            "estimated" if !sure.is_empty() && row.outcome != "orphaned" => {
                self.violates("I2", "`estimated`, although the provider had told counts");
            }
            "unknown" if self.is_answered() => self.violates("I2", "`unknown`, although there was an answer"),
            "none" if self.is_answered() && self.answer.status == 200 && !self.answer.is_error => {
                self.violates("I2", "an answer counts as nothing");
            }
            _ => {}
        }
        if self.attempt.is_none() && matches!(row.provenance.as_str(), "reported" | "partial") {
            self.violates("I2", "the provider never got it");
        }
    }

    /// I3: whether the truth is within the estimate.
    fn band(&mut self) {
        let is_ours = matches!(self.row.provenance.as_str(), "partial" | "estimated");
        let Some(Estimate { low, high }) = self.row.estimate else {
            if is_ours {
                self.violates("I3", "no estimate");
            }
            return;
        };
        if !(low..=high).contains(&self.row.total()) {
            let what = format!("its own total is not within {low} to {high}");
            self.violates("I3", &what);
        }
        let Some(_) = self.attempt else { return };
        // Of a call that was in flight when the process died, what came last is not promised.
        let sure = if self.row.outcome == "orphaned" { 0 } else { self.pieces_seen() };
        let (least, most) = (self.countable(sure), self.countable(self.pieces_begun()));
        if low > most || high < least {
            let what = format!("estimated {low} to {high}, oracle {least} to {most}");
            self.violates("I3", &what);
        }
    }
}

fn or_absent(count: Option<&u64>) -> String {
    count.map_or_else(|| "absent".to_owned(), ToString::to_string)
}

/// Whether a record's own copy is what the provider wrote.
fn is_same(ours: Option<&RawValue>, theirs: &str) -> bool {
    // Verbatim is quickly seen; what was told in two objects is compared as one.
    ours.is_some_and(|ours| {
        ours.get() == theirs
            || serde_json::from_str::<Value>(ours.get()).ok() == serde_json::from_str::<Value>(theirs).ok()
    })
}
