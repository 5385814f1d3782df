//! Forward: one call, from the request's head to the answer's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderValue};
use http::{Extensions, Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use super::asking::{Answer, Asking, ReadingPlan};
use super::background::Background;
use super::body::{self, Bounds, Kept, RequestError, Shape, UpstreamBody, View};
use super::gather::Gather;
use super::listen::Seat;
use super::outgoing::Outgoing;
use super::reply::{self, Refused, ReplyBody};
use super::tap::{self, Tap};
use super::upstream::{OnClientClose, Unmetered, Upstream};
use super::{OnFailure, Proxy, headers, tunnel};
use crate::attribution::{self, Attributed};
use crate::ids::RecordId;
use crate::journal::JournalError;
use crate::meter::{Ending, Moment, OpenCall};
use crate::operation::Operation;
use crate::record::Intent;
use crate::usage::Outcome;
use crate::wires::{self, Consumption, Exchange, Wire};

/// How much of a refused request's body is read off, and for how long.
const REFUSED_BYTES_MAX: usize = 4 << 20;
const REFUSED_BODY_MAX: Duration = Duration::from_secs(2);

/// Largest error answer that is looked into for the name of an option that the upstream does not take.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Answers one request that came on the connection of `seat`.
pub(crate) async fn call(proxy: Arc<Proxy>, seat: Seat, request: Request<Incoming>) -> Response<ReplyBody> {
    let began = proxy.meter.now();
    let admitted = admit(&proxy, &request);
    if let Ok(Admitted { attributed, .. }) = &admitted
        && let Some(delay) = proxy.fairness.delay(&attributed.team, began.instant)
    {
        proxy.metrics.delayed(&attributed.team);
        tokio::time::sleep(delay).await;
    }
    let answered = match admitted {
        Ok(admitted) if admitted.is_websocket => Box::pin(tunnel::open(&proxy, seat, began, admitted, request)).await,
        Ok(admitted) => match prepare(&proxy, began, admitted, request).await {
            Ok(prepared) => Ok(exchange(&proxy, prepared).await),
            Err(refusal) => Err(refusal),
        },
        Err(refusal) => {
            read_off(request).await;
            Err(refusal)
        }
    };
    answered.unwrap_or_else(|refusal| refuse(&proxy, &refusal))
}

/// Reads what a refused request still sends: a connection that is closed in the middle of a body is reset, and a client
/// that was still writing never reads why. Who asked whether to send its body does not send it, and HTTP/2 ends the
/// stream alone.
async fn read_off(request: Request<Incoming>) {
    if request.version() == Version::HTTP_2 || request.headers().contains_key(EXPECT) {
        return;
    }
    let mut body = request.into_body();
    let reading = async {
        let mut left = REFUSED_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await
            && let Some(after) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len))
        {
            left = after;
        }
    };
    drop(tokio::time::timeout(REFUSED_BODY_MAX, reading).await);
}

/// A call that is not made.
pub(crate) struct Refusal {
    pub(crate) wire: &'static dyn Wire,
    pub(crate) reason: Refused,
    pub(crate) message: String,
}

fn refuse(proxy: &Proxy, refusal: &Refusal) -> Response<ReplyBody> {
    proxy.metrics.refused(refusal.reason.as_str());
    reply::refuse(refusal.wire, refusal.reason, &refusal.message)
}

/// Where a request goes and who pays for it.
pub(crate) struct Admitted {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) wire: &'static dyn Wire,
    pub(crate) operation: Operation,
    pub(crate) model_in_path: Option<String>,
    pub(crate) stream_in_path: Option<bool>,
    /// The stored object or result that is fetched, where the path names it.
    pub(crate) object: Option<String>,
    pub(crate) consumption: Consumption,
    /// Where in the request's path the provider's begins.
    pub(crate) path_start: usize,
    pub(crate) attributed: Attributed,
    pub(crate) is_websocket: bool,
}

impl Admitted {
    /// What goes into the journal before the upstream is asked.
    pub(crate) fn intent(
        self,
        began: Moment,
        model_requested: Option<String>,
        stream: bool,
        body_bytes: Option<u64>,
    ) -> Intent {
        let Attributed { department, team, app, key, attributed_by, tags } = self.attributed;
        let settings = &self.upstream.settings;
        Intent {
            id: RecordId::new(began.at),
            started_at: began.at,
            department,
            team,
            app,
            key,
            attributed_by,
            tags,
            upstream: settings.name.clone(),
            wire: self.wire.name().to_owned(),
            provider: settings.provider.clone(),
            operation: self.operation,
            model_requested,
            stream,
            body_bytes,
            is_consumption: self.consumption == Consumption::Now,
        }
    }
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
    let mut exchange = wires::recognise(upstream.settings.wire, request.method(), rest);
    let is_websocket = tunnel::is_asked(request);
    if is_websocket {
        // Whatever its path: it says what it wants only once it is open.
        (exchange.operation, exchange.consumption) = (Operation::Realtime, Consumption::Now);
    }
    let Exchange { wire, operation, stream_in_path, object_in_path, consumption, .. } = exchange;
    let attributed = attribution::headers::check_path(path)
        .and_then(|()| proxy.attribution.of(request.headers(), request.uri().query()))
        .map_err(|refusal| Refusal { wire, reason: Refused::Attribution(refusal), message: refusal.to_string() })?;
    if attributed.key.is_some() && upstream.settings.credential.is_none() {
        let message = format!(
            "upstream `{0}` has no credential of its own to stand in for a virtual key; configure `api_key_env` for `{0}`, or send the provider's own key",
            upstream.settings.name
        );
        return Err(Refusal { wire, reason: Refused::NoCredential, message });
    }
    if matches!(operation, Operation::Other | Operation::Realtime)
        && upstream.settings.unmetered == Unmetered::Refuse
        && consumption == Consumption::Now
    {
        let message =
            format!("`{rest}` cannot be metered, and upstream `{}` refuses what cannot", upstream.settings.name);
        return Err(Refusal { wire, reason: Refused::Unmetered, message });
    }
    Ok(Admitted {
        upstream: Arc::clone(upstream),
        wire,
        operation,
        model_in_path: exchange.model(),
        stream_in_path,
        object: object_in_path
            .filter(|_| matches!(consumption, Consumption::Stored | Consumption::Result))
            .map(str::to_owned),
        consumption,
        path_start,
        attributed,
        is_websocket,
    })
}

/// A request that is ready to go, and its call.
struct Prepared {
    upstream: Arc<Upstream>,
    wire: &'static dyn Wire,
    operation: Operation,
    consumption: Consumption,
    call: OpenCall,
    intent: Intent,
    outgoing: Outgoing,
    body: UpstreamBody,
    kept: Kept,
    /// The request as the client sent it, where ours asks for usage: for asking once more without.
    unspliced: Option<(Outgoing, Vec<Bytes>)>,
}

/// Looks into the body as far as needed, makes the upstream's request, and puts the intent into the journal.
async fn prepare(
    proxy: &Arc<Proxy>,
    began: Moment,
    admitted: Admitted,
    request: Request<Incoming>,
) -> Result<Box<Prepared>, Refusal> {
    let Admitted { wire, operation, consumption, .. } = admitted;
    let upstream = Arc::clone(&admitted.upstream);
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
    let shape = if operation == Operation::Other { Shape::Opaque } else { Shape::of(&head.headers) };
    let view = View::of(body, shape, bounds).await.map_err(|error| refusal(Refused::Body, error.to_string()))?;
    let waited = waited.elapsed();

    let outgoing = Outgoing::new(head, &admitted, false)?;
    let is_stream = admitted.stream_in_path.or(view.stream).unwrap_or_else(|| wire.streams_unasked(operation));
    let model = admitted.model_in_path.clone().or_else(|| view.model.clone());
    let spliced = (operation == Operation::Chat
        && wire.takes_stream_options()
        && view.stream == Some(true)
        && !outgoing.is_signed()
        && upstream.adds_stream_usage(model.as_deref(), began.instant))
    .then(|| view.with_stream_usage())
    .flatten();

    let object = admitted.object.clone();
    let intent = admitted.intent(began, model, is_stream, view.length());
    let mut call = open(proxy, began, &intent, wire, consumption).await?;
    if let Some(object) = object {
        call.fetches(object);
    }
    if upstream.settings.count_every.is_some() {
        call.goes_to(outgoing.uri.path().to_owned());
    }
    proxy.metrics.overhead_seconds(began.instant.elapsed().saturating_sub(waited).as_secs_f64());

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
    let prepared = Prepared { upstream, wire, operation, consumption, call, intent, outgoing, body, kept, unspliced };
    Ok(Box::new(prepared))
}

/// Puts the intent into the journal. What cannot be recorded is refused before it costs money, or passes unmetered.
pub(crate) async fn open(
    proxy: &Arc<Proxy>,
    began: Moment,
    intent: &Intent,
    wire: &'static dyn Wire,
    consumption: Consumption,
) -> Result<OpenCall, Refusal> {
    let refusal = || Refusal {
        wire,
        reason: Refused::Journal,
        message: "the call cannot be recorded at the moment, so it is not made; try again soon".into(),
    };
    let (call, appended) = match proxy.meter.open(began, intent.clone(), wire, consumption) {
        Ok(opened) => opened,
        // Why is said by the journal, once for all of them.
        Err(_) if proxy.settings.on_failure == OnFailure::Pass => return Ok(proxy.meter.open_unmetered(intent)),
        Err(_) => return Err(refusal()),
    };
    let journal = proxy.meter.journal();
    if journal.is_synced(&appended) {
        return Ok(call);
    }
    let synced = journal.synced(appended).await;
    match (synced, proxy.settings.on_failure) {
        (Err(JournalError::NotWritten { .. }), on_failure) => {
            call.withdraw();
            if on_failure == OnFailure::Pass { Ok(proxy.meter.open_unmetered(intent)) } else { Err(refusal()) }
        }
        (Err(_), OnFailure::Refuse) => Err(refusal()),
        // Its intent is there, though it may not last.
        (Ok(()), _) | (Err(_), OnFailure::Pass) => Ok(call),
    }
}

/// Asks the upstream; once more without `stream_options` where that is what it does not take.
async fn exchange(proxy: &Arc<Proxy>, prepared: Box<Prepared>) -> Response<ReplyBody> {
    let Prepared { upstream, wire, operation, consumption, call, intent, outgoing, body, kept, unspliced } = *prepared;
    // A list or a file that nobody waits for any more; a POST may begin something.
    let is_worth_finishing = consumption != Consumption::None || outgoing.method != Method::GET;
    let reading = ReadingPlan {
        wire,
        operation,
        provider: intent.provider.clone(),
        consumption,
        background: background_for(proxy, &upstream, intent.stream).filter(|_| is_worth_finishing),
    };
    let is_spliced = unspliced.is_some();
    let answer = match Asking::begin(&upstream, outgoing.with(body), call, kept, &reading).answer().await {
        Ok(answer) => answer,
        Err(failed) => return failed.reply(&upstream, wire),
    };
    match unspliced.filter(|_| answer.response.status() == StatusCode::BAD_REQUEST) {
        // Seldom, and as large as all the rest: on the heap, not in every call's future.
        Some(unspliced) => Box::pin(exchange_unspliced(proxy, &upstream, answer, intent, unspliced, &reading)).await,
        None => pass(proxy, &upstream, answer, None, &reading, is_spliced).reply().await,
    }
}

/// Asks once more as the client did, if it is our `stream_options` that `answer` refuses.
async fn exchange_unspliced(
    proxy: &Arc<Proxy>,
    upstream: &Upstream,
    mut answer: Answer,
    intent: Intent,
    (outgoing, unspliced): (Outgoing, Vec<Bytes>),
    reading: &ReadingPlan,
) -> Response<ReplyBody> {
    let wire = reading.wire;
    answer.call.answered(answer.response.status().as_u16());
    let Some(head) = read_head_of(answer.response.body_mut(), upstream.settings.idle_timeout).await else {
        return answer.cut_off().reply(upstream, wire);
    };
    if !names_stream_options(&head) {
        return pass(proxy, upstream, answer, Some(head), reading, false).reply().await;
    }
    answer.call.close(Outcome::UpstreamError, Ending::default());
    let began = proxy.meter.now();
    let intent = Intent { id: RecordId::new(began.at), started_at: began.at, ..intent };
    let call = match open(proxy, began, &intent, wire, reading.consumption).await {
        Ok(call) => call,
        Err(refusal) => return refuse(proxy, &refusal),
    };
    let (body, kept) = body::whole(unspliced.clone(), unspliced);
    match Asking::begin(upstream, outgoing.with(body), call, kept, reading).answer().await {
        Ok(answer) => {
            if answer.response.status().is_success() {
                upstream.remember_no_stream_usage(intent.model_requested.as_deref(), began.instant);
            }
            pass(proxy, upstream, answer, None, reading, false).reply().await
        }
        Err(failed) => failed.reply(upstream, wire),
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

/// Passes an answer on: its head now, its body as it comes, or in pieces together while there is much to do.
pub(crate) fn pass(
    proxy: &Proxy,
    upstream: &Upstream,
    answer: Answer,
    head: Option<Bytes>,
    reading: &ReadingPlan,
    is_spliced: bool,
) -> Passing {
    let Answer { response, mut call, kept } = answer;
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
        background = background_for(proxy, upstream, true).filter(|_| reading.consumption != Consumption::None);
    }
    let watch = reading.watch(&response, call, &kept);
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
        on_failure: proxy.settings.on_failure,
    };
    let body = Gather::new(Tap::new(head, body, watch, settings), Arc::clone(&proxy.load));
    let mut response = Response::from_parts(parts, Box::new(body));
    reply::tell_record(&mut response, record);
    Passing { response, wire: reading.wire, record }
}

/// An answer that may go on its way, or must wait for its record.
pub(crate) struct Passing {
    response: Response<Box<Gather<Tap>>>,
    wire: &'static dyn Wire,
    record: Option<RecordId>,
}

impl Passing {
    /// What the client gets, once its head may go.
    pub(crate) async fn reply(mut self) -> Response<ReplyBody> {
        if let Err(error) = self.response.body_mut().body_mut().head_may_go().await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "an answer without a body is held back: its record may be lost"
            );
            let message = "the call was made, but its record could not be written";
            return reply::failed(self.wire, StatusCode::BAD_GATEWAY, "journal", message, self.record);
        }
        self.response.map(ReplyBody::Passing)
    }
}
