//! Reply: what tokenmeter answers itself, always in the provider's own error shape.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderName, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::gather::Gather;
use super::tap::Tap;
use crate::attribution;
use crate::ids::RecordId;
use crate::wires::Wire;

/// Tells the client its record.
pub(crate) const RECORD_HEADER: HeaderName = HeaderName::from_static("x-tokenmeter-record");

/// Why tokenmeter refuses a call before it costs anything. The names are `reason` labels.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refused {
    UnknownRoute,
    Attribution(attribution::Refusal),
    NoCredential,
    Unmetered,
    Journal,
    Body,
    BodyIdle,
    BodyTooLarge,
}

impl Refused {
    /// The `reason` label and tokenmeter's error code.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownRoute => "unknown_route",
            Self::Attribution(refusal) => refusal.code(),
            Self::NoCredential => "no_credential",
            Self::Unmetered => "unmetered",
            Self::Journal => "journal",
            Self::Body => "body",
            Self::BodyIdle => "body_idle",
            Self::BodyTooLarge => "body_too_large",
        }
    }

    /// Every reason, for the metrics to show at 0.
    pub(crate) fn reasons() -> Vec<&'static str> {
        [
            Self::UnknownRoute,
            Self::NoCredential,
            Self::Unmetered,
            Self::Journal,
            Self::Body,
            Self::BodyIdle,
            Self::BodyTooLarge,
        ]
        .into_iter()
        .chain(attribution::Refusal::ALL.map(Self::Attribution))
        .map(Self::as_str)
        .collect()
    }

    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::UnknownRoute => StatusCode::NOT_FOUND,
            Self::Attribution(_) | Self::NoCredential => StatusCode::UNAUTHORIZED,
            Self::Unmetered => StatusCode::FORBIDDEN,
            Self::Journal => StatusCode::SERVICE_UNAVAILABLE,
            Self::Body => StatusCode::BAD_REQUEST,
            Self::BodyIdle => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }
}

/// A refusal with `message` for the client.
pub(crate) fn refuse(wire: &dyn Wire, refused: Refused, message: &str) -> Response<ReplyBody> {
    let mut response = error(wire, refused.status(), refused.as_str(), message);
    if refused.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// The answer to a call that was made and failed on the way: `status` is 502 or 504.
pub(crate) fn failed(
    wire: &dyn Wire,
    status: StatusCode,
    code: &str,
    message: &str,
    record: Option<RecordId>,
) -> Response<ReplyBody> {
    let mut response = error(wire, status, code, message);
    tell_record(&mut response, record);
    response
}

/// Puts the record's id into an answer's head.
pub(crate) fn tell_record<B>(response: &mut Response<B>, record: Option<RecordId>) {
    if let Some(value) = record.and_then(|id| HeaderValue::from_str(&id.to_string()).ok()) {
        response.headers_mut().insert(RECORD_HEADER, value);
    }
}

fn error(wire: &dyn Wire, status: StatusCode, code: &str, message: &str) -> Response<ReplyBody> {
    let body = wire.error_body(status.as_u16(), code, message);
    let mut response = Response::new(ReplyBody::Whole(Some(Bytes::from(body))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The body of an answer: an upstream's, or our own words.
pub(crate) enum ReplyBody {
    /// An upstream's answer on its way through.
    Passing(Box<Gather<Tap>>),
    /// Our own.
    Whole(Option<Bytes>),
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = super::tap::BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Passing(body) => Pin::new(&mut **body).poll_frame(context),
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Passing(body) => body.is_end_stream(),
            Self::Whole(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Passing(body) => body.size_hint(),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
        }
    }
}
