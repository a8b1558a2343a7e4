//! Why a part of an HTTP policy was refused.

use std::fmt::Display;

use serde::{Deserialize, Serialize};

use crate::excerpt::excerpt;
use crate::limits::Limit;
use crate::text::nearest;

/// A refused part: where it is, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("http.{field}: {reason}")]
pub struct HttpError {
    /// As a person finds it: `limits.body`, `rules[2].path` (counted from 0).
    pub field: String,
    pub reason: String,
}

impl HttpError {
    pub fn new(field: impl Into<String>, reason: impl Display) -> HttpError {
        HttpError {
            field: field.into(),
            reason: reason.to_string(),
        }
    }
}

/// A value's text that says nothing valid. Whoever knows the field adds it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TextError(pub String);

impl TextError {
    pub(crate) fn new(reason: impl Into<String>) -> TextError {
        TextError(reason.into())
    }

    /// `'value' is not what; do this`.
    pub(crate) fn not(value: &str, what: &str, instead: impl Display) -> TextError {
        TextError(format!("'{}' is not {what}: {instead}", excerpt(value)))
    }
}

/// One of a few words, by their text.
pub(crate) fn choice<T: Copy>(text: &str, what: &str, known: &[(&str, T)]) -> Result<T, TextError> {
    if let Some((_, value)) = known.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let words: Vec<_> = known.iter().map(|(word, _)| format!("'{word}'")).collect();
    let instead = match nearest(text, known.iter().map(|(word, _)| *word)) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("use {}", words.join(" or ")),
    };
    Err(TextError::not(text, what, instead))
}

/// The word of a value among those of [`choice`].
pub(crate) fn word<T: PartialEq>(value: &T, known: &[(&'static str, T)]) -> &'static str {
    let found = known.iter().find(|(_, candidate)| candidate == value);
    found.map_or("", |(word, _)| word)
}

/// Checks a count or size of one field.
pub(crate) fn within(
    field: &str,
    limit: Limit,
    what: &str,
    actual: usize,
) -> Result<(), HttpError> {
    limit
        .check(what, actual)
        .map_err(|e| HttpError::new(field, e))
}

/// Gives a type checked text as its form in JSON, files and the registry.
macro_rules! text_form {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = $crate::http::TextError;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}
pub(crate) use text_form;

/// Gives an enum of plain words its text: `FromStr`, `Display` and what they stand on.
macro_rules! words {
    ($name:ident, $what:literal, { $($word:literal => $variant:ident),+ $(,)? }) => {
        impl $name {
            const WORDS: &'static [(&'static str, $name)] = &[$(($word, $name::$variant)),+];
        }

        impl std::str::FromStr for $name {
            type Err = $crate::http::TextError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::http::error::choice(text, $what, Self::WORDS)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str($crate::http::error::word(self, Self::WORDS))
            }
        }
    };
}
pub(crate) use words;
