//! Wires: how each API family asks, answers, and reports usage.
//!
//! A wire is one file, one line in [`REGISTRY`], and a fixture folder of the same name. Pure: bytes in, values out.
//! What an exchange *is* follows from its method and path, whatever upstream it goes to; the upstream's own wire
//! says how credentials are sent.

pub mod alephalpha;
mod answer;
pub mod anthropic;
mod asked;
pub mod azure;
pub mod bedrock;
pub mod cloudflare;
pub mod cohere;
pub mod counts;
pub mod dashscope;
pub mod delivered;
pub mod gemini;
mod lanes;
mod markers;
mod models;
mod object;
pub mod ollama;
pub mod openai;
pub mod prompt;
mod retold;
pub mod shape;
pub mod tgi;
mod told;
pub mod vertex;
pub mod watsonx;

use std::borrow::Cow;
use std::fmt::Debug;

use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;

use crate::framing::Framer;
use crate::operation::Operation;
use crate::usage::{Anomaly, TokenCounts, Units};

use counts::CountRequest;
use delivered::Delivered;
use prompt::Prompt;

/// Every wire, in the order in which a path is offered to them.
pub static REGISTRY: &[&dyn Wire] = &[
    &bedrock::Bedrock,
    &anthropic::Anthropic,
    &vertex::Vertex,
    &gemini::Gemini,
    &openai::OpenAi,
    &azure::Azure,
    &cohere::Cohere,
    &ollama::Ollama,
    &cloudflare::Cloudflare,
    &dashscope::DashScope,
    &tgi::Tgi,
    &watsonx::Watsonx,
    &alephalpha::AlephAlpha,
];

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
    /// The model as it stands in the path, where it does: Gemini's, Bedrock's, or Azure's deployment of one. Its name is [`Exchange::model`].
    pub model_in_path: Option<&'a str>,
    /// Whether the path says that the answer streams; `None`: the body's `stream` member says.
    pub stream_in_path: Option<bool>,
    /// The id of the object that the path names, where that is what is fetched: a response, a run, a file. It stands in
    /// for [`Reading::job`] where an answer cannot tell it.
    pub object_in_path: Option<&'a str>,
    /// What an answer costs by nature.
    pub consumption: Consumption,
}

impl Exchange<'static> {
    /// An exchange that consumes, of which the body says the rest.
    pub fn new(wire: &'static dyn Wire, operation: Operation) -> Self {
        Self {
            wire,
            operation,
            model_in_path: None,
            stream_in_path: None,
            object_in_path: None,
            consumption: Consumption::Now,
        }
    }

    /// An exchange that costs nothing by nature.
    pub fn free(wire: &'static dyn Wire, operation: Operation) -> Self {
        Self { consumption: Consumption::None, ..Self::new(wire, operation) }
    }
}

impl Exchange<'_> {
    /// The model's name, where the path names it.
    pub fn model(&self) -> Option<String> {
        self.model_in_path.map(|in_path| self.wire.model(in_path))
    }
}

/// What an exchange consumes by nature.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Consumption {
    /// What it answers was made for it: counted whenever it passes.
    Now,
    /// It fetches what was stored: consumption only where that began in a call recorded without usage, such as a
    /// background response. Counted once a [`Job`].
    Stored,
    /// It fetches the result of work that is reported nowhere else: a run, a batch. Counted once a [`Job`].
    Result,
    /// Nothing: listing, uploading, deleting, counting tokens, beginning a batch.
    None,
}

/// Work that outlives the call that began it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Job {
    /// The provider's id of the response, the run, the batch.
    pub id: String,
    /// Whether it is over: nothing more will be consumed.
    pub is_over: bool,
}

/// What the exchange of `method` and `path` (as the provider sees it, without query) is; an `Other` of
/// `upstream_wire` where no wire knows it.
pub fn recognise<'a>(upstream_wire: &'static dyn Wire, method: &Method, path: &'a str) -> Exchange<'a> {
    let mut wires = std::iter::once(upstream_wire).chain(REGISTRY.iter().copied());
    upstream_wire
        .recognise_own(method, path)
        .or_else(|| wires.find_map(|wire| wire.recognise(method, path)))
        .unwrap_or_else(|| unread(upstream_wire, method))
}

/// A part of a path as text; as it is where that would be none.
fn percent_decoded(part: &str) -> Cow<'_, str> {
    percent_decode_str(part).decode_utf8().unwrap_or(Cow::Borrowed(part))
}

/// An exchange that nobody reads. Reading and deleting what is stored costs nothing.
fn unread(wire: &'static dyn Wire, method: &Method) -> Exchange<'static> {
    let is_free = [Method::GET, Method::HEAD, Method::DELETE, Method::OPTIONS].contains(method);
    if is_free { Exchange::free(wire, Operation::Other) } else { Exchange::new(wire, Operation::Other) }
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

    /// The name of the model that stands in a path of this wire.
    fn model(&self, in_path: &str) -> String {
        percent_decoded(in_path).into_owned()
    }

    /// The same as [`Wire::recognise`] for a path so plain that it says something only at an upstream of this wire, such as `/v1/chat`.
    fn recognise_own<'a>(&self, _method: &Method, _path: &'a str) -> Option<Exchange<'a>> {
        None
    }

    /// Whether an answer streams if the request does not say.
    fn streams_unasked(&self, _operation: Operation) -> bool {
        false
    }

    /// How an upstream of this wire wants its credential.
    fn credential(&self) -> CredentialHeader;

    /// An error of tokenmeter's own in this provider's JSON shape, so that SDKs show `message`.
    /// `code` is tokenmeter's, snake case.
    fn error_body(&self, status: u16, code: &str, message: &str) -> String;

    /// Top-level members of a whole JSON answer that [`Observer::unit`] needs; the rest is skipped unread.
    fn members(&self) -> &'static [&'static str];

    /// Whether [`Observer::unit`] reads the same out of a small JSON answer as it comes, with all its members in their own
    /// order: that is faster than to reduce it. It must look up nothing at the top level that [`Wire::members`] does not
    /// list.
    fn reads_small_whole(&self) -> bool {
        false
    }

    /// What cuts an answer of these headers into units.
    fn framer(&self, content_type: Option<&[u8]>, content_encoding: Option<&[u8]>) -> Framer {
        Framer::new(content_type, content_encoding, self.members()).with_small_objects(self.reads_small_whole())
    }

    /// Whether a chat's client may ask for usage with `stream_options`, so that we can ask in its place.
    fn takes_stream_options(&self) -> bool {
        false
    }

    /// A reader of one answer. `provider` settles what servers of one wire do differently.
    fn observer(&self, operation: Operation, provider: &str) -> Box<dyn Observer>;

    /// What has the provider itself count the prompt of `body`, which went to `path` for `operation`; `None` where it has no
    /// endpoint for it.
    fn count_request(&self, _operation: Operation, _path: &str, _body: &[u8]) -> Option<CountRequest> {
        None
    }

    /// The count that it answers.
    fn counted(&self, _answer: &[u8]) -> Option<u64> {
        None
    }

    /// What of a request body the provider counts as prompt; `None` where it cannot be read.
    fn prompt(&self, operation: Operation, body: &[u8]) -> Option<Prompt>;
}

/// Text to count locally.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Countable {
    /// The text, its parts joined as the provider would; of an answer what its first choice says.
    pub text: String,
    /// Further texts of an answer, each to be counted on its own.
    pub beside: Vec<Beside>,
    /// Calls of tools that began in it.
    pub calls: u64,
    /// Messages around the text, each of which costs a few tokens more.
    pub messages: u64,
    /// Bytes of text beyond what was kept: counted at the rate of what was.
    pub bytes_beyond: u64,
    /// Tokens already known, of a prompt sent as token numbers.
    pub tokens: u64,
}

/// A text of an answer beside what its first choice says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Beside {
    /// What it is.
    pub kind: Kind,
    /// The text.
    pub text: String,
}

/// What a text of an answer is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// What a choice says.
    Said,
    /// Reasoning that the model shows.
    Thought,
    /// The name of a tool that is called, or its arguments.
    Called,
}

impl Countable {
    /// Its texts and what they are.
    pub fn texts(&self) -> impl Iterator<Item = (Kind, &str)> {
        let first = std::iter::once((Kind::Said, self.text.as_str()));
        first.chain(self.beside.iter().map(|Beside { kind, text }| (*kind, text.as_str())))
    }

    /// Bytes of all text, kept or not.
    pub fn bytes(&self) -> u64 {
        let kept = self.texts().fold(0, |sum: usize, (_, text)| sum.saturating_add(text.len()));
        self.bytes_beyond.saturating_add(u64::try_from(kept).unwrap_or(u64::MAX))
    }
}

/// Reads one answer as it passes. Never fails: what it cannot read it leaves unknown.
pub trait Observer: Send {
    /// The answer's head, before its first unit: some providers count in headers.
    fn head(&mut self, _headers: &HeaderMap) {}

    /// One whole unit: an SSE event's data, a line, an array's element, or a JSON object; one that is not
    /// [taken as it comes](Wire::reads_small_whole), and what is too long to hold, is reduced to [`Wire::members`].
    fn unit(&mut self, data: &[u8]);

    /// Whether the terminal event was seen: after it the call is complete, whatever the socket says.
    fn is_terminal(&self) -> bool;

    /// What the answer says so far. Reads what was held back until someone asks.
    fn reading(&mut self) -> Reading;

    /// What is kept of the generated text; `None` where nothing is.
    fn kept(&self) -> Option<&Delivered> {
        None
    }

    /// The generated text so far, for local counting. Slow: not for the data path.
    fn delivered(&self) -> Countable {
        self.kept().map(Delivered::countable).unwrap_or_default()
    }
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
    /// The work that the answer begins or brings the result of, where it outlives its call.
    pub job: Option<Job>,
}
