//! Lenient JSON values: a value of an unexpected type counts as absent.
//!
//! Structs of such values still refuse a repeated key, so that two readers can't read different values.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use jiff::Timestamp;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::image::{Digest, Tag};

/// The depth to which a payload's values are read. serde's JSON fails beyond 128.
const DEPTH: usize = 100;

/// Replaces an unreadable value. No field has this type, so a needed value counts as missing.
const UNREADABLE: &[u8] = b"false";

/// Rewrites JSON text without values that can't be represented: strings with half a surrogate pair or invalid UTF-8,
/// numbers out of range, and nesting deeper than any needed value. Unreadable keys keep their spelling, so that
/// repeated ones are still found. Returns `None` if the text isn't JSON.
pub(crate) fn readable(json: &[u8]) -> Option<Vec<u8>> {
    // This neither recurses nor decodes strings and numbers. After it, every string is closed and brackets are
    // balanced.
    serde_json::from_slice::<IgnoredAny>(json).ok()?;
    let mut written = Vec::with_capacity(json.len());
    let (mut rest, mut depth) = (json, 0_usize);
    while let Some(first) = rest.first() {
        let (token, behind) = rest.split_at(token_length(rest));
        let is_key = behind.trim_ascii_start().starts_with(b":");
        depth += usize::from(matches!(first, b'[' | b'{'));
        match first {
            b'[' | b'{' if depth == DEPTH + 1 => written.extend_from_slice(UNREADABLE),
            _ if depth > DEPTH => {}
            b'"' if serde_json::from_slice::<String>(token).is_ok() => {
                written.extend_from_slice(token);
            }
            b'"' if is_key => {
                let key = Value::from(String::from_utf8_lossy(token));
                written.extend_from_slice(key.to_string().as_bytes());
            }
            b'-' | b'0'..=b'9' if serde_json::from_slice::<f64>(token).is_ok() => {
                written.extend_from_slice(token);
            }
            b'"' | b'-' | b'0'..=b'9' => written.extend_from_slice(UNREADABLE),
            _ => written.extend_from_slice(token),
        }
        depth -= usize::from(matches!(first, b']' | b'}'));
        rest = behind;
    }
    Some(written)
}

/// The length of the string or number at the start of the text; 1 for anything else.
fn token_length(json: &[u8]) -> usize {
    let is_number = |it: &u8| matches!(it, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let length = match json.first() {
        Some(b'"') => {
            let mut is_escaped = false;
            let ends = |it: &u8| {
                let ends = *it == b'"' && !is_escaped;
                is_escaped = *it == b'\\' && !is_escaped;
                ends
            };
            json.iter().skip(1).position(ends).map(|it| it + 2)
        }
        Some(first) if is_number(first) => json.iter().position(|it| !is_number(it)),
        _ => Some(1),
    };
    length.unwrap_or(json.len())
}

/// A string, if there is one.
#[derive(Default)]
pub(crate) struct Text<'a>(pub(crate) Option<Cow<'a, str>>);

impl Text<'_> {
    /// The string, unless it is empty.
    pub(crate) fn get(&self) -> Option<&str> {
        self.0.as_deref().filter(|it| !it.is_empty())
    }

    /// The string as a tag, if it is a valid one. A digest isn't.
    pub(crate) fn tag(&self) -> Option<Tag> {
        self.get().and_then(|it| Tag::parse(it).ok())
    }

    pub(crate) fn digest(&self) -> Option<Digest> {
        self.get().and_then(|it| Digest::parse(it).ok())
    }
}

/// An instant: RFC 3339, or seconds since 1970 as an integer or a float. Anything else is `None`, including times
/// before 1970: registries send year 1 for "unknown".
#[derive(Default)]
pub(crate) struct Instant(pub(crate) Option<Timestamp>);

impl Instant {
    fn from_seconds(seconds: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "checked to be within the range of an i64 with room to spare"
        )]
        let milliseconds = if (0.0..1e11).contains(&seconds) {
            Some((seconds * 1e3) as i64)
        } else {
            None
        };
        Self(milliseconds.and_then(|it| Timestamp::from_millisecond(it).ok()))
    }
}

macro_rules! ignore_others {
    (scalars: $($method:ident($type:ty)),*) => {
        $(fn $method<E>(self, _: $type) -> Result<Self::Value, E> { Ok(Self::Value::default()) })*

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }
    };
    (lists of $lifetime:lifetime) => {
        fn visit_seq<A: SeqAccess<$lifetime>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok(Self::Value::default())
        }
    };
    (objects of $lifetime:lifetime) => {
        fn visit_map<A: MapAccess<$lifetime>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(Self::Value::default())
        }
    };
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Some(Cow::Borrowed(text))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Some(Cow::Owned(text.to_owned()))))
    }

    ignore_others!(scalars: visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64));
    ignore_others!(lists of 'de);
    ignore_others!(objects of 'de);
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct InstantVisitor;

impl<'de> Visitor<'de> for InstantVisitor {
    type Value = Instant;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Instant, E> {
        let timestamp: Option<Timestamp> = text.parse().ok();
        Ok(Instant(timestamp.filter(|it| *it >= Timestamp::UNIX_EPOCH)))
    }

    fn visit_u64<E>(self, seconds: u64) -> Result<Instant, E> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "seconds of this era are exact in a float"
        )]
        Ok(Instant::from_seconds(seconds as f64))
    }

    fn visit_f64<E>(self, seconds: f64) -> Result<Instant, E> {
        Ok(Instant::from_seconds(seconds))
    }

    ignore_others!(scalars: visit_bool(bool), visit_i64(i64));
    ignore_others!(lists of 'de);
    ignore_others!(objects of 'de);
}

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InstantVisitor)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }

    ignore_others!(scalars: visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));
    ignore_others!(lists of 'de);
}

/// An object, or one written as JSON in a string. Anything else counts as an empty object.
pub(crate) enum Nested<'a, T> {
    Object(T),
    /// The text, not parsed yet.
    Json(Cow<'a, str>),
}

impl<T: Default> Default for Nested<'_, T> {
    fn default() -> Self {
        Self::Object(T::default())
    }
}

struct NestedVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for NestedVisitor<T> {
    type Value = Nested<'de, T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Nested<'de, T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Nested::Object)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Nested<'de, T>, E> {
        Ok(Nested::Json(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Nested<'de, T>, E> {
        Ok(Nested::Json(Cow::Owned(text.to_owned())))
    }

    ignore_others!(scalars: visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64));
    ignore_others!(lists of 'de);
}

impl<'de: 'a, 'a, T: Deserialize<'de> + Default> Deserialize<'de> for Nested<'a, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NestedVisitor(PhantomData))
    }
}

/// Any JSON without repeated keys. A plain value would silently keep the last one.
pub(crate) struct UniqueValue(pub(crate) Value);

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = UniqueValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value without a repeated key")
    }

    fn visit_bool<E>(self, value: bool) -> Result<UniqueValue, E> {
        Ok(UniqueValue(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<UniqueValue, E> {
        Ok(UniqueValue(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<UniqueValue, E> {
        Ok(UniqueValue(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<UniqueValue, E> {
        Ok(UniqueValue(value.into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<UniqueValue, E> {
        Ok(UniqueValue(text.into()))
    }

    fn visit_unit<E>(self) -> Result<UniqueValue, E> {
        Ok(UniqueValue(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<UniqueValue, A::Error> {
        let mut values = Vec::new();
        while let Some(UniqueValue(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(UniqueValue(Value::Array(values)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueValue, A::Error> {
        let mut values = Map::new();
        while let Some((key, UniqueValue(value))) = map.next_entry::<String, _>()? {
            if values.insert(key, value).is_some() {
                return Err(A::Error::custom("a key is repeated"));
            }
        }
        Ok(UniqueValue(Value::Object(values)))
    }
}

impl<'de> Deserialize<'de> for UniqueValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor)
    }
}

/// Reads an object that may be null, absent or of another type; then returns the default.
pub(crate) fn object<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    deserializer.deserialize_any(ObjectVisitor(PhantomData))
}

/// Reads a list. An element that isn't an object counts as an empty one.
pub(crate) fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    #[derive(serde::Deserialize)]
    #[serde(bound = "T: Deserialize<'de> + Default")]
    struct Element<T>(#[serde(deserialize_with = "object")] T);

    let elements = Vec::<Element<T>>::deserialize(deserializer)?;
    Ok(elements.into_iter().map(|it| it.0).collect())
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for ListVisitor<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Vec<T>, A::Error> {
        list(SeqAccessDeserializer::new(seq))
    }

    ignore_others!(scalars: visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));
    ignore_others!(objects of 'de);
}

/// Reads a list like [`list`]. A value that is null, absent or of another type counts as an empty list.
pub(crate) fn list_or_none<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    deserializer.deserialize_any(ListVisitor(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreadable_values_are_removed_and_the_rest_stays() {
        let check = |json: &str, expected: &str| {
            let written = readable(json.as_bytes()).map(|it| String::from_utf8(it).unwrap());
            assert_eq!(written.as_deref(), Some(expected), "{json}");
        };
        check(
            r#"{"a" : "\ud83d", "b":"\ud83d\udc33\"\\", "c":[1e999,-1e999, 1e300,"\udc33x"],"d":null}"#,
            r#"{"a" : false, "b":"\ud83d\udc33\"\\", "c":[false,false, 1e300,false],"d":null}"#,
        );
        // A key stays different from other keys, and from its own text without the escape.
        check(
            r#"{"\ud83da":1,"\ud83db" :2,"a":3}"#,
            r#"{"\"\\ud83da\"":1,"\"\\ud83db\"" :2,"a":3}"#,
        );
        let deep = |depth: usize, inner: &str| {
            format!("{}{inner}{}", r#"{"a":["#.repeat(depth), "]}".repeat(depth))
        };
        let kept = deep(DEPTH / 2, "1");
        check(&kept, &kept);
        check(
            &deep(DEPTH / 2, r#"{"a":[1]},2"#),
            &deep(DEPTH / 2, "false,2"),
        );
        check(&deep(200_000, "1"), &deep(DEPTH / 2, "false"));
        for not_json in ["", "{", "[}", "{\"a\":t}", "\"", "[1e]"] {
            assert_eq!(readable(not_json.as_bytes()), None, "{not_json}");
        }
        assert_eq!(readable(b"[\"a\xed\xa0\xbd\",1]").unwrap(), b"[false,1]");
    }

    #[test]
    fn times_are_read_in_every_form_that_registries_send() {
        let read = |json: &str| {
            serde_json::from_str::<Instant>(json)
                .unwrap()
                .0
                .map(|it| it.to_string())
        };
        assert_eq!(read("1417566161").as_deref(), Some("2014-12-03T00:22:41Z"));
        assert_eq!(
            read("1.417566161e+09").as_deref(),
            Some("2014-12-03T00:22:41Z")
        );
        assert_eq!(
            read(r#""2023-04-03T06:16:38.5Z""#).as_deref(),
            Some("2023-04-03T06:16:38.5Z")
        );
        assert_eq!(
            read(r#""2023-04-03T06:16:38+0000""#).as_deref(),
            Some("2023-04-03T06:16:38Z")
        );
        for unreadable in [
            r#""0001-01-01T00:00:00Z""#,
            "-5",
            "1e300",
            "null",
            "{}",
            "[1]",
            "true",
            r#""soon""#,
        ] {
            assert_eq!(read(unreadable), None, "{unreadable}");
        }
    }

    #[derive(serde::Deserialize, Default, Debug, PartialEq)]
    struct Inner {
        #[serde(default)]
        a: u8,
    }

    #[derive(serde::Deserialize, Debug, PartialEq)]
    struct Outer {
        #[serde(default, deserialize_with = "object")]
        inner: Inner,
        #[serde(default, deserialize_with = "list_or_none")]
        list: Vec<Inner>,
    }

    #[test]
    fn an_object_or_list_of_another_type_counts_as_absent() {
        let nothing = Outer {
            inner: Inner::default(),
            list: Vec::new(),
        };
        for other in ["null", "7", "-7", "7.5", "true", "\"x\"", "[1]"] {
            let json = format!(r#"{{"inner":{other}}}"#);
            assert_eq!(serde_json::from_str::<Outer>(&json).unwrap(), nothing);
        }
        for other in ["null", "7", "-7", "7.5", "true", "\"x\"", "{\"a\":1}"] {
            let json = format!(r#"{{"list":{other}}}"#);
            assert_eq!(serde_json::from_str::<Outer>(&json).unwrap(), nothing);
        }
        let json = r#"{"inner":{"a":1},"list":[{"a":2},null,"x",{"a":3}]}"#;
        let some = serde_json::from_str::<Outer>(json).unwrap();
        assert_eq!(some.inner.a, 1);
        let list: Vec<_> = some.list.iter().map(|it| it.a).collect();
        assert_eq!(list, [2, 0, 0, 3]);
    }

    #[test]
    fn a_repeated_key_is_an_error_at_every_depth() {
        for json in [
            r#"{"inner":{},"inner":{}}"#,
            r#"{"inner":{"a":1,"a":1}}"#,
            r#"{"list":[{"a":1,"a":1}]}"#,
        ] {
            assert!(serde_json::from_str::<Outer>(json).is_err(), "{json}");
        }
    }
}
