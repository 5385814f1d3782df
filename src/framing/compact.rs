//! JSON without insignificant white space: what is verbatim but must fit one line.

use memchr::memchr2;
use serde_json::value::RawValue;

/// The same value without the white space outside its strings. Most have none: those are not read again.
pub fn compacted_value(json: &RawValue) -> Box<RawValue> {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let spaced = json.get().as_bytes().iter().any(is_space).then(|| compacted(json.get())).flatten();
    spaced.unwrap_or_else(|| json.to_owned())
}

/// `json` without the white space outside its strings; `None` where it is not JSON.
pub fn compacted(json: &str) -> Option<Box<RawValue>> {
    let mut text = Vec::with_capacity(json.len());
    let mut rest = json.as_bytes();
    let mut in_string = false;
    while !rest.is_empty() {
        let (part, after) = if in_string {
            // A backslash goes with the byte behind it.
            let end = match memchr2(b'"', b'\\', rest) {
                Some(at) if rest.get(at) == Some(&b'\\') => at.saturating_add(2),
                Some(at) => {
                    in_string = false;
                    at.saturating_add(1)
                }
                None => rest.len(),
            };
            rest.split_at_checked(end).unwrap_or((rest, &[]))
        } else {
            let end = rest.iter().position(|byte| matches!(byte, b'"' | b' ' | b'\t' | b'\n' | b'\r'));
            in_string = end.is_some_and(|at| rest.get(at) == Some(&b'"'));
            let kept = end.map_or(rest.len(), |at| if in_string { at.saturating_add(1) } else { at });
            let (part, after) = rest.split_at_checked(kept).unwrap_or((rest, &[]));
            (part, if in_string { after } else { after.trim_ascii_start() })
        };
        text.extend_from_slice(part);
        rest = after;
    }
    RawValue::from_string(String::from_utf8(text).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_white_space_outside_of_strings_goes() {
        let json = "{ \"a\" : [ 1 ,\r\n\t2.50 ] , \"b \\\" c\\\\\" : \" d \" }\n";
        let compact = compacted(json).unwrap();
        assert_eq!(compact.get(), r#"{"a":[1,2.50],"b \" c\\":" d "}"#);
        let raw: &RawValue = serde_json::from_str(json).unwrap();
        for value in [raw, &compact] {
            assert_eq!(compacted_value(value).get(), compact.get());
        }
        assert!(compacted("{\"a\"").is_none());
    }
}
