//! Wires: how each API family asks, answers, and reports usage.
//!
//! A wire is one file, one line in [`REGISTRY`], and a fixture folder of the same name. Pure: bytes in, values out.
//! What an exchange *is* follows from its method and path, whatever upstream it goes to; the upstream's own wire
//! says how credentials are sent.

pub mod anthropic;
mod delivered;
pub mod gemini;
mod markers;
mod object;
pub mod openai;
mod told;

use std::fmt::Debug;

use http::Method;
use serde_json::value::RawValue;

use crate::operation::Operation;
use crate::usage::{Anomaly, TokenCounts, Units};

/// Every wire, in the order in which a path is offered to them.
pub static REGISTRY: &[&dyn Wire] = &[&anthropic::Anthropic, &gemini::Gemini, &openai::OpenAi];

/// The wire of that name.
pub fn by_name(name: &str) -> Option<&'static dyn Wire> {
    REGISTRY.iter().copied().find(|wire| wire.name() == name)
}

/// What an exchange is: the wire it is read as, what was asked, and the model where the path names it.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// The API family.
    pub wire: &'static dyn Wire,
    /// What was asked.
    pub operation: Operation,
    /// The model, where the path names it (Gemini).
    pub model_in_path: Option<&'a str>,
    /// Whether the path says that the answer streams; `None`: the body's `stream` member says.
    pub stream_in_path: Option<bool>,
}

/// What the exchange of `method` and `path` (as the provider sees it, without query) is; an `Other` of
/// `upstream_wire` where no wire knows it.
pub fn recognise<'a>(upstream_wire: &'static dyn Wire, method: &Method, path: &'a str) -> Exchange<'a> {
    std::iter::once(upstream_wire)
        .chain(REGISTRY.iter().copied())
        .find_map(|wire| wire.recognise(method, path))
        .unwrap_or(Exchange {
            wire: upstream_wire,
            operation: Operation::Other,
            model_in_path: None,
            stream_in_path: None,
        })
}

/// Where a wire's clients put their credential.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CredentialHeader {
    /// Header name, lower case.
    pub name: &'static str,
    /// What stands before the secret: `"Bearer "` or nothing.
    pub prefix: &'static str,
}

/// One API family.
pub trait Wire: Sync + Debug {
    /// Its name in config and records.
    fn name(&self) -> &'static str;

    /// The exchange that `method` and `path` are, if this wire knows them.
    fn recognise<'a>(&self, method: &Method, path: &'a str) -> Option<Exchange<'a>>;

    /// How an upstream of this wire wants its credential.
    fn credential(&self) -> CredentialHeader;

    /// An error of tokenmeter's own in this provider's JSON shape, so that SDKs show `message`.
    /// `code` is tokenmeter's, snake case.
    fn error_body(&self, status: u16, code: &str, message: &str) -> String;

    /// Top-level members of a whole JSON answer that [`Observer::unit`] needs; the rest is skipped unread.
    fn members(&self) -> &'static [&'static str];

    /// A reader of one answer. `provider` settles what servers of one wire do differently.
    fn observer(&self, operation: Operation, provider: &str) -> Box<dyn Observer>;

    /// What of a request body the provider counts as prompt; `None` where it cannot be read.
    fn prompt(&self, operation: Operation, body: &[u8]) -> Option<Countable>;
}

/// Text to count locally.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Countable {
    /// The text, its parts joined as the provider would.
    pub text: String,
    /// Messages around the text, each of which costs a few tokens more.
    pub messages: u64,
    /// Bytes of text beyond what was kept: counted at the rate of what was.
    pub bytes_beyond: u64,
    /// Tokens already known, of a prompt sent as token numbers.
    pub tokens: u64,
}

/// Reads one answer as it passes. Never fails: what it cannot read it leaves unknown.
pub trait Observer: Send {
    /// One whole unit: an SSE event's data, a line, an array's element, or a whole JSON body reduced to
    /// [`Wire::members`].
    fn unit(&mut self, data: &[u8]);

    /// Whether the terminal event was seen: after it the call is complete, whatever the socket says.
    fn is_terminal(&self) -> bool;

    /// What the answer says so far.
    fn reading(&self) -> Reading;

    /// The generated text so far, for local counting. Slow: not for the data path.
    fn delivered(&self) -> Countable;
}

/// How much of the usage an answer told.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum UsageSeen {
    /// Nothing.
    #[default]
    Nothing,
    /// Some counts, not yet final: Anthropic's `message_start` before the last `message_delta`.
    Interim,
    /// The provider's last word.
    Final,
}

/// What an answer said.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The model that answered.
    pub model: Option<String>,
    /// How much of the usage was told.
    pub usage: UsageSeen,
    /// The counts told, made disjoint.
    pub tokens: TokenCounts,
    /// The provider's usage object, verbatim but for insignificant white space. The last one, where it comes often;
    /// merged where the provider spreads it.
    pub usage_raw: Option<Box<RawValue>>,
    /// Billed quantities that are not tokens.
    pub units: Units,
    /// The tier that the answer names.
    pub service_tier: Option<String>,
    /// How the provider contradicts itself.
    pub anomaly: Option<Anomaly>,
    /// Whether the answer is an error under a status of 200.
    pub is_error: bool,
    /// Whether the model said that it had finished, even if the terminal event is still to come.
    pub is_finished: bool,
}
