//! Chosen fields of a `multipart/form-data` body that arrives piece by piece. Files and other fields are skipped unread.
//!
//! For requests that carry a file beside their `model` and `stream`. Parts come in any order. Holds the wanted values,
//! one part's headers and less than a delimiter, each capped. Not a validator: text that is no multipart yields nothing.

use std::fmt;

use memchr::memmem::{self, Finder};

/// A field longer than this is not kept.
const VALUE_BYTES_MAX: usize = 1 << 10;
/// Headers of a part, with the line of their delimiter.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Longest boundary; RFC 2046 allows 70 characters.
const BOUNDARY_BYTES_MAX: usize = 256;

const HEAD_END: &[u8] = b"\r\n\r\n";

/// Scans one body for the wanted fields. Of a field that comes twice, the last counts.
pub struct Fields {
    wanted: &'static [&'static str],
    found: Vec<Option<Vec<u8>>>,
    delimiter: Finder<'static>,
    state: State,
    /// The end of what came, where it may be the begin of a delimiter.
    carry: Vec<u8>,
    has_seen_file: bool,
}

/// What comes next.
#[derive(Debug)]
enum State {
    /// A part's content, or what stands before the first part.
    Content(Part),
    /// The rest of a delimiter's line and the headers of a part.
    Head(Vec<u8>),
    /// The last delimiter has come, or this is no multipart.
    Over,
}

/// What a part is to us.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    /// A wanted field, by its place among those wanted, and its value so far.
    Wanted(usize, Vec<u8>),
    /// Anything else.
    Skipped,
}

impl Fields {
    /// A scan for `wanted` in a body of this `content-type`; `None` where that is no form of parts.
    pub fn of(content_type: &[u8], wanted: &'static [&'static str]) -> Option<Self> {
        let content_type = std::str::from_utf8(content_type).ok()?;
        let (essence, parameters) = content_type.split_once(';')?;
        if !essence.trim().eq_ignore_ascii_case("multipart/form-data") {
            return None;
        }
        let boundary = parameter(parameters, "boundary")?;
        if boundary.is_empty() || boundary.len() > BOUNDARY_BYTES_MAX {
            return None;
        }
        let delimiter = Finder::new(&[b"\r\n--", boundary.as_bytes()].concat()).into_owned();
        // The first delimiter may stand at the body's begin, without a line end before it.
        let (state, carry) = (State::Content(Part::Skipped), b"\r\n".to_vec());
        Some(Self { wanted, found: vec![None; wanted.len()], delimiter, state, carry, has_seen_file: false })
    }

    /// Reads `chunk`.
    pub fn feed(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while !rest.is_empty() {
            let taken = match &mut self.state {
                State::Content(_) => self.content(rest),
                State::Head(_) => self.head(rest),
                State::Over => return,
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
    }

    /// The value of a wanted field; `None` where it has not come to its end, or was too long to keep.
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        let (_, found) = self.wanted.iter().zip(&self.found).find(|(wanted, _)| **wanted == name)?;
        found.as_deref()
    }

    /// Whether a file has begun.
    pub fn has_seen_file(&self) -> bool {
        self.has_seen_file
    }

    /// Whether nothing more is to be learned.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Takes content off `rest` up to the next delimiter, and says how many bytes that was, the delimiter included.
    fn content(&mut self, rest: &[u8]) -> usize {
        let needle = self.delimiter.needle().len();
        let overlap = needle.saturating_sub(1);
        if !self.carry.is_empty() {
            let seam = [self.carry.as_slice(), rest.get(..overlap.min(rest.len())).unwrap_or_default()].concat();
            if let Some(at) = self.delimiter.find(&seam) {
                let taken = at.saturating_add(needle).saturating_sub(self.carry.len());
                self.carry.clear();
                self.keep(seam.get(..at).unwrap_or_default());
                self.part_ends();
                return taken;
            }
            if rest.len() < overlap {
                let (kept, carry) = seam.split_at(seam.len().saturating_sub(overlap));
                self.keep(kept);
                self.carry = carry.to_vec();
                return rest.len();
            }
            let carry = std::mem::take(&mut self.carry);
            self.keep(&carry);
        }
        if let Some(at) = self.delimiter.find(rest) {
            self.keep(rest.get(..at).unwrap_or_default());
            self.part_ends();
            return at.saturating_add(needle);
        }
        let (kept, carry) = rest.split_at(rest.len().saturating_sub(overlap));
        self.keep(kept);
        self.carry = carry.to_vec();
        rest.len()
    }

    fn keep(&mut self, part: &[u8]) {
        let State::Content(content) = &mut self.state else { return };
        if let Part::Wanted(_, value) = content {
            if value.len().saturating_add(part.len()) > VALUE_BYTES_MAX {
                *content = Part::Skipped;
            } else {
                value.extend_from_slice(part);
            }
        }
    }

    fn part_ends(&mut self) {
        if let State::Content(Part::Wanted(place, value)) = std::mem::replace(&mut self.state, State::Head(Vec::new()))
            && let Some(found) = self.found.get_mut(place)
        {
            *found = Some(value);
        }
    }

    /// Takes a part's headers off `rest`, and says how many bytes that was.
    fn head(&mut self, rest: &[u8]) -> usize {
        let State::Head(head) = &mut self.state else { return 0 };
        let before = head.len();
        let room = HEAD_BYTES_MAX.saturating_sub(before);
        head.extend_from_slice(rest.get(..room.min(rest.len())).unwrap_or_default());
        if head.starts_with(b"--") {
            self.state = State::Over;
            return rest.len();
        }
        let searched = before.saturating_sub(HEAD_END.len());
        let end = memmem::find(head.get(searched..).unwrap_or_default(), HEAD_END);
        let Some(end) = end.map(|at| searched.saturating_add(at)) else {
            if head.len() >= HEAD_BYTES_MAX {
                self.state = State::Over;
            }
            return rest.len();
        };
        let part = disposition(head.get(..end).unwrap_or_default());
        self.has_seen_file |= part.is_file;
        let place = self.wanted.iter().position(|wanted| !part.is_file && part.name.as_deref() == Some(*wanted));
        self.state = State::Content(place.map_or(Part::Skipped, |place| Part::Wanted(place, Vec::new())));
        end.saturating_add(HEAD_END.len()).saturating_sub(before)
    }
}

impl fmt::Debug for Fields {
    /// Places only: what passes is never printed.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Fields").field("is_over", &self.is_over()).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Disposition {
    name: Option<String>,
    is_file: bool,
}

/// What a part's `content-disposition` says.
fn disposition(head: &[u8]) -> Disposition {
    let Ok(head) = std::str::from_utf8(head) else { return Disposition::default() };
    let lines = head.split("\r\n").filter_map(|line| line.split_once(':'));
    let mut of_disposition = lines.filter(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition"));
    let Some((_, value)) = of_disposition.next() else { return Disposition::default() };
    let (_, parameters) = value.split_once(';').unwrap_or_default();
    let is_file = ["filename", "filename*"].iter().any(|name| parameter(parameters, name).is_some());
    Disposition { name: parameter(parameters, "name"), is_file }
}

/// The value of a parameter in `a=b; c="d;\"e"`.
fn parameter(parameters: &str, wanted: &str) -> Option<String> {
    let mut rest = parameters;
    loop {
        let (name, value) = rest.split_once('=')?;
        let name = name.trim_start_matches([';', ' ', '\t']).trim();
        let value = value.trim_start();
        let (value, after) = if let Some(quoted) = value.strip_prefix('"') {
            unquoted(quoted)?
        } else {
            let (value, after) = value.split_once(';').unwrap_or((value, ""));
            (value.trim_end().to_owned(), after)
        };
        if name.eq_ignore_ascii_case(wanted) {
            return Some(value);
        }
        rest = after;
    }
}

/// A quoted text behind its opening quote, and what follows its closing one.
fn unquoted(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = quoted.chars();
    loop {
        match characters.next()? {
            '"' => return Some((value, characters.as_str())),
            '\\' => value.push(characters.next()?),
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WANTED: &[&str] = &["model", "stream"];
    const TYPE: &[u8] = b"multipart/form-data; boundary=----x";

    /// A body of parts: headers and content each.
    fn body(parts: &[(&str, &[u8])]) -> Vec<u8> {
        let parts = parts
            .iter()
            .map(|(head, content)| [b"------x\r\n", head.as_bytes(), b"\r\n\r\n", content, b"\r\n"].concat());
        [parts.collect::<Vec<_>>().concat(), b"------x--\r\nafterword".to_vec()].concat()
    }

    fn scanned(chunks: &[&[u8]]) -> Fields {
        let mut fields = Fields::of(TYPE, WANTED).unwrap();
        for chunk in chunks {
            fields.feed(chunk);
        }
        fields
    }

    fn seen(chunks: &[&[u8]]) -> (Option<String>, Option<String>, bool, bool) {
        let fields = scanned(chunks);
        let text = |name| fields.value(name).map(|value| String::from_utf8(value.to_vec()).unwrap());
        (text("model"), text("stream"), fields.has_seen_file(), fields.is_over())
    }

    /// A file that holds what looks like parts, the model behind it.
    fn upload() -> Vec<u8> {
        let file =
            b"RIFF\r\n--\r\n------\r\n------ x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nno\r\n-----x";
        body(&[
            ("content-disposition: form-data; name=stream", b"true"),
            (
                "Content-Disposition: form-data; name=\"file\"; filename=\"a;\\\" name=model.wav\"\r\nContent-Type: audio/wav",
                file,
            ),
            ("Content-Type: text/plain\r\nCONTENT-DISPOSITION: form-data; x=y; name=\"model\"", b"whisper-1"),
            ("Content-Disposition: form-data; name=\"prompt\"", b"------"),
        ])
    }

    #[test]
    fn wanted_fields_are_found_behind_a_file() {
        let expected = (Some("whisper-1".to_owned()), Some("true".to_owned()), true, true);
        assert_eq!(seen(&[&upload()]), expected);
        assert_eq!(seen(&[b"preamble\r\n", &upload()]), expected);
    }

    #[test]
    fn a_file_called_like_a_field_is_no_field() {
        let body = body(&[("Content-Disposition: form-data; name=\"model\"; filename*=UTF-8''m", b"m")]);
        assert_eq!(seen(&[&body]), (None, None, true, true));
    }

    #[test]
    fn a_field_cut_off_or_too_long_is_no_value() {
        let whole = body(&[("Content-Disposition: form-data; name=\"model\"", b"whisper-1")]);
        let cut = whole.len() - b"-x--\r\nafterword".len();
        assert_eq!(seen(&[&whole[..cut]]), (None, None, false, false));
        let long = body(&[("Content-Disposition: form-data; name=\"model\"", &[b'x'; VALUE_BYTES_MAX + 1])]);
        assert_eq!(seen(&[&long]), (None, None, false, true));
    }

    #[test]
    fn no_end_of_headers_is_the_end() {
        let endless = [b"------x\r\n".to_vec(), vec![b'h'; HEAD_BYTES_MAX * 2]].concat();
        for size in [1, 1000, endless.len()] {
            assert!(scanned(&endless.chunks(size).collect::<Vec<_>>()).is_over(), "{size}");
        }
    }

    #[test]
    fn only_a_form_of_parts_is_looked_into() {
        let boundary = |text: &str| Fields::of(text.as_bytes(), WANTED).is_some();
        assert!(boundary("Multipart/Form-Data; charset=utf-8; boundary=\"a b\""));
        assert!(!boundary("multipart/form-data") && !boundary("multipart/form-data; boundary="));
        assert!(!boundary("multipart/mixed; boundary=x") && !boundary("application/json; boundary=x"));
        assert!(!boundary(&format!("multipart/form-data; boundary={}", "x".repeat(BOUNDARY_BYTES_MAX + 1))));
    }

    proptest! {
        #[test]
        fn fields_ignore_chunking(cuts in prop::collection::vec(0..upload().len(), 0..30)) {
            let upload = upload();
            let mut cuts: Vec<usize> = cuts.into_iter().chain([0, upload.len()]).collect();
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|range| &upload[range[0]..range[1]]).collect();
            prop_assert_eq!(seen(&chunks), seen(&[&upload]));
        }

        #[test]
        fn no_text_confuses_it(
            parts in prop::collection::vec(prop::sample::select(vec![
                "\r\n", "--", "----", "-", "x", "------x", "\r\n------x", "\r\n\r\n", "\r", "\n", "content-disposition: form-data; name=\"model\"",
                "; filename=\"", "\"", "\\", "=", ";", "v",
            ]), 0..40),
            size in 1_usize..12,
        ) {
            let text = parts.concat();
            let cut: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            prop_assert_eq!(seen(&cut), seen(&[text.as_bytes()]));
        }
    }
}
