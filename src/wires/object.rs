//! One JSON object read one level deep: its members raw, none of them parsed before it is asked for.
//!
//! Of a member that comes twice, the last counts. A member of the wrong kind is as good as absent.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Counts from here on belong to no real call.
const COUNT_MAX: u64 = 1 << 40;

/// The members of an object, raw.
pub(super) struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// A member that should be a count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Count {
    /// Not there, or null.
    Absent,
    /// A whole number.
    Of(u64),
    /// Negative, fractional, no number, or beyond any real call.
    Invalid,
}

impl<'a> Object<'a> {
    /// The object that `json` is.
    pub(super) fn parse(json: &'a [u8]) -> Option<Self> {
        // Known to be text, its parts are not looked at again and again whether they are.
        serde_json::from_str(std::str::from_utf8(json).ok()?).ok()
    }

    /// A member's raw value; `None` where it is absent or null.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        let (_, value) = self.0.iter().rev().find(|(key, _)| key == name)?;
        (value.get() != "null").then_some(*value)
    }

    /// The member of the first of these names that is there.
    pub(super) fn get_any(&self, names: &[&str]) -> Option<&'a RawValue> {
        names.iter().find_map(|name| self.get(name))
    }

    /// A member that is an object.
    pub(super) fn object(&self, name: &str) -> Option<Self> {
        self.get(name).and_then(|value| Self::parse(value.get().as_bytes()))
    }

    /// A member that is a string, if it is not empty.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.get(name)
            .and_then(|value| serde_json::from_str::<String>(value.get()).ok())
            .filter(|text| !text.is_empty())
    }

    /// The elements of a member that is an array; none where it is not.
    pub(super) fn elements(&self, name: &str) -> Vec<&'a RawValue> {
        self.get(name).and_then(|value| serde_json::from_str(value.get()).ok()).unwrap_or_default()
    }

    /// The elements that are objects, of a member that is an array.
    pub(super) fn objects(&self, name: &str) -> impl Iterator<Item = Self> {
        self.elements(name).into_iter().filter_map(|element| Self::parse(element.get().as_bytes()))
    }

    /// A member that is a count.
    pub(super) fn count(&self, name: &str) -> Count {
        self.get(name).map_or(Count::Absent, |value| count(value.get()))
    }

    /// The members in their order.
    pub(super) fn members(self) -> impl Iterator<Item = (Cow<'a, str>, &'a RawValue)> {
        self.0.into_iter()
    }
}

/// The string that `raw` is, borrowed where it holds no escape.
pub(super) fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Key<'_>>(raw.get()).ok().map(|Key(text)| text)
}

/// Some SDK types are floats, so `5.0` is five.
pub(super) fn count(text: &str) -> Count {
    let digits = text.split_once('.').map_or(text, |(digits, fraction)| {
        if !fraction.is_empty() && fraction.bytes().all(|byte| byte == b'0') { digits } else { text }
    });
    match digits.parse::<u64>() {
        Ok(count) if count < COUNT_MAX && digits.starts_with(|first: char| first.is_ascii_digit()) => Count::Of(count),
        Ok(_) | Err(_) => Count::Invalid,
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(12);
                while let Some((Key(key), value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    members.push((key, value));
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A string, borrowed where it holds no escape.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_a_whole_number_however_it_is_written() {
        assert_eq!(count("0"), Count::Of(0));
        assert_eq!(count("5.0"), Count::Of(5));
        for odd in ["5.5", "-1", "\"5\"", "1e3", "true", "+1", "5.", "18446744073709551616", "1099511627776", "{}"] {
            assert_eq!(count(odd), Count::Invalid, "{odd}");
        }
    }

    #[test]
    fn the_last_of_a_member_that_comes_twice_counts_and_null_is_absence() {
        let object = Object::parse(br#"{"a":1,"b":null,"a":2,"\u0063":3}"#).unwrap();
        assert_eq!(object.count("a"), Count::Of(2));
        assert_eq!(object.count("b"), Count::Absent);
        assert_eq!(object.count("c"), Count::Of(3));
    }
}
