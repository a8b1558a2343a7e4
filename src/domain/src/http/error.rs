//! Why a text of an HTTP setting was refused.

use std::fmt::Display;

use crate::excerpt::excerpt;

/// A value's text that says nothing valid. Whoever knows the field adds it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TextError(pub String);

impl TextError {
    /// `'value' is not what; do this`.
    pub(crate) fn not(value: &str, what: &str, instead: impl Display) -> TextError {
        TextError(format!("'{}' is not {what}: {instead}", excerpt(value)))
    }
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
