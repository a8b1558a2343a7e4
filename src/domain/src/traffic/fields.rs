//! The common text form of settings: words and `key=value` pairs between spaces.

use std::time::Duration;

use super::TrafficError;
use crate::excerpt::excerpt;
use crate::limits::Limit;
use crate::text::{Percent, nearest, parse_duration, parse_number};

/// A setting's text; the longest that means anything is about half of it.
const TEXT_BYTES: Limit = Limit {
    name: "traffic_setting_bytes",
    max: 512,
};

/// What a kind of setting looks like.
#[derive(Clone, Copy)]
pub(crate) struct Form {
    /// With its article: "a rate limit".
    pub(crate) what: &'static str,
    pub(crate) example: &'static str,
    /// Keys of pairs, and words that stand alone.
    pub(crate) words: &'static [&'static str],
}

/// A setting's text, taken apart. Every word is known and stands there once.
pub(crate) struct Fields<'a> {
    form: Form,
    pairs: Vec<(&'a str, Option<&'a str>)>,
}

impl Form {
    pub(crate) fn read<'a>(&self, text: &'a str) -> Result<Fields<'a>, TrafficError> {
        TEXT_BYTES.check(&format!("the length of {} in bytes", self.what), text.len())?;
        let mut pairs: Vec<(&str, Option<&str>)> = Vec::new();
        for word in text.split_ascii_whitespace() {
            let (key, value) = match word.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (word, None),
            };
            if !self.words.contains(&key) {
                return Err(self.unknown(key));
            }
            if pairs.iter().any(|(earlier, _)| *earlier == key) {
                return Err(TrafficError::Twice {
                    what: self.what.to_owned(),
                    word: key.to_owned(),
                });
            }
            pairs.push((key, value));
        }
        if pairs.is_empty() {
            return Err(self.malformed(text));
        }
        Ok(Fields { form: *self, pairs })
    }

    pub(crate) fn malformed(&self, text: &str) -> TrafficError {
        TrafficError::Malformed {
            what: self.what.to_owned(),
            text: excerpt(text),
            example: self.example.to_owned(),
        }
    }

    pub(crate) fn unknown(&self, word: &str) -> TrafficError {
        let hint = match nearest(word, self.words.iter().copied()) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("write it as in '{}'", self.example),
        };
        TrafficError::UnknownWord {
            what: self.what.to_owned(),
            word: excerpt(word),
            hint,
        }
    }
}

impl Fields<'_> {
    /// Whether a word that stands alone is there.
    pub(crate) fn flag(&self, word: &str) -> Result<bool, TrafficError> {
        match self.find(word) {
            None => Ok(false),
            Some(None) => Ok(true),
            Some(Some(value)) => Err(self.bad(word, value, "it takes none")),
        }
    }

    pub(crate) fn count(&self, key: &str, default: u32) -> Result<u32, TrafficError> {
        let read = |text: &str| parse_number(text).and_then(|n| u32::try_from(n).ok());
        self.value(key, default, read, "a whole number, such as 20")
    }

    pub(crate) fn duration(&self, key: &str, default: Duration) -> Result<Duration, TrafficError> {
        self.value(
            key,
            default,
            parse_duration,
            "a time, such as 500ms, 30s or 5m",
        )
    }

    pub(crate) fn percent(&self, key: &str, default: Percent) -> Result<Percent, TrafficError> {
        self.value(key, default, Percent::parse, "a share of 0% to 100%")
    }

    pub(crate) fn text(&self, key: &str, default: &str) -> Result<String, TrafficError> {
        let read = |text: &str| Some(text.to_owned());
        self.value(key, default.to_owned(), read, "a name")
    }

    pub(crate) fn value<T>(
        &self,
        key: &str,
        default: T,
        read: impl Fn(&str) -> Option<T>,
        expected: &str,
    ) -> Result<T, TrafficError> {
        match self.find(key) {
            None => Ok(default),
            Some(None) => Err(self.bad(key, "", expected)),
            Some(Some(text)) => read(text).ok_or_else(|| self.bad(key, text, expected)),
        }
    }

    fn find(&self, key: &str) -> Option<Option<&str>> {
        let found = self.pairs.iter().find(|(found, _)| *found == key);
        found.map(|(_, value)| *value)
    }

    fn bad(&self, field: &str, text: &str, expected: &str) -> TrafficError {
        TrafficError::BadValue {
            what: self.form.what.to_owned(),
            field: field.to_owned(),
            text: excerpt(text),
            expected: expected.to_owned(),
        }
    }
}
