//! Answer: status, headers and the pieces of a body, before the script decides how they are sent.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

use super::promise::{Promise, bulk_text};
use super::script::Script;

/// A body, made as it is sent.
pub(crate) type Pieces = Box<dyn Iterator<Item = Bytes> + Send>;

/// Where the text of an answer goes that is too large to be held.
const BULK_MARK: &str = "(bulk)";

/// What is answered.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) pieces: Pieces,
    /// The body's length, where the answer declares it.
    pub(crate) length: Option<u64>,
}

/// An answer made by the test.
#[derive(Clone, Debug)]
pub(crate) struct Canned {
    pub(crate) status: u16,
    /// A `content-length` that is the chunks' is kept; without one the body is sent chunked.
    pub(crate) headers: Vec<(String, String)>,
    /// Sent one by one.
    pub(crate) chunks: Vec<Bytes>,
}

impl Answer {
    /// A whole JSON answer.
    pub(crate) fn json(status: StatusCode, value: &Value) -> Self {
        let body = Bytes::from(value.to_string());
        let length = u64::try_from(body.len()).ok();
        Self { status, headers: headers("application/json"), pieces: super::once(body), length }
    }

    /// A whole JSON answer around the promised text, which `with_text` puts into it.
    pub(crate) fn json_with_text(promise: &Promise, with_text: impl Fn(&str) -> Value) -> Self {
        if promise.bulk == 0 {
            return Self::json(StatusCode::OK, &with_text(&promise.text));
        }
        let body = with_text(BULK_MARK).to_string();
        let (before, after) = body.split_once(BULK_MARK).unwrap_or((&body, ""));
        let (before, text, after) =
            (Bytes::from(before.to_owned()), Bytes::from(bulk_text()), Bytes::from(after.to_owned()));
        let length = text
            .len()
            .checked_mul(promise.bulk)
            .and_then(|text| text.checked_add(before.len())?.checked_add(after.len()));
        let text = std::iter::repeat_n(text, promise.bulk);
        Self {
            status: StatusCode::OK,
            headers: headers("application/json"),
            pieces: Box::new(std::iter::once(before).chain(text).chain(std::iter::once(after))),
            length: length.and_then(|length| u64::try_from(length).ok()),
        }
    }

    /// A stream of server-sent events. `failure` is the event that the script may ask for instead of the rest.
    pub(crate) fn sse(script: &Script, events: Pieces, failure: Bytes) -> Self {
        let mut answer = Self::stream("text/event-stream; charset=utf-8", script, events, failure);
        answer.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        answer
    }

    /// A stream in another framing.
    pub(crate) fn stream(content_type: &'static str, script: &Script, events: Pieces, failure: Bytes) -> Self {
        let pieces: Pieces = match script.error_after.and_then(|count| usize::try_from(count).ok()) {
            Some(count) => Box::new(events.take(count).chain(std::iter::once(failure))),
            None => events,
        };
        Self { status: StatusCode::OK, headers: headers(content_type), pieces, length: None }
    }

    /// An error, not to be tried again.
    pub(crate) fn error(status: u16, value: &Value) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut answer = Self::json(status, value);
        answer.headers.insert("x-should-retry", HeaderValue::from_static("false"));
        if status == StatusCode::TOO_MANY_REQUESTS {
            answer.headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}

impl From<Canned> for Answer {
    fn from(canned: Canned) -> Self {
        let mut headers = HeaderMap::new();
        for (name, value) in &canned.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value.as_bytes())) {
                headers.append(name, value);
            }
        }
        let actual = canned.chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        let declared = headers.remove(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        headers.remove(TRANSFER_ENCODING);
        headers.remove(CONNECTION);
        Self {
            status: StatusCode::from_u16(canned.status).unwrap_or(StatusCode::OK),
            headers,
            pieces: Box::new(canned.chunks.into_iter()),
            length: declared.filter(|declared| *declared == actual),
        }
    }
}

/// One server-sent event.
pub(crate) fn event(script: &Script, name: Option<&str>, data: &str) -> Bytes {
    let end = if script.crlf { "\r\n" } else { "\n" };
    let comment = if script.comments { format!(": still here{end}{end}") } else { String::new() };
    let name = name.map(|name| format!("event: {name}{end}")).unwrap_or_default();
    Bytes::from(format!("{comment}{name}data: {data}{end}{end}"))
}

fn headers(content_type: &'static str) -> HeaderMap {
    HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (HeaderName::from_static("x-request-id"), HeaderValue::from_static("req_fake")),
    ])
}
