//! Usage that a chat stream's client did not ask for: asked for in the request's bytes, and taken out of the answer.

use std::ops::Range;

use serde_json::value::RawValue;

use crate::framing::json_members::Members;
use crate::wires::markers;
use crate::wires::object::Object;

/// What a request is scanned for.
pub const REQUEST_MEMBERS: &[&str] = &["model", "stream", "stream_options"];

/// A change to a request's bytes: `text` in place of what stands at `range`, often empty.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Splice {
    /// Where, in bytes from the body's begin.
    pub range: Range<u64>,
    /// What is put there.
    pub text: String,
}

/// The change that asks for usage; `None` where the request, scanned for [`REQUEST_MEMBERS`], asks for it itself, does
/// not stream, or is not understood.
pub fn ask_for_usage(request: &Members) -> Option<Splice> {
    const ASK: &str = "\"include_usage\":true";
    let closing = request.closing()?;
    if request.value("stream") != Some(b"true") {
        return None;
    }
    let Some(range) = request.range("stream_options") else {
        return Some(Splice { range: closing..closing, text: format!(",\"stream_options\":{{{ASK}}}") });
    };
    let options = request.value("stream_options")?;
    if options == b"null" {
        return Some(Splice { range, text: format!("{{{ASK}}}") });
    }
    let options = Object::parse(options)?;
    if options.get("include_usage").is_some_and(|asked| asked.get() == "true") {
        return None;
    }
    let mut text = format!("{{{ASK}");
    for (name, value) in options.members().filter(|(name, _)| name != "include_usage") {
        text.push(',');
        text.push_str(&serde_json::to_string(&name).ok()?);
        text.push(':');
        text.push_str(value.get());
    }
    text.push('}');
    Some(Splice { range, text })
}

/// Whether an event's data is the chunk that [`ask_for_usage`] causes: usage, and no choices.
pub fn is_added_usage(data: &[u8]) -> bool {
    if !markers::has_value(&markers::USAGE, data) {
        return false;
    }
    let Some(object) = Object::parse(data) else { return false };
    let has_no_choices = object.get("choices").is_some_and(|choices| {
        serde_json::from_str::<Vec<&RawValue>>(choices.get()).is_ok_and(|choices| choices.is_empty())
    });
    has_no_choices && object.get("usage").is_some() && object.get("error").is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(request: &str) -> Option<String> {
        let mut members = Members::new(REQUEST_MEMBERS);
        for byte in request.as_bytes().chunks(1) {
            members.feed(byte);
        }
        let Splice { range, text } = ask_for_usage(&members)?;
        let mut request = request.to_owned();
        request.replace_range(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap(), &text);
        serde_json::from_str::<serde_json::Value>(&request).unwrap();
        Some(request)
    }

    #[test]
    fn usage_is_asked_for_where_the_client_did_not_and_no_other_byte_changes() {
        assert_eq!(
            asked(" {\"stream\" : true, \"n\":1 }\n").unwrap(),
            " {\"stream\" : true, \"n\":1 ,\"stream_options\":{\"include_usage\":true}}\n"
        );
        assert_eq!(
            asked(r#"{"stream_options":null,"stream":true}"#).unwrap(),
            r#"{"stream_options":{"include_usage":true},"stream":true}"#
        );
        assert_eq!(
            asked(r#"{"stream":true,"stream_options":{"include_usage": false, "include_obfuscation": [1]}}"#).unwrap(),
            r#"{"stream":true,"stream_options":{"include_usage":true,"include_obfuscation":[1]}}"#
        );
        assert_eq!(
            asked(r#"{"stream":true,"stream_options":{}}"#).unwrap(),
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#
        );
    }

    #[test]
    fn a_request_that_asks_itself_or_does_not_stream_or_is_broken_stays() {
        for request in [
            r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
            r#"{"stream":false}"#,
            r#"{"model":"m"}"#,
            r#"{"stream":true,"stream":false}"#,
            r#"{"stream":true,"stream_options":"x"}"#,
            r#"{"stream":true"#,
            "[]",
            "",
        ] {
            assert_eq!(asked(request), None, "{request}");
        }
    }

    #[test]
    fn only_the_chunk_without_choices_is_the_added_one() {
        assert!(is_added_usage(br#"{"id":"c","choices": [ ],"usage":{"prompt_tokens":1}}"#));
        assert!(!is_added_usage(br#"{"choices":[],"prompt_filter_results":[],"usage":null}"#));
        assert!(!is_added_usage(br#"{"choices":[{"delta":{}}],"usage":{"prompt_tokens":1}}"#));
        assert!(!is_added_usage(br#"{"usage":{"prompt_tokens":1}}"#));
        assert!(!is_added_usage(b"[DONE]"));
    }
}
