//! Outgoing: the head of the request that an upstream is sent: its URL, what of the client's headers passes, and the
//! credential put in place of a virtual key.
//!
//! A credential that the client brings itself passes as it came, signatures (AWS `SigV4`, Google OAuth) included.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, request};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret as _, SecretString};

use super::forward::{Admitted, Refusal};
use super::headers;
use super::reply::Refused;
use super::upstream::Base;
use crate::attribution;
use crate::wires::{CredentialHeader, Wire};

/// What needs no escape in a query's value.
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The header of Google's API keys, which also go into the query.
const GOOGLE_KEY: &str = "x-goog-api-key";

/// The head of the upstream's request.
#[derive(Clone)]
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
}

impl Outgoing {
    /// The head for the upstream that `head` was admitted to.
    pub(crate) fn new(head: request::Parts, admitted: &Admitted, is_websocket: bool) -> Result<Self, Refusal> {
        let refusal = |reason, message: &str| Refusal { wire: admitted.wire, reason, message: message.into() };
        let settings = &admitted.upstream.settings;
        let mut headers = head.headers;
        let query = head.uri.query();
        let credential =
            match &settings.credential {
                Some(secret) if admitted.attributed.key.is_some() => {
                    let wires = [settings.wire, admitted.wire];
                    let credential = Credential::in_place_of_key(secret, wires, &headers, query, is_websocket);
                    Some(credential.ok_or_else(|| {
                        refusal(Refused::NoCredential, "the upstream's credential is not a header value")
                    })?)
                }
                Some(_) | None => None,
            };
        let upgrade = headers.get(UPGRADE).cloned().filter(|_| is_websocket);
        headers::leave_connection(&mut headers);
        attribution::headers::strip(&mut headers);
        let mut query = query.and_then(attribution::headers::strip_query);
        if let Some(credential) = credential {
            attribution::headers::strip_credentials(&mut headers);
            credential.put(&mut headers, &mut query);
        }
        if let Some(upgrade) = upgrade {
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(UPGRADE, upgrade);
        }
        let path = head.uri.path().get(admitted.path_start..).filter(|rest| !rest.is_empty()).unwrap_or("/");
        let uri = upstream_uri(&settings.base, path, query.as_deref())
            .ok_or_else(|| refusal(Refused::UnknownRoute, "the path does not make a URL of the upstream"))?;
        if let Some(authority) = uri.authority()
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            headers.insert(HOST, host);
        }
        Ok(Self { method: head.method, uri, headers })
    }

    pub(crate) fn with<B>(self, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        request
    }

    /// Whether the client signed the request, body and all: then nothing may be put into it.
    pub(crate) fn is_signed(&self) -> bool {
        let authorization = self.headers.get(AUTHORIZATION);
        authorization.is_some_and(|value| value.as_bytes().starts_with(b"AWS4-"))
            || self.headers.contains_key("x-amz-content-sha256")
            || self.uri.query().is_some_and(|query| query.contains("X-Amz-Signature="))
    }
}

/// The upstream's credential on its way to where the client had put its virtual key.
struct Credential {
    /// The header that carries it; `None`: it stands elsewhere.
    header: Option<(&'static str, HeaderValue)>,
    /// The subprotocols, with it among them or without any credential; `None`: they stay as they are.
    subprotocols: Option<String>,
    /// The `key` of the query.
    parameter: Option<String>,
    /// Whether a `key` in the query is a credential.
    is_google: bool,
}

impl Credential {
    /// The places are those of the upstream's wire and of the wire that the exchange is read as: one upstream may take
    /// several dialects. The client's choice among them stands, else it is the upstream's. A browser's WebSocket has
    /// no headers to choose: there it is the subprotocol, or the query where the provider takes keys in it.
    fn in_place_of_key(
        secret: &SecretString,
        wires: [&'static dyn Wire; 2],
        headers: &HeaderMap,
        query: Option<&str>,
        is_websocket: bool,
    ) -> Option<Self> {
        let secret = secret.expose_secret();
        let places = wires.map(Wire::credential);
        let chosen = places.iter().find(|place| attribution::headers::carries_key(headers, place.name));
        let is_google = places.iter().any(|place| place.name == GOOGLE_KEY);
        let offered = attribution::headers::offered_subprotocols(headers);
        let offered = offered.as_deref();
        let is_free = is_websocket && chosen.is_none();
        let is_offered = is_free && offered.and_then(attribution::headers::subprotocol_with_key).is_some();
        let is_in_query = is_free && is_google && query.is_some_and(attribution::headers::query_carries_key);
        let swapped = is_offered.then_some(secret);
        let subprotocols = offered.and_then(|offered| attribution::headers::swap_in_subprotocols(offered, swapped));
        let mut credential = Self { header: None, subprotocols, parameter: None, is_google };
        if is_offered {
            return Some(credential);
        }
        if is_in_query {
            credential.parameter = Some(utf8_percent_encode(secret, QUERY_VALUE).to_string());
            return Some(credential);
        }
        let [of_upstream, _] = &places;
        let CredentialHeader { name, prefix } = *chosen.unwrap_or(of_upstream);
        credential.header = Some((name, headers::secret_value(prefix, secret)?));
        Some(credential)
    }

    fn put(self, headers: &mut HeaderMap, query: &mut Option<Cow<'_, str>>) {
        if let Some((name, value)) = self.header {
            headers.insert(name, value);
        }
        if let Some(subprotocols) = self.subprotocols {
            headers.remove(SEC_WEBSOCKET_PROTOCOL);
            let left = headers::secret_value("", &subprotocols).filter(|value| !value.is_empty());
            headers.extend(left.map(|value| (SEC_WEBSOCKET_PROTOCOL, value)));
        }
        if self.is_google {
            *query =
                query.take().and_then(|query| attribution::headers::strip_query_credential(&query)).map(Cow::Owned);
        }
        if let Some(secret) = self.parameter {
            let before = query.take().map_or_else(String::new, |query| format!("{query}&"));
            *query = Some(Cow::Owned(format!("{before}key={secret}")));
        }
    }
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
