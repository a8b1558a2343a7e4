//! The file of `--http`: TOML in the shape of the API's JSON. Every error names the file and the line.

use std::ops::Range;
use std::path::Path;

use nebula_domain::text::nearest;
use nebula_wire::api::Http;
use nebula_wire::convert::{self, Passwords};
use toml::de::{DeTable, DeValue};

use crate::error::{CliError, Outcome};

/// Far over what a policy may hold; a larger file is the wrong file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

const HINT: &str = "see docs/http.md for what the file may say";

/// Reads and checks a policy.
pub fn read(path: &Path) -> Outcome<Http> {
    let wrong = |what: String| CliError::usage(format!("{}{what}", path.display()), HINT);
    let size = std::fs::metadata(path).map_err(|e| wrong(format!(": {e}")))?;
    if size.len() > MAX_FILE_BYTES {
        return Err(wrong(format!(
            " has {} bytes, over the limit of {MAX_FILE_BYTES}",
            size.len()
        )));
    }
    let bytes = std::fs::read(path).map_err(|e| wrong(format!(": {e}")))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong(" is not UTF-8 text".to_owned()))?;
    parse(&text).map_err(|(line, reason)| wrong(format!(", line {line}: {reason}")))
}

/// The policy, or the number of the first bad line and what is wrong with it.
fn parse(text: &str) -> Result<Http, (usize, String)> {
    let http: Http = toml::from_str(text).map_err(|error| {
        let line = line(text, error.span());
        (line, with_nearest(error.message()))
    })?;
    convert::policy(&http, Passwords::Unseen).map_err(|error| {
        let found = place(text, &error.field);
        (
            line(text, found),
            format!("{}: {}", error.field, error.reason),
        )
    })?;
    Ok(http)
}

fn line(text: &str, span: Option<Range<usize>>) -> usize {
    let before = span.and_then(|span| text.get(..span.start)).unwrap_or("");
    1 + before.bytes().filter(|b| *b == b'\n').count()
}

/// serde names an unknown field and all known ones; most often one of them was meant.
fn with_nearest(message: &str) -> String {
    let message = message.trim();
    let mut words = message.split('`').skip(1).step_by(2);
    let unknown = words
        .next()
        .filter(|_| message.starts_with("unknown field"));
    let near = unknown.and_then(|unknown| Some((unknown, nearest(unknown, words)?)));
    match near {
        Some((unknown, near)) => format!("unknown field '{unknown}': did you mean '{near}'?"),
        None => message.replace('`', "'"),
    }
}

/// Where a field such as `rules[1].path` stands, or the nearest table around it that is there.
fn place(text: &str, field: &str) -> Option<Range<usize>> {
    let document = DeTable::parse(text).ok()?;
    let mut found = None;
    let mut table = Some(document.get_ref());
    for step in field.split('.') {
        let mut names = step.split(['[', ']']);
        let name = names.next().unwrap_or_default();
        let entries = table.into_iter().flat_map(|table| table.iter());
        let entry = entries.into_iter().find(|(key, _)| key.get_ref() == name);
        let Some((_, mut value)) = entry else {
            return found;
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
    found
}

#[cfg(test)]
#[path = "http_file_fuzz.rs"]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_policy_s_json_in_another_dress() {
        let text = r#"
            names = ["shop.a.test", "*.shop.a.test"]
            https = "on"
            balance = "least-connections"
            weights = { r3 = 90, r4 = 10 }

            [limits]
            body = "10MiB"

            [[rules]]
            path = "/api"
            to = "api"
            strip_prefix = true

            [[rate_limits]]
            limit = "10r/s burst=20 nodelay"
            exempt = ["/health"]

            [basic_auth]
            users = ["ann"]
        "#;
        let http = parse(text).unwrap();
        assert_eq!(http.names.len(), 2);
        assert_eq!(http.rules[0].to.as_deref(), Some("api"));
        assert_eq!(http.limits.body.as_deref(), Some("10MiB"));
        assert!(http.keeps_passwords());
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn the_documentation_s_example_is_legal_and_says_something_everywhere() {
        let page = include_str!("../../../../docs/http.md");
        let (_, behind) = page.split_once("```toml\n").unwrap();
        let (example, _) = behind.split_once("```").unwrap();
        let http = parse(example).unwrap();
        for section in [
            "limits",
            "security",
            "cors",
            "maintenance",
            "addresses",
            "cache",
        ] {
            let json = serde_json::to_value(&http).unwrap();
            assert!(json.get(section).is_some(), "{section}");
        }
        assert_eq!((http.rules.len(), http.rate_limits.len()), (3, 2));
    }

    #[test]
    fn errors_name_the_line_and_the_nearest_word() {
        for (text, line, word) in [
            ("\nnmaes = []\n", 2, "did you mean 'names'?"),
            ("[limits]\n\nbodi = '1m'", 3, "did you mean 'body'?"),
            (
                "[[rules]]\npath = '/'\n[[rules]]\nstaus = 404",
                4,
                "did you mean 'status'?",
            ),
            ("colour = 'red'", 1, "unknown field 'colour'"),
            ("names = 'a.test'", 1, "invalid type"),
            ("\n[limits]\nbody = 10", 3, "expected a string"),
            (
                "[[rate_limits]]\ncluster = true",
                1,
                "missing field 'limit'",
            ),
            ("names = [", 1, ""),
            ("https = 'on'\nhttps = 'off'", 2, "duplicate key"),
            (
                "\nhttps = 'onn'",
                2,
                "https: 'onn' is not a setting of https: did you mean 'on'?",
            ),
            (
                "[limits]\nhead = '4KiB'\nbody = '10MB'",
                3,
                "did you mean '10MiB'?",
            ),
            ("names = [\n  'a.test',\n  'A.test',\n]", 3, "names[1]"),
            (
                "[[rules]]\nstatus = 404\n[[rules]]\npath = 'x'\nmethods = ['GET']",
                4,
                "rules[1].path",
            ),
            (
                "[[rules]]\npath = '/x'\nmethods = ['GET',\n'get']",
                4,
                "rules[0].methods[1]",
            ),
            (
                "[cors]\norigins = ['*']\ncredentials = true",
                3,
                "cors.credentials",
            ),
            ("deadlines = 'per_try=5m whole=1m'", 1, "per_try"),
            ("\n[basic_auth]\nusers = ['ann:secret']", 3, "bcrypt"),
        ] {
            let (at, reason) = parse(text).expect_err(text);
            assert_eq!(at, line, "{text}: {reason}");
            assert!(reason.contains(word), "{text}: {reason}");
            assert!(!reason.contains("secret"), "{reason}");
        }
    }

    #[test]
    fn errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("http.toml");
        std::fs::write(&path, "\nhttps = 'onn'").unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!(error.exit as u8, 2);
        assert!(error.to_string().contains("http.toml, line 2"), "{error}");
        assert!(read(&dir.path().join("none")).is_err());
        std::fs::write(&path, [0xff]).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("UTF-8"));
    }
}
