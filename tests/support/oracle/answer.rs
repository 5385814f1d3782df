//! Answer: the bytes of an answer, and what is known of the call's consumption after each of its pieces.

use super::plan::{Api, Fault, Place, Plan};

/// In every answer that has text, and nowhere else.
pub(crate) const ANSWER_CANARY: &str = "canary-of-the-answer-c40b";

/// An answer as the oracle would write it if nothing cut it.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) retry_after: Option<&'static str>,
    /// One of a whole answer, one an event of a stream.
    pub(crate) pieces: Vec<Piece>,
    /// A stream that says it is over; else the body's end is the answer's.
    pub(crate) has_terminal: bool,
    /// It says that it failed.
    pub(crate) is_error: bool,
}

/// A part of the body that is written at once.
#[derive(Default)]
pub(crate) struct Piece {
    pub(crate) text: String,
    /// Usage that it tells.
    pub(crate) told: Option<Told>,
    /// Tokens that a reader can know of by its end: prompt and words, or what was told.
    pub(crate) countable: u64,
    /// It is there only because usage was asked for.
    pub(crate) is_asked_usage: bool,
}

/// Usage as the provider tells it, and as the ledger must have it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    /// The provider's object; of several, what they come to together.
    pub(crate) raw: String,
    pub(crate) tokens: Vec<(&'static str, u64)>,
    /// It is the last word.
    pub(crate) is_final: bool,
}

impl Answer {
    /// The answer to `plan`; `is_usage_asked` as the request that came says.
    pub(crate) fn of(plan: &Plan, is_usage_asked: bool) -> Self {
        if let Fault::Status(status, retry_after) = plan.fault {
            let piece = Piece { text: error(plan, status), ..Piece::default() };
            let content_type = "application/json";
            let pieces = vec![piece];
            return Self { status, content_type, retry_after, pieces, has_terminal: false, is_error: true };
        }
        let mut script = Script { plan, tells: plan.fault != Fault::NoUsage, pieces: Vec::new() };
        if plan.is_stream {
            match plan.api {
                Api::Chat => script.chat(is_usage_asked),
                Api::Responses => script.responses(),
                Api::Messages => script.messages(),
                Api::Generate => script.generate(),
            }
        } else {
            script.whole();
        }
        let mut pieces = script.pieces;
        let fails = plan.is_stream && matches!(plan.fault, Fault::ErrorEvent(_));
        if let (true, Fault::ErrorEvent(place)) = (fails, plan.fault) {
            let place = Place { is_between_events: true, ..place };
            let end = offset(&pieces, place);
            let mut length = 0;
            pieces.retain(|piece| {
                length += piece.text.len() as u64;
                length <= end
            });
            let countable = pieces.last().map_or(plan.prompt_tokens(), |piece| piece.countable);
            pieces.push(Piece { text: error_event(plan), countable, ..Piece::default() });
        }
        Self {
            status: 200,
            content_type: if plan.is_stream { "text/event-stream" } else { "application/json" },
            retry_after: None,
            pieces,
            has_terminal: plan.is_stream && plan.api != Api::Generate && !fails,
            is_error: fails,
        }
    }

    /// Bytes of the whole body.
    pub(crate) fn length(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.text.len() as u64).sum()
    }

    /// Where `plan` cuts it: after so many bytes.
    pub(crate) fn cut(&self, plan: &Plan) -> Option<u64> {
        match plan.fault {
            Fault::Cut(place, _) | Fault::Stall(place, _) => Some(offset(&self.pieces, place)),
            Fault::None | Fault::Status(..) | Fault::NoHead(_) | Fault::NoUsage | Fault::ErrorEvent(_) => None,
        }
    }
}

/// So many bytes into the body.
fn offset(pieces: &[Piece], place: Place) -> u64 {
    let whole: u64 = pieces.iter().map(|piece| piece.text.len() as u64).sum();
    let wanted = whole * place.permille / 1_000;
    if !place.is_between_events {
        return wanted;
    }
    let mut end = 0;
    for piece in pieces {
        let next = end + piece.text.len() as u64;
        if next > wanted {
            break;
        }
        end = next;
    }
    end
}

/// Writes the pieces of an answer.
struct Script<'a> {
    plan: &'a Plan,
    /// Usage is told at all.
    tells: bool,
    pieces: Vec<Piece>,
}

impl Script<'_> {
    /// Adds a piece after which `words` of the answer are said.
    fn piece(&mut self, text: String, words: u64, told: Option<Told>) {
        let told = told.filter(|_| self.tells);
        let seen = self.plan.prompt_tokens() + words;
        // What was told of the input alone leaves the output to be counted.
        let total = |told: &Told| {
            let has_output = told.tokens.iter().any(|(name, _)| *name == "output");
            has_output
                .then(|| told.tokens.iter().filter(|(name, _)| *name != "reasoning").map(|(_, count)| count).sum())
        };
        let before = self.pieces.last().map_or(0, |piece| piece.countable);
        let countable = told.as_ref().and_then(total).unwrap_or(seen).max(before);
        self.pieces.push(Piece { text, told, countable, is_asked_usage: false });
    }

    /// All the answer's text, canary included.
    fn text(&self) -> String {
        let mut text = (0..self.plan.words).map(|at| self.plan.word(at)).collect::<String>();
        text.push_str(&tail());
        text
    }

    fn whole(&mut self) {
        let plan = self.plan;
        let Plan { nonce, words, .. } = *plan;
        let (model, text) = (plan.model(), self.text());
        let told = Told::last(plan);
        let usage = |name: &str| if self.tells { format!(r#","{name}":{}"#, told.raw) } else { String::new() };
        let whole = match plan.api {
            Api::Chat => format!(
                r#"{{"id":"chatcmpl-{nonce}","object":"chat.completion","created":1767225600,"model":"{model}","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}","refusal":null}},"logprobs":null,"finish_reason":"stop"}}]{}}}"#,
                usage("usage")
            ),
            Api::Responses => format!(
                r#"{{"id":"resp_{nonce}","object":"response","created_at":1767225600,"status":"completed","error":null,"model":"{model}","output":[{}]{}}}"#,
                output_message(nonce, &text),
                usage("usage")
            ),
            Api::Messages => format!(
                r#"{{"id":"msg_{nonce}","type":"message","role":"assistant","model":"{model}","content":[{{"type":"text","text":"{text}"}}],"stop_reason":"end_turn","stop_sequence":null{}}}"#,
                usage("usage")
            ),
            Api::Generate => format!(
                r#"{{"candidates":[{{"content":{{"parts":[{{"text":"{text}"}}],"role":"model"}},"finishReason":"STOP","index":0}}]{},"modelVersion":"{model}","responseId":"{nonce}"}}"#,
                usage("usageMetadata")
            ),
        };
        self.piece(whole, words + TAIL_TOKENS, Some(told));
    }

    /// The words of the answer, then its canary: each `write`s itself into a piece.
    fn say(&mut self, write: impl Fn(&str, u64) -> (String, Option<Told>)) {
        for at in 0..self.plan.words {
            let (text, told) = write(&self.plan.word(at), at + 1);
            self.piece(text, at + 1, told);
        }
        let said = self.plan.words + TAIL_TOKENS;
        let (text, told) = write(&tail(), said);
        self.piece(text, said, told);
    }

    fn chat(&mut self, is_usage_asked: bool) {
        let plan = self.plan;
        let tells = is_usage_asked && self.tells;
        let is_continuous = plan.is_continuous && tells;
        let chunk = |choices: &str, usage: Option<&Told>| {
            let (nonce, model) = (plan.nonce, plan.model());
            let mut chunk = format!(
                r#"data: {{"id":"chatcmpl-{nonce}","object":"chat.completion.chunk","created":1767225600,"model":"{model}","choices":[{choices}]"#
            );
            if tells {
                let usage = usage.map_or("null", |told| told.raw.as_str());
                chunk.push_str(r#","usage":"#);
                chunk.push_str(usage);
            }
            chunk.push_str("}\n\n");
            chunk
        };
        let first = r#"{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}"#;
        self.piece(chunk(first, None), 0, None);
        self.say(|text, said| {
            let told = is_continuous.then(|| Told::so_far(plan, said));
            let choice =
                format!(r#"{{"index":0,"delta":{{"content":"{text}"}},"logprobs":null,"finish_reason":null}}"#);
            (chunk(&choice, told.as_ref()), told)
        });
        let said = plan.words + TAIL_TOKENS;
        // With its choice's end the usage so far is the last word.
        let told = is_continuous.then(|| Told::last(plan));
        let last = chunk(r#"{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}"#, told.as_ref());
        self.piece(last, said, told);
        if tells {
            let told = Told::last(plan);
            self.piece(chunk("", Some(&told)), said, Some(told));
            self.pieces.last_mut().unwrap().is_asked_usage = true;
        }
        self.piece("data: [DONE]\n\n".to_owned(), said, None);
    }

    fn responses(&mut self) {
        let plan = self.plan;
        let nonce = plan.nonce;
        let response = |status: &str, rest: &str| {
            let model = plan.model();
            format!(
                r#""response":{{"id":"resp_{nonce}","object":"response","created_at":1767225600,"status":"{status}","error":null,"model":"{model}"{rest}}}"#
            )
        };
        let event = |kind: &str, rest: &str| format!("event: {kind}\ndata: {{\"type\":\"{kind}\",{rest}}}\n\n");
        for kind in ["response.created", "response.in_progress"] {
            let text = event(kind, &response("in_progress", r#","output":[],"usage":null"#));
            self.piece(text, 0, None);
        }
        self.say(|text, said| {
            let rest = format!(r#""sequence_number":{said},"item_id":"msg_{nonce}","output_index":0,"content_index":0,"delta":"{text}""#);
            (event("response.output_text.delta", &rest), None)
        });
        let told = Told::last(plan);
        let usage = if self.tells { told.raw.as_str() } else { "null" };
        let rest = format!(r#","output":[{}],"usage":{usage}"#, output_message(nonce, &self.text()));
        let last = event("response.completed", &response("completed", &rest));
        self.piece(last, plan.words + TAIL_TOKENS, Some(told));
    }

    fn messages(&mut self) {
        let plan = self.plan;
        let event = |kind: &str, rest: &str| format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{rest}}}\n\n");
        let begun = Told::begun(plan);
        let usage = if self.tells { format!(r#","usage":{}"#, begun.raw) } else { String::new() };
        let message = format!(
            r#","message":{{"id":"msg_{}","type":"message","role":"assistant","model":"{}","content":[],"stop_reason":null,"stop_sequence":null{usage}}}"#,
            plan.nonce,
            plan.model()
        );
        self.piece(event("message_start", &message), 0, Some(begun));
        let block = r#","index":0,"content_block":{"type":"text","text":""}"#;
        self.piece(event("content_block_start", block), 0, None);
        self.piece(event("ping", ""), 0, None);
        self.say(|text, _| {
            let rest = format!(r#","index":0,"delta":{{"type":"text_delta","text":"{text}"}}"#);
            (event("content_block_delta", &rest), None)
        });
        let said = plan.words + TAIL_TOKENS;
        self.piece(event("content_block_stop", r#","index":0"#), said, None);
        let told = Told::last(plan);
        let output = plan.output(said);
        let usage = if self.tells { format!(r#","usage":{{"output_tokens":{output}}}"#) } else { String::new() };
        let rest = format!(r#","delta":{{"stop_reason":"end_turn","stop_sequence":null}}{usage}"#);
        self.piece(event("message_delta", &rest), said, Some(told));
        self.piece(event("message_stop", ""), said, None);
    }

    fn generate(&mut self) {
        let plan = self.plan;
        let tells = self.tells;
        let chunk = |text: &str, finish: &str, told: &Told| {
            let usage = if tells { format!(r#","usageMetadata":{}"#, told.raw) } else { String::new() };
            format!(
                "data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"{text}\"}}],\"role\":\"model\"}}{finish},\"index\":0}}]{usage},\"modelVersion\":\"{}\",\"responseId\":\"{}\"}}\r\n\r\n",
                plan.model(),
                plan.nonce
            )
        };
        self.say(|text, said| {
            let told = Told::so_far(plan, said);
            (chunk(text, "", &told), Some(told))
        });
        let told = Told::last(plan);
        let last = chunk("", r#","finishReason":"STOP""#, &told);
        self.piece(last, plan.words + TAIL_TOKENS, Some(told));
    }
}

/// About what the canary costs, which every answer ends in.
const TAIL_TOKENS: u64 = 10;

fn tail() -> String {
    format!(" {ANSWER_CANARY}")
}

impl Plan {
    /// Tokens that were generated when `said` were shown.
    fn output(&self, said: u64) -> u64 {
        said + self.reasoning
    }
}

impl Told {
    /// The last word.
    fn last(plan: &Plan) -> Self {
        Self { is_final: true, ..Self::so_far(plan, plan.words + TAIL_TOKENS) }
    }

    /// What Anthropic tells first: the input.
    fn begun(plan: &Plan) -> Self {
        let Plan { cache_read, cache_write, .. } = *plan;
        let fresh = plan.prompt_tokens() - cache_read - cache_write;
        Self {
            raw: format!(
                r#"{{"input_tokens":{fresh},"cache_creation_input_tokens":{cache_write},"cache_read_input_tokens":{cache_read},"output_tokens":1}}"#
            ),
            tokens: vec![("input", fresh), ("cache_read", cache_read), ("cache_write", cache_write)],
            is_final: false,
        }
    }

    /// Usage when `said` tokens were shown.
    fn so_far(plan: &Plan, said: u64) -> Self {
        let Plan { cache_read, cache_write, reasoning, .. } = *plan;
        let (prompt, output) = (plan.prompt_tokens(), plan.output(said));
        let fresh = prompt - cache_read - cache_write;
        let total = prompt + output;
        let mut tokens = vec![("input", fresh), ("cache_read", cache_read), ("output", output)];
        let written = if cache_write > 0 { format!(r#","cache_write_tokens":{cache_write}"#) } else { String::new() };
        let raw = match plan.api {
            Api::Chat => format!(
                r#"{{"prompt_tokens":{prompt},"completion_tokens":{output},"total_tokens":{total},"prompt_tokens_details":{{"cached_tokens":{cache_read}{written}}},"completion_tokens_details":{{"reasoning_tokens":{reasoning}}}}}"#
            ),
            Api::Responses => format!(
                r#"{{"input_tokens":{prompt},"input_tokens_details":{{"cached_tokens":{cache_read}{written}}},"output_tokens":{output},"output_tokens_details":{{"reasoning_tokens":{reasoning}}},"total_tokens":{total}}}"#
            ),
            Api::Messages => format!(
                r#"{{"input_tokens":{fresh},"cache_creation_input_tokens":{cache_write},"cache_read_input_tokens":{cache_read},"output_tokens":{output}}}"#
            ),
            // What is zero is absent.
            Api::Generate => {
                let counts = [
                    ("promptTokenCount", prompt),
                    ("cachedContentTokenCount", cache_read),
                    ("thoughtsTokenCount", reasoning),
                    ("candidatesTokenCount", said),
                    ("totalTokenCount", total),
                ];
                let members = counts.iter().filter(|(_, count)| *count > 0);
                let members: Vec<_> = members.map(|(name, count)| format!(r#""{name}":{count}"#)).collect();
                tokens.retain(|(name, count)| *name != "cache_read" || *count > 0);
                format!("{{{}}}", members.join(","))
            }
        };
        match plan.api {
            Api::Chat | Api::Responses => {
                tokens.push(("reasoning", reasoning));
                if cache_write > 0 {
                    tokens.push(("cache_write", cache_write));
                }
            }
            Api::Messages => tokens.push(("cache_write", cache_write)),
            Api::Generate if reasoning > 0 => tokens.push(("reasoning", reasoning)),
            Api::Generate => {}
        }
        Self { raw, tokens, is_final: false }
    }
}

fn output_message(nonce: u64, text: &str) -> String {
    format!(
        r#"{{"id":"msg_{nonce}","type":"message","role":"assistant","status":"completed","content":[{{"type":"output_text","text":"{text}","annotations":[]}}]}}"#
    )
}

/// An error answer's body.
fn error(plan: &Plan, status: u16) -> String {
    let message = format!("the oracle answers {status} to {}", plan.nonce);
    match plan.api {
        Api::Chat | Api::Responses => {
            format!(r#"{{"error":{{"message":"{message}","type":"server_error","param":null,"code":null}}}}"#)
        }
        Api::Messages => format!(r#"{{"type":"error","error":{{"type":"api_error","message":"{message}"}}}}"#),
        Api::Generate => format!(r#"{{"error":{{"code":{status},"message":"{message}","status":"UNAVAILABLE"}}}}"#),
    }
}

/// The event by which a stream says that it failed.
fn error_event(plan: &Plan) -> String {
    match plan.api {
        Api::Chat => format!("data: {}\n\n", error(plan, 500)),
        Api::Responses => {
            "event: error\ndata: {\"type\":\"error\",\"code\":\"server_error\",\"message\":\"failed\",\"param\":null}\n\n"
                .to_owned()
        }
        Api::Messages => format!("event: error\ndata: {}\n\n", error(plan, 529)),
        Api::Generate => format!("data: {}\r\n\r\n", error(plan, 503)),
    }
}
