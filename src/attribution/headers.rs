//! Headers: what a request says about its payer, and what of it must not go on to an upstream.

use std::borrow::Cow;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::{HeaderMap, HeaderName};
use memchr::memchr;
use memchr::memmem::Finder;
use percent_encoding::percent_decode;

use crate::attribution::Refusal;
use crate::attribution::keys::{self, PREFIX, SECRET_CHARS};
use crate::ids::AppId;
use crate::record::Tags;

/// Headers that are ours begin so. None reaches an upstream.
const OURS: &str = "x-tokenmeter-";

/// Where SDKs put their key.
static CREDENTIAL_HEADERS: [HeaderName; 4] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];
static TEAM: HeaderName = HeaderName::from_static("x-tokenmeter-team");
static APP: HeaderName = HeaderName::from_static("x-tokenmeter-app");
static TAGS: HeaderName = HeaderName::from_static("x-tokenmeter-tags");
/// The query parameter where SDKs put their key.
const CREDENTIAL_PARAMETER: &str = "key";
/// What a browser's WebSocket puts before a provider's key among its subprotocols, having no other place.
const CREDENTIAL_SUBPROTOCOLS: [&str; 2] = ["openai-insecure-api-key.", "xai-client-secret."];

/// Most tags of a call; further ones are dropped.
const TAGS_MAX: usize = 16;
/// Longest name and longest value of a tag in bytes.
const TAG_BYTES_MAX: usize = 64;

/// What trusted headers say.
#[derive(Debug, Default)]
pub(crate) struct Believed<'a> {
    /// The team named, not yet known to be one.
    pub(crate) team: Option<&'a str>,
    pub(crate) app: Option<AppId>,
    pub(crate) tags: Tags,
}

impl<'a> Believed<'a> {
    pub(crate) fn read(headers: &'a HeaderMap) -> Self {
        Self {
            team: only(headers, &TEAM),
            app: only(headers, &APP).and_then(|app| AppId::parse(app).ok()),
            tags: tags(headers),
        }
    }
}

/// The header's value; `None` where it is said twice and differently, or is a virtual key in the wrong place: that would
/// stand in every record.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.any(|value| value != first) || carries_virtual_key(first.as_bytes()) {
        return None;
    }
    first.to_str().ok().map(str::trim)
}

/// The well-formed ones of `k=v,k=v`, the first of each name. Tags are a courtesy: a bad one refuses nothing.
fn tags(headers: &HeaderMap) -> Tags {
    let mut tags = Tags::new();
    let texts = headers.get_all(&TAGS).iter().filter_map(|value| std::str::from_utf8(value.as_bytes()).ok());
    for (name, value) in texts.flat_map(|text| text.split(',')).filter_map(|tag| tag.split_once('=')) {
        let (name, value) = (name.trim(), value.trim());
        let is_fine = |text: &str| {
            text.len() <= TAG_BYTES_MAX && !text.contains(char::is_control) && !carries_virtual_key(text.as_bytes())
        };
        if tags.len() < TAGS_MAX && !name.is_empty() && is_fine(name) && is_fine(value) {
            tags.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    tags
}

/// The virtual key of a request, wherever its SDK put it.
pub(crate) fn virtual_key<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Result<Option<&'a [u8]>, Refusal> {
    let in_headers = CREDENTIAL_HEADERS
        .iter()
        .flat_map(|name| headers.get_all(name))
        .filter_map(|value| presented(value.as_bytes()));
    let in_query = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter_map(|pair| presented(pair.strip_prefix(CREDENTIAL_PARAMETER)?.strip_prefix('=')?.as_bytes()));
    let in_subprotocols = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|item| presented(item.rsplit(|byte| *byte == b'.').next()?));
    let mut found = None;
    for key in in_headers.chain(in_query).chain(in_subprotocols) {
        if found.is_some_and(|before| before != key) {
            return Err(Refusal::TwoKeys);
        }
        found = Some(key);
    }
    Ok(found)
}

/// The virtual key that is a credential's last word: `Bearer tm_…`, `tm_…`.
fn presented(credential: &[u8]) -> Option<&[u8]> {
    let word = credential.trim_ascii_end().rsplit(u8::is_ascii_whitespace).next()?;
    word.starts_with(PREFIX.as_bytes()).then_some(word)
}

/// Refuses a path that a virtual key stands in: it would go on to the provider, and into its logs.
pub fn check_path(path: &str) -> Result<(), Refusal> {
    if carries_virtual_key(path.as_bytes()) { Err(Refusal::MisplacedKey) } else { Ok(()) }
}

/// Whether the header of that name carries the request's virtual key.
pub fn carries_key(headers: &HeaderMap, name: &str) -> bool {
    headers.get_all(name).iter().any(|value| presented(value.as_bytes()).is_some())
}

/// Whether the query's `key` is the request's virtual key.
pub fn query_carries_key(query: &str) -> bool {
    query.split('&').any(|pair| credential_in(pair).is_some_and(|value| presented(value.as_bytes()).is_some()))
}

/// Takes out every credential that a client can have put into its headers, so that ours stands alone.
pub fn strip_credentials(headers: &mut HeaderMap) {
    for name in &CREDENTIAL_HEADERS {
        headers.remove(name);
    }
}

/// The query without a `key`; `None` if nothing is left.
pub fn strip_query_credential(query: &str) -> Option<String> {
    let kept: Vec<&str> = query.split('&').filter(|pair| credential_in(pair).is_none()).collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

/// The value of a `key` parameter.
fn credential_in(pair: &str) -> Option<&str> {
    pair.strip_prefix(CREDENTIAL_PARAMETER)?.strip_prefix('=')
}

/// The subprotocols that a client's WebSocket offers, in one line.
pub fn offered_subprotocols(headers: &HeaderMap) -> Option<String> {
    let lines: Vec<&str> =
        headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok()).collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

/// The subprotocols that a client offers, without the credentials among them, but with `secret` in the place of its
/// virtual key. Empty where nothing is left, `None` where no credential is there.
pub fn swap_in_subprotocols(offered: &str, secret: Option<&str>) -> Option<String> {
    let is_credential = |item: &str| {
        subprotocol_key(item).is_some() || CREDENTIAL_SUBPROTOCOLS.iter().any(|prefix| item.starts_with(prefix))
    };
    let items = || offered.split(',').map(str::trim);
    if !items().any(is_credential) {
        return None;
    }
    let swapped = items().filter_map(|item| match (subprotocol_key(item), secret) {
        (Some((prefix, _)), Some(secret)) => Some(Cow::Owned(format!("{prefix}{secret}"))),
        _ => (!is_credential(item)).then_some(Cow::Borrowed(item)),
    });
    Some(swapped.collect::<Vec<_>>().join(", "))
}

/// The subprotocol among those offered that carries the virtual key.
pub fn subprotocol_with_key(offered: &str) -> Option<&str> {
    offered.split(',').map(str::trim).find(|item| subprotocol_key(item).is_some())
}

/// A subprotocol's virtual key, and what stands before it.
fn subprotocol_key(item: &str) -> Option<(&str, &str)> {
    let start = item.rfind('.').map_or(0, |dot| dot.saturating_add(1));
    item.split_at_checked(start).filter(|(_, key)| key.starts_with(PREFIX))
}

/// Takes out what is for us alone: `x-tokenmeter-*`, and every value that carries a virtual key.
pub fn strip(headers: &mut HeaderMap) {
    let is_ours = |name: &HeaderName| name.as_str().starts_with(OURS);
    let names: Vec<HeaderName> = headers
        .iter()
        .filter(|(name, value)| is_ours(name) || is_secret(name, value.as_bytes()))
        .map(|(name, _)| name.clone())
        .collect();
    for name in names {
        if is_ours(&name) {
            headers.remove(&name);
            continue;
        }
        // Of several values of one name only those that carry a key go.
        let kept: Vec<_> =
            headers.get_all(&name).iter().filter(|value| !is_secret(&name, value.as_bytes())).cloned().collect();
        headers.remove(&name);
        for value in kept {
            headers.append(name.clone(), value);
        }
    }
}

/// The query without the parameters that carry a virtual key; the others keep their bytes. `None` if none is left.
pub fn strip_query(query: &str) -> Option<Cow<'_, str>> {
    let carries = |pair: &&str| {
        let (name, value) = pair.split_once('=').unwrap_or(("", pair));
        (name == CREDENTIAL_PARAMETER && presented(value.as_bytes()).is_some()) || carries_virtual_key(pair.as_bytes())
    };
    if !query.split('&').any(|pair| carries(&pair)) {
        return Some(Cow::Borrowed(query));
    }
    let kept: Vec<&str> = query.split('&').filter(|pair| !carries(pair)).collect();
    (!kept.is_empty()).then(|| Cow::Owned(kept.join("&")))
}

/// Whether a header's value must not leave: a virtual key however short where credentials are, a whole one anywhere.
fn is_secret(name: &HeaderName, value: &[u8]) -> bool {
    let is_credential = || presented(value).is_some() || password(value).is_some_and(|text| holds_key(&text));
    (CREDENTIAL_HEADERS.contains(name) && is_credential()) || carries_virtual_key(value)
}

/// The user and password in a `Basic` credential, which are readable to whoever gets it.
fn password(credential: &[u8]) -> Option<Vec<u8>> {
    let (scheme, encoded) = credential.split_at_checked("basic ".len())?;
    let encoded = encoded.trim_ascii().split(|byte| *byte == b'=').next()?;
    scheme.eq_ignore_ascii_case(b"basic ").then(|| BASE64_STANDARD_NO_PAD.decode(encoded).ok())?
}

/// Whether `text` holds `tm_` and as many characters of a key as a key has, percent-encoded or not.
fn carries_virtual_key(text: &[u8]) -> bool {
    holds_key(text) || (memchr(b'%', text).is_some() && holds_key(&percent_decode(text).collect::<Vec<u8>>()))
}

fn holds_key(text: &[u8]) -> bool {
    static FINDER: LazyLock<Finder<'_>> = LazyLock::new(|| Finder::new(PREFIX));
    FINDER.find_iter(text).any(|at| {
        text.get(at..)
            .and_then(|key| key.get(PREFIX.len()..PREFIX.len() + SECRET_CHARS))
            .is_some_and(|rest| rest.iter().all(|byte| keys::is_key_byte(*byte)))
    })
}
