//! What a static site's own files say about how it is served: `_redirects` and `_headers`, in the
//! formats that Netlify documents, and which of its files are worth compressing.
//!
//! A line that is not understood, or asks for what is not supported, is left out as a whole and named as
//! a [`Problem`]: half a rule would do something its author did not write.

mod glob;
mod headers;
mod redirects;
mod target;
#[cfg(test)]
mod tests;

use std::fmt;

pub use headers::{HEADERS_BYTES_MAX, HEADERS_FILE, Headers};
pub use redirects::{Action, REDIRECTS_BYTES_MAX, REDIRECTS_FILE, Redirects};

/// Problems that are listed of one file; a file of another format would bring one for each line.
pub const PROBLEMS_MAX: usize = 50;

/// Below this a compressed file and its headers fit one packet as well as the file itself.
pub const PACK_BYTES_MIN: u64 = 1024;

/// A line that has no effect, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file's name in the site's root.
    pub file: &'static str,
    /// Counted from 1; 0 for the file as a whole.
    pub line: usize,
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.what),
            line => write!(f, "{} line {line}: {}", self.file, self.what),
        }
    }
}

/// Rules for the server, which are never served themselves.
pub fn is_rule_file(path: &str) -> bool {
    path == REDIRECTS_FILE || path == HEADERS_FILE
}

/// Whether compression makes a file of that name noticeably smaller: text, and not what is compressed in
/// itself.
pub fn compresses(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let Some((_, extension)) = name.rsplit_once('.') else {
        return false;
    };
    TEXT.iter()
        .any(|known| extension.eq_ignore_ascii_case(known))
}

const TEXT: &[&str] = &[
    "atom",
    "bmp",
    "cjs",
    "css",
    "csv",
    "eot",
    "geojson",
    "htm",
    "html",
    "ico",
    "ics",
    "js",
    "json",
    "jsonld",
    "map",
    "md",
    "mjs",
    "otf",
    "rss",
    "svg",
    "toml",
    "ts",
    "tsv",
    "ttf",
    "txt",
    "vtt",
    "wasm",
    "webmanifest",
    "xhtml",
    "xml",
    "xsl",
    "yaml",
    "yml",
];

/// Collects problems up to [`PROBLEMS_MAX`].
struct Problems {
    file: &'static str,
    found: Vec<Problem>,
}

impl Problems {
    fn new(file: &'static str) -> Problems {
        Problems {
            file,
            found: Vec::new(),
        }
    }

    fn add(&mut self, line: usize, what: impl Into<String>) {
        let what = match self.found.len() {
            PROBLEMS_MAX => "further problems are not listed".to_owned(),
            more if more > PROBLEMS_MAX => return,
            _ => what.into(),
        };
        let file = self.file;
        self.found.push(Problem { file, line, what });
    }
}

/// The lines that say something, numbered from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines()
        .map(str::trim)
        .zip(1..)
        .filter(|(line, _)| !line.is_empty() && !line.starts_with('#'))
        .map(|(line, number)| (number, line))
}
