//! Script: how one answer is to be sent. The `x-fake` header, `;` between directives, each `word` or `word=value`.
//!
//! | directive | does |
//! |---|---|
//! | `words=N` | the answer has N words instead of the echo |
//! | `bytes=N` | the answer goes on for at least N bytes, never held in memory |
//! | `model=NAME` | the answer names this model instead of the request's |
//! | `status=N` | an error answer of this status in the provider's shape; a model `error-N` does the same |
//! | `no_usage` | usage is left out, whatever was asked |
//! | `always_usage` | an OpenAI-shaped stream reports usage in its finishing chunk, unasked |
//! | `input=N` `cached=N` `cache_write=N` `output=N` `reasoning=N` | these counts instead of the true ones; `input` is the whole prompt, `output` includes reasoning |
//! | `total=N` | the total that the provider claims, where it claims one |
//! | `refuse_stream_options` | 400 that names `stream_options` when the request has it |
//! | `error_after=N` | after N events of a stream an error event, then the end; still 200 |
//! | `no_done` | the terminal event is left out; the body ends cleanly |
//! | `crlf` | events end their lines in CR LF |
//! | `comments` | a comment stands before each event |
//! | `gzip` `deflate` `br` `zstd` | the body is so encoded, flushed a piece |
//! | `chunks=N` | the body is sent in pieces of N bytes; otherwise an event is a piece |
//! | `chunked` | a whole answer does not declare its length |
//! | `delay_ms=N` | a pause before each piece |
//! | `hold=NAME` | stalls until NAME is released: before the head, or where a `stall_…` says |
//! | `stall_after=N` | stalls after N pieces; under the name `stall` where `hold` gives no other |
//! | `stall_before_last` | stalls before the last piece |
//! | `cut` | closes the connection unanswered |
//! | `cut_after=N` `cut_after_bytes=N` | closes the connection after N pieces, N bytes of body |
//! | `reset` | closes by a TCP reset: with a `cut…` there, alone unanswered |
//! | `trailers` | the trailer `x-fake-trailer: end` follows the body |
//! | `close` | the answer says `connection: close` (HTTP/1) |
//!
//! To a WebSocket the fake says `hello`, then echoes each message; `bye` is answered by a close frame. There `stall_after`
//! and `cut_after` count echoes, `reset` says how it is cut, and `status` refuses the upgrade.

use std::str::FromStr;

/// Directives of one `x-fake` header.
#[expect(clippy::struct_excessive_bools, reason = "each is a word of the header")]
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) words: Option<u64>,
    pub(crate) bytes: Option<u64>,
    pub(crate) model: Option<String>,
    pub(crate) status: Option<u16>,
    pub(crate) no_usage: bool,
    pub(crate) always_usage: bool,
    pub(crate) input: Option<u64>,
    pub(crate) cached: Option<u64>,
    pub(crate) cache_write: Option<u64>,
    pub(crate) output: Option<u64>,
    pub(crate) reasoning: Option<u64>,
    pub(crate) total: Option<u64>,
    pub(crate) refuse_stream_options: bool,
    pub(crate) error_after: Option<u64>,
    pub(crate) no_done: bool,
    pub(crate) crlf: bool,
    pub(crate) comments: bool,
    pub(crate) encoding: Option<Encoding>,
    pub(crate) chunks: Option<usize>,
    pub(crate) chunked: bool,
    pub(crate) delay_ms: u64,
    pub(crate) hold: Option<String>,
    pub(crate) stall_after: Option<u64>,
    pub(crate) stall_before_last: bool,
    pub(crate) cut: bool,
    pub(crate) cut_after: Option<u64>,
    pub(crate) cut_after_bytes: Option<u64>,
    pub(crate) reset: bool,
    pub(crate) trailers: bool,
    pub(crate) close: bool,
}

/// A content coding that the fake can apply.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Encoding {
    Brotli,
    Deflate,
    Gzip,
    Zstd,
}

impl Encoding {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Deflate => "deflate",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

impl Script {
    /// Whether the connection closes before any head.
    pub(crate) fn hangs_up_unanswered(&self) -> bool {
        let later = self.cut_after.is_some() || self.cut_after_bytes.is_some();
        self.cut || (self.reset && !later)
    }

    /// The name to release before the head, if it stalls there.
    pub(crate) fn hold_before_head(&self) -> Option<&str> {
        if self.stall_after.is_some() || self.stall_before_last { None } else { self.hold.as_deref() }
    }

    /// The name to release within the body.
    pub(crate) fn hold_in_body(&self) -> &str {
        self.hold.as_deref().unwrap_or("stall")
    }
}

impl FromStr for Script {
    type Err = String;

    fn from_str(header: &str) -> Result<Self, String> {
        let mut script = Self::default();
        for directive in header.split(';').map(str::trim).filter(|directive| !directive.is_empty()) {
            let (word, value) = directive.split_once('=').unwrap_or((directive, ""));
            let number = || value.parse::<u64>().map_err(|_| format!("x-fake: `{directive}` needs a number"));
            match word {
                "words" => script.words = Some(number()?),
                "bytes" => script.bytes = Some(number()?),
                "model" => script.model = Some(value.to_owned()),
                "status" => script.status = u16::try_from(number()?).ok(),
                "no_usage" => script.no_usage = true,
                "always_usage" => script.always_usage = true,
                "input" => script.input = Some(number()?),
                "cached" => script.cached = Some(number()?),
                "cache_write" => script.cache_write = Some(number()?),
                "output" => script.output = Some(number()?),
                "reasoning" => script.reasoning = Some(number()?),
                "total" => script.total = Some(number()?),
                "refuse_stream_options" => script.refuse_stream_options = true,
                "error_after" => script.error_after = Some(number()?),
                "no_done" => script.no_done = true,
                "crlf" => script.crlf = true,
                "comments" => script.comments = true,
                "br" => script.encoding = Some(Encoding::Brotli),
                "deflate" => script.encoding = Some(Encoding::Deflate),
                "gzip" => script.encoding = Some(Encoding::Gzip),
                "zstd" => script.encoding = Some(Encoding::Zstd),
                "chunks" => script.chunks = usize::try_from(number()?.max(1)).ok(),
                "chunked" => script.chunked = true,
                "delay_ms" => script.delay_ms = number()?,
                "hold" => script.hold = Some(value.to_owned()),
                "stall_after" => script.stall_after = Some(number()?),
                "stall_before_last" => script.stall_before_last = true,
                "cut" => script.cut = true,
                "cut_after" => script.cut_after = Some(number()?),
                "cut_after_bytes" => script.cut_after_bytes = Some(number()?),
                "reset" => script.reset = true,
                "trailers" => script.trailers = true,
                "close" => script.close = true,
                _ => return Err(format!("x-fake: unknown directive `{directive}`")),
            }
        }
        Ok(script)
    }
}
