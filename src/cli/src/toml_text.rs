//! TOML files that people write: their text, where in it something stands, and errors in people's words.

use std::ops::Range;
use std::path::Path;

use nebula_domain::text::nearest;
use toml::de::{DeTable, DeValue};

use crate::error::{CliError, Outcome};

/// Far over what any of these files may hold; a larger one is the wrong file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The file's text. Errors name the file.
pub fn read(path: &Path, hint: &str) -> Outcome<String> {
    let wrong = |what: String| CliError::usage(format!("{}{what}", path.display()), hint);
    let size = std::fs::metadata(path).map_err(|e| wrong(format!(": {e}")))?;
    if size.len() > MAX_FILE_BYTES {
        return Err(wrong(format!(
            " has {} bytes, over the limit of {MAX_FILE_BYTES}",
            size.len()
        )));
    }
    let bytes = std::fs::read(path).map_err(|e| wrong(format!(": {e}")))?;
    String::from_utf8(bytes).map_err(|_| wrong(" is not UTF-8 text".to_owned()))
}

/// A place in a text as editors count: from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// Where a span begins; the text's beginning without one.
pub fn position(text: &str, span: Option<Range<usize>>) -> Position {
    let before = span.and_then(|span| text.get(..span.start)).unwrap_or("");
    let line = before.rsplit('\n').next().unwrap_or_default();
    Position {
        line: 1 + before.bytes().filter(|b| *b == b'\n').count(),
        column: 1 + line.chars().count(),
    }
}

/// serde names an unknown word and all known ones; most often one of them was meant.
pub fn with_nearest(message: &str) -> String {
    let message = message.trim();
    let mut words = message.split('`').skip(1).step_by(2);
    let what = [("unknown field", "field"), ("unknown variant", "value")]
        .into_iter()
        .find(|(start, _)| message.starts_with(start));
    let near = what.and_then(|(_, what)| {
        let unknown = words.next()?;
        Some((what, unknown, nearest(unknown, words)?))
    });
    match near {
        Some((what, unknown, near)) => {
            format!("unknown {what} '{unknown}': did you mean '{near}'?")
        }
        None => message.replace('`', "'"),
    }
}

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub span: Range<usize>,
    /// Whether it is the field itself, and not the nearest table around it that is there.
    pub exact: bool,
}

/// Where a field such as `rules[1].path` stands, or the nearest table around it that is there.
pub fn place(document: &DeTable<'_>, field: &str) -> Option<Place> {
    let mut found = None;
    let mut table = Some(document);
    for step in field.split('.') {
        let mut names = step.split(['[', ']']);
        let name = names.next().unwrap_or_default();
        let Some((_, mut value)) = table.and_then(|table| entry(table, name)) else {
            return found.map(|span| Place { span, exact: false });
        };
        for index in names.filter_map(|index| index.parse::<usize>().ok()) {
            let entry = match value.get_ref() {
                DeValue::Array(entries) => entries.get(index),
                _ => None,
            };
            match entry {
                Some(entry) => value = entry,
                None => break,
            }
        }
        found = Some(value.span());
        table = match value.get_ref() {
            DeValue::Table(table) => Some(table),
            _ => None,
        };
    }
    found.map(|span| Place { span, exact: true })
}

type Key<'i> = toml::Spanned<toml::de::DeString<'i>>;
type Entry<'a, 'i> = (&'a Key<'i>, &'a toml::Spanned<DeValue<'i>>);

/// A table's entry of this name, with where its key stands.
pub fn entry<'a, 'i>(table: &'a DeTable<'i>, name: &str) -> Option<Entry<'a, 'i>> {
    table.iter().find(|(key, _)| key.get_ref() == name)
}
