//! Header fields as people write them: `name`, `name: value`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::{TextError, text_form};
use super::limits::{FIELD_NAME_BYTES, FIELD_VALUE_BYTES};

/// A header field's name, in lower case: names have no case (RFC 9110 section 5.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldName(String);

impl FieldName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// RFC 9110 section 5.6.2.
pub(crate) fn is_token(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(legal)
}

impl FromStr for FieldName {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        FIELD_NAME_BYTES
            .check("the length of a header's name in bytes", text.len())
            .map_err(|e| TextError::new(e.to_string()))?;
        if !is_token(text) {
            return Err(TextError::not(
                text,
                "a header's name",
                "use letters, digits and '-', as in 'X-Team'",
            ));
        }
        Ok(FieldName(text.to_ascii_lowercase()))
    }
}

text_form!(FieldName);

impl fmt::Display for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A header field's value: visible ASCII and inner blanks (RFC 9110 section 5.5; its `obs-text` is left out),
/// so that nobody can end a line with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldValue(String);

impl FieldValue {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FieldValue {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        FIELD_VALUE_BYTES
            .check("the length of a header's value in bytes", text.len())
            .map_err(|e| TextError::new(e.to_string()))?;
        let legal = |b: u8| b.is_ascii_graphic() || b == b' ' || b == b'\t';
        if text.is_empty() || text.trim() != text || !text.bytes().all(legal) {
            return Err(TextError::not(
                text,
                "a header's value",
                "use visible ASCII characters, with blanks only between them",
            ));
        }
        Ok(FieldValue(text.to_owned()))
    }
}

text_form!(FieldValue);

impl fmt::Display for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a request has to have: `name` (present), `name: value` (exactly this value).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FieldMatch {
    pub name: FieldName,
    pub value: Option<FieldValue>,
}

impl FieldMatch {
    pub fn accepts(&self, found: Option<&[u8]>) -> bool {
        match (found, &self.value) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(found), Some(value)) => found == value.as_str().as_bytes(),
        }
    }
}

impl FromStr for FieldMatch {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let (name, value) = match text.split_once(':') {
            Some((name, value)) => (name, Some(value.trim().parse()?)),
            None => (text, None),
        };
        let name = name.parse()?;
        Ok(FieldMatch { name, value })
    }
}

text_form!(FieldMatch);

impl fmt::Display for FieldMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}: {value}", self.name),
            None => self.name.fmt(f),
        }
    }
}

/// `name: value`, set on every response in place of what the application set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResponseField {
    pub name: FieldName,
    pub value: FieldValue,
}

/// Fields that frame a message or belong to one connection (RFC 9110 section 7.6.1, RFC 9112 section 6): the proxy's.
const FRAMING: [&str; 11] = [
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "date",
];

impl FromStr for ResponseField {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let Some((name, value)) = text.split_once(':') else {
            return Err(TextError::not(
                text,
                "a response header",
                "write 'Name: value'",
            ));
        };
        let name: FieldName = name.parse()?;
        if FRAMING.contains(&name.as_str()) {
            return Err(TextError::not(
                name.as_str(),
                "a header to be set",
                "the proxy sets it by itself",
            ));
        }
        let value = value.trim().parse()?;
        Ok(ResponseField { name, value })
    }
}

text_form!(ResponseField);

impl fmt::Display for ResponseField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_match_by_presence_or_value() {
        let present: FieldMatch = "X-Beta".parse().unwrap();
        assert_eq!(present.to_string(), "x-beta");
        assert!(present.accepts(Some(b"")) && !present.accepts(None));
        let exact: FieldMatch = "X-Beta:  on ".parse().unwrap();
        assert_eq!(exact.to_string(), "x-beta: on");
        assert!(exact.accepts(Some(b"on")));
        assert!(!exact.accepts(Some(b"ON")) && !exact.accepts(None));
    }

    #[test]
    fn fields_that_would_break_a_message_are_refused() {
        let fine: ResponseField = "X-Team: shop: front".parse().unwrap();
        assert_eq!(fine.to_string(), "x-team: shop: front");
        for bad in [
            "X-Team",
            ": x",
            "X Team: x",
            "X-Team:",
            "X-Team: a\r\nSet-Cookie: b",
            "X-Team: ä",
            "Content-Length: 5",
            "transfer-encoding: chunked",
            "Connection: close",
        ] {
            assert!(bad.parse::<ResponseField>().is_err(), "{bad}");
        }
        assert!("a".repeat(200).parse::<FieldName>().is_err());
        assert!("a".repeat(5000).parse::<FieldValue>().is_err());
    }
}
