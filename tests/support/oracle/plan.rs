//! Plan: all that is decided of a call before it is made, by a seed and the call's number (its nonce).

use std::time::Duration;

use crate::machine::Dice;

/// Which calls there are. Two runs with the same mix make the same calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    pub(crate) seed: u64,
    /// Answers that the oracle spoils.
    pub(crate) faulted_percent: u64,
    /// Answers whose head and events take their time, so that much is in flight at once.
    pub(crate) slow_percent: u64,
    /// Clients that leave before the end.
    pub(crate) leaving_percent: u64,
}

/// How an API family asks and answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Api {
    /// `OpenAI`'s chat completions.
    Chat,
    /// `OpenAI`'s Responses.
    Responses,
    /// Anthropic's Messages.
    Messages,
    /// Gemini's `generateContent`.
    Generate,
}

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) nonce: u64,
    pub(crate) api: Api,
    pub(crate) is_stream: bool,
    /// The client itself asks for a chat stream's usage; else tokenmeter does, and takes it out again.
    pub(crate) asks_usage: bool,
    /// Every chunk of a chat stream that has usage at all has the usage so far, as vLLM's have.
    pub(crate) is_continuous: bool,
    pub(crate) prompt_words: u64,
    /// Words of the answer: a token each, and an event each of a stream.
    pub(crate) words: u64,
    /// Of the prompt, what the oracle says was cached.
    pub(crate) cache_read: u64,
    pub(crate) cache_write: u64,
    /// Tokens of the output that are not shown.
    pub(crate) reasoning: u64,
    pub(crate) fault: Fault,
    /// Before the head, and between two events.
    pub(crate) pause: Option<Duration>,
    pub(crate) manners: Manners,
}

/// How the oracle spoils an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    None,
    /// Another status than 200.
    Status(u16, Option<&'static str>),
    /// The connection breaks before the head.
    NoHead(Break),
    /// The connection breaks when so much of the body was written.
    Cut(Place, Break),
    /// The same after a silence.
    Stall(Place, Break),
    /// Whole, but for its usage.
    NoUsage,
    /// A stream whose last event is an error; a whole answer has no fault.
    ErrorEvent(Place),
}

/// A place in an answer's body, in per mille of it; rounded down to whole events, or not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    pub(crate) permille: u64,
    pub(crate) is_between_events: bool,
}

/// How a connection ends too early.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Break {
    Close,
    Reset,
}

/// A client's own end of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Manners {
    /// Reads to the end.
    Patient,
    /// Leaves when it has so many bytes of the body.
    LeavesAfterBytes(u64),
    /// Leaves when no head came for so long.
    LeavesIn(Duration),
}

/// Statuses of the oracle. tokenmeter's own, 502 and 504, are not among them, so that nobody takes one for the other.
const STATUSES: [u16; 5] = [400, 429, 500, 503, 529];

/// What providers and others have put there.
const RETRY_AFTERS: [Option<&str>; 6] = [
    None,
    Some("2"),
    Some("Fri, 31 Dec 2038 23:59:59 GMT"),
    Some("-1"),
    Some("99999999999999999999"),
    Some("0.25, soon"),
];

impl Mix {
    /// Some faults, some haste.
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, faulted_percent: 30, slow_percent: 10, leaving_percent: 5 }
    }

    /// The call of that number.
    pub(crate) fn call(&self, nonce: u64) -> Plan {
        let mut dice = Dice::new(self.seed.wrapping_mul(0x2545_F491_4F6C_DD1D).wrapping_add(nonce));
        let api = *dice.one_of(&[Api::Chat, Api::Chat, Api::Responses, Api::Messages, Api::Generate]);
        let is_stream = dice.below(10) < 6;
        let prompt_words = 40 + dice.below(80);
        let cached = dice.below(3) * (prompt_words / 4);
        let (cache_read, cache_write) = if dice.once_in(2) { (cached, 0) } else { (cached / 2, cached - cached / 2) };
        let fault = if dice.below(100) < self.faulted_percent { Fault::some(&mut dice) } else { Fault::None };
        let is_told = !matches!(fault, Fault::Cut(..) | Fault::Stall(..) | Fault::NoUsage | Fault::ErrorEvent(_));
        let pause = (dice.below(100) < self.slow_percent).then(|| Duration::from_millis(1 + dice.below(6)));
        let manners = match dice.below(100) < self.leaving_percent {
            true if dice.once_in(2) => Manners::LeavesAfterBytes(dice.below(1_500)),
            true => Manners::LeavesIn(Duration::from_millis(1 + dice.below(12))),
            false => Manners::Patient,
        };
        Plan {
            nonce,
            api,
            is_stream,
            asks_usage: dice.once_in(2),
            is_continuous: dice.once_in(4),
            prompt_words,
            words: 1 + dice.below(24),
            cache_read,
            // Gemini knows none, others tell it where there is some.
            cache_write: if api == Api::Generate { 0 } else { cache_write },
            // What is hidden and not told nobody can count: only Gemini tells it early.
            reasoning: if (is_told || api == Api::Generate) && api != Api::Messages { dice.below(50) } else { 0 },
            fault,
            pause,
            manners,
        }
    }
}

impl Fault {
    fn some(dice: &mut Dice) -> Self {
        let end = if dice.once_in(2) { Break::Reset } else { Break::Close };
        let place = Place { permille: dice.below(1_000), is_between_events: dice.once_in(2) };
        match dice.below(10) {
            0..=2 => Self::Status(*dice.one_of(&STATUSES), *dice.one_of(&RETRY_AFTERS)),
            3 => Self::NoHead(end),
            4..=5 => Self::Cut(place, end),
            6 => Self::Stall(place, end),
            7..=8 => Self::NoUsage,
            _ => Self::ErrorEvent(place),
        }
    }
}

impl Plan {
    /// The upstream's name, then the provider's path.
    pub(crate) fn path(&self) -> &'static str {
        match self.api {
            Api::Chat => "/openai/v1/chat/completions",
            Api::Responses => "/openai/v1/responses",
            Api::Messages => "/anthropic/v1/messages",
            Api::Generate if self.is_stream => "/gemini/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
            Api::Generate => "/gemini/v1beta/models/gemini-2.5-flash:generateContent",
        }
    }

    /// The request's body. The nonce is the last thing in the prompt.
    pub(crate) fn request(&self) -> String {
        let prompt = self.prompt();
        let stream = if self.is_stream { r#","stream":true"# } else { "" };
        match self.api {
            Api::Chat => {
                let asks = self.is_stream && self.asks_usage;
                let usage = if asks { r#","stream_options":{"include_usage":true}"# } else { "" };
                let messages = format!(r#"[{{"role":"user","content":"{prompt}"}}]"#);
                format!(r#"{{"model":"gpt-4o-mini","messages":{messages}{stream}{usage}}}"#)
            }
            Api::Responses => format!(r#"{{"model":"gpt-4o-mini","input":"{prompt}"{stream}}}"#),
            Api::Messages => {
                let messages = format!(r#"[{{"role":"user","content":"{prompt}"}}]"#);
                format!(r#"{{"model":"claude-sonnet-4-5","max_tokens":1000,"messages":{messages}{stream}}}"#)
            }
            Api::Generate => format!(r#"{{"contents":[{{"role":"user","parts":[{{"text":"{prompt}"}}]}}]}}"#),
        }
    }

    fn prompt(&self) -> String {
        let mut prompt = format!("{PROMPT_CANARY} says:");
        for at in 0..self.prompt_words {
            prompt.push(' ');
            prompt.push_str(word(self.nonce, at));
        }
        format!("{prompt} {NONCE}{}.", self.nonce)
    }

    /// The answer's word at a place, with the space in front of it that it has.
    pub(crate) fn word(&self, at: u64) -> String {
        match at {
            0 => word(self.nonce, self.prompt_words).to_owned(),
            _ => format!(" {}", word(self.nonce, self.prompt_words + at)),
        }
    }

    /// Tokens of the prompt, as the oracle counts: `OpenAI`'s models a token a word and what is documented of the form
    /// around it, others a quarter more.
    pub(crate) fn prompt_tokens(&self) -> u64 {
        let own = self.prompt_words + 16;
        match self.api {
            Api::Chat | Api::Responses => own,
            Api::Messages | Api::Generate => own + own / 4,
        }
    }

    /// The model that answers.
    pub(crate) fn model(&self) -> &'static str {
        match self.api {
            Api::Chat | Api::Responses => "gpt-4o-mini-2024-07-18",
            Api::Messages => "claude-sonnet-4-5-20250929",
            Api::Generate => "gemini-2.5-flash",
        }
    }
}

/// In every prompt, and nowhere else.
pub(crate) const PROMPT_CANARY: &str = "canary-of-the-prompt-7e1d";

/// In front of the nonce.
pub(crate) const NONCE: &str = "number ";

/// The nonce of a request that holds one whole.
pub(crate) fn nonce_of(body: &[u8]) -> Option<u64> {
    let at = memchr::memmem::rfind(body, NONCE.as_bytes())? + NONCE.len();
    let digits = body.get(at..)?;
    let end = digits.iter().position(|byte| *byte == b'.')?;
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// Words that are a token each, for every tokenizer that matters.
const WORDS: [&str; 64] = [
    "the", "of", "and", "to", "in", "for", "is", "on", "that", "by", "this", "with", "you", "it", "not", "or", "be",
    "are", "from", "at", "as", "your", "all", "have", "new", "more", "an", "was", "we", "will", "home", "can", "us",
    "about", "if", "page", "my", "has", "search", "free", "but", "our", "one", "other", "do", "no", "time", "they",
    "site", "he", "up", "may", "what", "which", "their", "news", "out", "use", "any", "there", "see", "only", "so",
    "his",
];

fn word(nonce: u64, at: u64) -> &'static str {
    let mixed = nonce.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(at.wrapping_mul(0xD129_42F4));
    WORDS[usize::try_from(mixed >> 29).unwrap_or(0) % WORDS.len()]
}
