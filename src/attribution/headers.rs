//! Headers: what a request says about its payer, and what of it must not go on to an upstream.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use memchr::memmem;

use crate::attribution::Refusal;
use crate::attribution::keys::{self, PREFIX, SECRET_CHARS};
use crate::ids::AppId;
use crate::record::Tags;

/// Headers that are ours begin so. None reaches an upstream.
const OURS: &str = "x-tokenmeter-";

/// Where SDKs put their key.
const CREDENTIAL_HEADERS: [&str; 4] = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];
/// The query parameter where SDKs put their key.
const CREDENTIAL_PARAMETER: &str = "key";

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
            team: only(headers, "x-tokenmeter-team"),
            app: only(headers, "x-tokenmeter-app").and_then(|app| AppId::parse(app).ok()),
            tags: tags(headers),
        }
    }
}

/// The header's value; `None` where it is said twice and differently.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.any(|value| value != first) {
        return None;
    }
    first.to_str().ok().map(str::trim)
}

/// The well-formed ones of `k=v,k=v`, the first of each name. Tags are a courtesy: a bad one refuses nothing.
fn tags(headers: &HeaderMap) -> Tags {
    let mut tags = Tags::new();
    let texts =
        headers.get_all("x-tokenmeter-tags").iter().filter_map(|value| std::str::from_utf8(value.as_bytes()).ok());
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
        .flat_map(|name| headers.get_all(*name))
        .filter_map(|value| presented(value.as_bytes()));
    let in_query = query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter_map(|pair| presented(pair.strip_prefix(CREDENTIAL_PARAMETER)?.strip_prefix('=')?.as_bytes()));
    let mut found = None;
    for key in in_headers.chain(in_query) {
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
    (CREDENTIAL_HEADERS.contains(&name.as_str()) && presented(value).is_some()) || carries_virtual_key(value)
}

/// Whether `text` holds `tm_` and as many characters of a key as a key has.
fn carries_virtual_key(text: &[u8]) -> bool {
    memmem::find_iter(text, PREFIX.as_bytes()).any(|at| {
        text.get(at..)
            .and_then(|key| key.get(PREFIX.len()..PREFIX.len() + SECRET_CHARS))
            .is_some_and(|rest| rest.iter().all(|byte| keys::is_key_byte(*byte)))
    })
}
