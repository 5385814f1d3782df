//! Forward: one call, from the request's head to the answer's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Extensions, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use secrecy::{ExposeSecret as _, SecretString};

use super::asking::{self, Answer, ReadingPlan};
use super::background::Background;
use super::body::{self, Bounds, Kept, RequestError, UpstreamBody, View};
use super::reply::{self, Refused, ReplyBody};
use super::tap::{self, Tap};
use super::upstream::{Base, OnClientClose, Unmetered, Upstream};
use super::{Proxy, headers};
use crate::attribution::{self, Attributed};
use crate::ids::RecordId;
use crate::meter::{Ending, Moment, OpenCall};
use crate::operation::Operation;
use crate::record::Intent;
use crate::usage::Outcome;
use crate::wires::{self, Exchange, Wire};

/// Largest error answer that is looked into for the name of an option that the upstream does not take.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Answers one request.
pub(crate) async fn call(proxy: Arc<Proxy>, request: Request<Incoming>) -> Response<ReplyBody> {
    let began = Moment::now();
    match admit(&proxy, &request) {
        Ok(admitted) => match prepare(&proxy, began, admitted, request).await {
            Ok(prepared) => exchange(&proxy, prepared).await,
            Err(refusal) => refuse(&proxy, &refusal),
        },
        Err(refusal) => refuse(&proxy, &refusal),
    }
}

struct Refusal {
    wire: &'static dyn Wire,
    reason: Refused,
    message: String,
}

fn refuse(proxy: &Proxy, refusal: &Refusal) -> Response<ReplyBody> {
    proxy.metrics.refused(refusal.reason.as_str());
    reply::refuse(refusal.wire, refusal.reason, &refusal.message)
}

/// Where a request goes and who pays for it.
struct Admitted {
    upstream: Arc<Upstream>,
    wire: &'static dyn Wire,
    operation: Operation,
    model_in_path: Option<String>,
    stream_in_path: Option<bool>,
    path_start: usize,
    attributed: Attributed,
}

/// Routes a request and finds out who pays, without touching its body.
fn admit(proxy: &Proxy, request: &Request<Incoming>) -> Result<Admitted, Refusal> {
    let path = request.uri().path();
    let Some((upstream, path_start)) = proxy.routes.find(path) else {
        let message = format!(
            "no upstream for this path: begin it with the name of one ({}), or with a path of their APIs such as /v1/chat/completions",
            proxy.routes.names()
        );
        return Err(Refusal { wire: proxy.default_wire, reason: Refused::UnknownRoute, message });
    };
    let rest = path.get(path_start..).filter(|rest| !rest.is_empty()).unwrap_or("/");
    let Exchange { wire, operation, model_in_path, stream_in_path } =
        wires::recognise(upstream.settings.wire, request.method(), rest);
    let attributed = proxy.attribution.of(request.headers(), request.uri().query()).map_err(|refusal| Refusal {
        wire,
        reason: Refused::Attribution(refusal),
        message: refusal.to_string(),
    })?;
    if attributed.key.is_some() && upstream.settings.credential.is_none() {
        let message = format!(
            "upstream `{0}` has no credential of its own to stand in for a virtual key; configure `api_key_env` for `{0}`, or send the provider's own key",
            upstream.settings.name
        );
        return Err(Refusal { wire, reason: Refused::NoCredential, message });
    }
    if operation == Operation::Other
        && upstream.settings.unmetered == Unmetered::Refuse
        && is_consumption(request.method(), operation)
    {
        let message =
            format!("`{rest}` cannot be metered, and upstream `{}` refuses what cannot", upstream.settings.name);
        return Err(Refusal { wire, reason: Refused::Unmetered, message });
    }
    Ok(Admitted {
        upstream: Arc::clone(upstream),
        wire,
        operation,
        model_in_path: model_in_path.map(str::to_owned),
        stream_in_path,
        path_start,
        attributed,
    })
}

/// Whether an exchange can cost tokens: reading and deleting what is stored does not, nor does counting.
fn is_consumption(method: &Method, operation: Operation) -> bool {
    operation != Operation::CountTokens
        && *method != Method::GET
        && *method != Method::HEAD
        && *method != Method::DELETE
        && *method != Method::OPTIONS
}

/// A request that is ready to go, and its call.
struct Prepared {
    upstream: Arc<Upstream>,
    wire: &'static dyn Wire,
    operation: Operation,
    call: OpenCall,
    intent: Intent,
    outgoing: Outgoing,
    body: UpstreamBody,
    kept: Kept,
    /// The request as the client sent it, where ours asks for usage: for asking once more without.
    unspliced: Option<(Outgoing, Vec<Bytes>)>,
}

/// The head of the upstream's request.
#[derive(Clone)]
struct Outgoing {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Outgoing {
    fn with(self, body: UpstreamBody) -> Request<UpstreamBody> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        request
    }
}

/// Looks into the body as far as needed, makes the upstream's request, and puts the intent into the journal.
async fn prepare(
    proxy: &Arc<Proxy>,
    began: Moment,
    admitted: Admitted,
    request: Request<Incoming>,
) -> Result<Prepared, Refusal> {
    let Admitted { upstream, wire, operation, model_in_path, stream_in_path, path_start, attributed } = admitted;
    let refusal = |reason, message: String| Refusal { wire, reason, message };
    let (head, body) = request.into_parts();
    let bounds = Bounds {
        view_bytes_max: proxy.settings.body_view_bytes_max,
        bytes_max: proxy.settings.body_bytes_max,
        idle_timeout: proxy.settings.body_idle_timeout,
    };
    if body.size_hint().lower() > bounds.bytes_max {
        return Err(refusal(Refused::BodyTooLarge, RequestError::TooLarge(bounds.bytes_max).to_string()));
    }
    let waited = Instant::now();
    let view = if operation != Operation::Other && is_json(&head.headers) {
        View::of(body, bounds).await.map_err(|error| refusal(Refused::Body, error.to_string()))?
    } else {
        View::unseen(body, bounds)
    };
    let waited = waited.elapsed();

    let mut headers = head.headers;
    headers::leave_connection(&mut headers);
    attribution::headers::strip(&mut headers);
    let query = head.uri.query().and_then(attribution::headers::strip_query);
    if attributed.key.is_some() {
        let style = upstream.settings.wire.credential();
        let secret = upstream.settings.credential.as_ref().map(SecretString::expose_secret).unwrap_or_default();
        let value = headers::secret_value(style.prefix, secret)
            .ok_or_else(|| refusal(Refused::NoCredential, "the upstream's credential is not a header value".into()))?;
        headers.insert(style.name, value);
    }
    let path = head.uri.path().get(path_start..).filter(|rest| !rest.is_empty()).unwrap_or("/");
    let uri = upstream_uri(&upstream.settings.base, path, query.as_deref())
        .ok_or_else(|| refusal(Refused::UnknownRoute, "the path does not make a URL of the upstream".into()))?;
    if let Some(authority) = uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        headers.insert(HOST, host);
    }

    let is_stream = stream_in_path.unwrap_or(view.is_stream);
    let model = model_in_path.or_else(|| view.model.clone());
    let spliced = (operation == Operation::Chat
        && wire.name() == "openai"
        && view.is_stream
        && upstream.adds_stream_usage(model.as_deref(), began.instant))
    .then(|| view.with_stream_usage())
    .flatten();

    let intent = Intent {
        id: RecordId::new(began.at),
        started_at: began.at,
        department: attributed.department,
        team: attributed.team,
        app: attributed.app,
        key: attributed.key,
        attributed_by: attributed.attributed_by,
        tags: attributed.tags,
        upstream: upstream.settings.name.clone(),
        wire: wire.name().to_owned(),
        provider: upstream.settings.provider.clone(),
        operation,
        model_requested: model,
        stream: is_stream,
        body_bytes: view.length(),
        is_consumption: is_consumption(&head.method, operation),
    };
    let call = open(proxy, began, &intent, wire).await?;
    proxy.metrics.overhead_seconds(began.instant.elapsed().saturating_sub(waited).as_secs_f64());

    let outgoing = Outgoing { method: head.method, uri, headers };
    let (outgoing, body, kept, unspliced) = if let Some(spliced) = spliced {
        let unspliced = view.into_slices();
        let (body, kept) = body::whole(vec![spliced], unspliced.clone());
        let again = (outgoing.clone(), unspliced);
        let mut outgoing = outgoing;
        // The extra event must be taken out again, which cannot be done inside a compressed stream.
        outgoing.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        (outgoing, body, kept, Some(again))
    } else {
        let (body, kept) = view.into_parts();
        (outgoing, body, kept, None)
    };
    Ok(Prepared { upstream, wire, operation, call, intent, outgoing, body, kept, unspliced })
}

/// Puts the intent into the journal; what cannot be recorded is refused before it costs money.
async fn open(
    proxy: &Arc<Proxy>,
    began: Moment,
    intent: &Intent,
    wire: &'static dyn Wire,
) -> Result<OpenCall, Refusal> {
    let refusal = || Refusal {
        wire,
        reason: Refused::Journal,
        message: "the call cannot be recorded at the moment, so it is not made; try again soon".into(),
    };
    let (call, appended) = proxy.meter.open(began, intent.clone(), wire).map_err(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "journal cannot record, refusing calls");
        refusal()
    })?;
    let journal = proxy.meter.journal();
    if !journal.is_synced_on_append()
        && let Err(error) = journal.synced(appended).await
    {
        tracing::error!(error = &error as &dyn std::error::Error, "journal cannot be synced, refusing calls");
        return Err(refusal());
    }
    Ok(call)
}

/// Asks the upstream; once more without `stream_options` where that is what it does not take.
async fn exchange(proxy: &Arc<Proxy>, prepared: Prepared) -> Response<ReplyBody> {
    let Prepared { upstream, wire, operation, call, intent, outgoing, body, kept, unspliced } = prepared;
    let reading = ReadingPlan {
        wire,
        operation,
        provider: intent.provider.clone(),
        is_consumption: intent.is_consumption,
        background: background_for(proxy, &upstream, intent.stream),
    };
    let is_spliced = unspliced.is_some();
    let mut answer = match asking::ask(&upstream, outgoing.with(body), call, kept, &reading).await {
        Ok(answer) => answer,
        Err(failed) => return failed.reply(&upstream, wire),
    };
    let status = answer.response.status();
    let Some((outgoing, unspliced)) = unspliced.filter(|_| status == StatusCode::BAD_REQUEST) else {
        return pass(proxy, &upstream, answer, None, &reading, is_spliced).await;
    };
    answer.call.answered(status.as_u16());
    let Some(head) = read_head_of(answer.response.body_mut(), upstream.settings.idle_timeout).await else {
        return answer.cut_off().reply(&upstream, wire);
    };
    if !names_stream_options(&head) {
        return pass(proxy, &upstream, answer, Some(head), &reading, false).await;
    }
    answer.call.close(Outcome::UpstreamError, Ending::default());
    let began = Moment::now();
    let intent = Intent { id: RecordId::new(began.at), started_at: began.at, ..intent };
    let call = match open(proxy, began, &intent, wire).await {
        Ok(call) => call,
        Err(refusal) => return refuse(proxy, &refusal),
    };
    let (body, kept) = body::whole(unspliced.clone(), unspliced);
    match asking::ask(&upstream, outgoing.with(body), call, kept, &reading).await {
        Ok(answer) => {
            if answer.response.status().is_success() {
                upstream.remember_no_stream_usage(intent.model_requested.as_deref(), began.instant);
            }
            pass(proxy, &upstream, answer, None, &reading, false).await
        }
        Err(failed) => failed.reply(&upstream, wire),
    }
}

/// What happens to the answer if its client leaves: `None` cancels it.
fn background_for(proxy: &Proxy, upstream: &Upstream, is_stream: bool) -> Option<Arc<Background>> {
    let finishes = match upstream.settings.on_client_close {
        OnClientClose::ByKind => !is_stream,
        OnClientClose::Finish => true,
        OnClientClose::Cancel => false,
    };
    finishes.then(|| Arc::clone(&proxy.background))
}

/// Up to [`ERROR_BYTES_MAX`] of an error answer, in whole frames; `None` where it broke off or fell silent.
async fn read_head_of(body: &mut Incoming, idle_timeout: Duration) -> Option<Bytes> {
    let mut head = BytesMut::new();
    while head.len() < ERROR_BYTES_MAX {
        match tokio::time::timeout(idle_timeout, body.frame()).await.ok()? {
            Some(frame) => {
                if let Ok(data) = frame.ok()?.into_data() {
                    head.extend_from_slice(&data);
                }
            }
            None => break,
        }
    }
    Some(head.freeze())
}

fn names_stream_options(error: &[u8]) -> bool {
    ["stream_options", "include_usage"].iter().any(|name| memchr::memmem::find(error, name.as_bytes()).is_some())
}

/// Passes an answer on: its head now, its body as it comes.
async fn pass(
    proxy: &Proxy,
    upstream: &Upstream,
    answer: Answer,
    head: Option<Bytes>,
    reading: &ReadingPlan,
    is_spliced: bool,
) -> Response<ReplyBody> {
    let Answer { response, mut call } = answer;
    let is_event_stream = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().to_ascii_lowercase().starts_with(b"text/event-stream"));
    let strips_usage = is_spliced && is_event_stream && !response.headers().contains_key(CONTENT_ENCODING);
    if is_spliced && is_event_stream && !strips_usage {
        tracing::warn!(
            upstream = %upstream.settings.name,
            "an upstream compresses although asked not to; its stream keeps a usage event that the client did not ask for"
        );
    }
    let record = call.id();
    let mut background = reading.background.clone();
    if is_event_stream {
        // A request too large to be looked into did not tell.
        call.streams();
        background = background_for(proxy, upstream, true);
    }
    let watch = reading.watch(&response, call);
    let (mut parts, body) = response.into_parts();
    headers::leave_upstream(&mut parts.headers);
    if strips_usage {
        parts.headers.remove(CONTENT_LENGTH);
    }
    parts.version = Version::default();
    parts.extensions = Extensions::new();
    let settings = tap::Settings {
        idle_timeout: upstream.settings.idle_timeout,
        strips_usage,
        background,
        journal: Arc::clone(proxy.meter.journal()),
    };
    let mut tap = Tap::new(head, body, watch, settings);
    if let Err(error) = tap.head_may_go().await {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "an answer without a body is held back: its record may be lost"
        );
        let message = "the call was made, but its record could not be written";
        return reply::failed(reading.wire, StatusCode::BAD_GATEWAY, "journal", message, record);
    }
    let mut response = Response::from_parts(parts, ReplyBody::Tap(Box::new(tap)));
    reply::tell_record(&mut response, record);
    response
}

/// The URL of `path` and `query` behind `base`, by plain concatenation: a path is never normalised.
fn upstream_uri(base: &Base, path: &str, query: Option<&str>) -> Option<Uri> {
    let (scheme, authority, base_path) = match base {
        Base::Url { scheme, authority, path } => (scheme.clone(), authority.clone(), path.as_str()),
        Base::Demo => (Scheme::HTTP, Authority::from_static("demo"), ""),
    };
    let mut target = String::with_capacity(base_path.len() + path.len() + query.map_or(0, |query| query.len() + 1));
    target.push_str(base_path);
    target.push_str(path);
    if let Some(query) = query {
        target.push('?');
        target.push_str(query);
    }
    let target = PathAndQuery::from_maybe_shared(target).ok()?;
    Uri::builder().scheme(scheme).authority(authority).path_and_query(target).build().ok()
}

/// Whether a request's body is one that says its model and stream flag.
fn is_json(headers: &HeaderMap) -> bool {
    // Clients that set no content type send JSON all the same.
    !headers.contains_key(CONTENT_ENCODING)
        && headers.get(CONTENT_TYPE).is_none_or(|value| {
            let value = value.as_bytes();
            !value.starts_with(b"multipart/") && !value.starts_with(b"application/octet-stream")
        })
}
