//! The file of `--http`: TOML in the shape of the API's JSON. Every error names the file and the line.

use std::path::Path;

use nebula_wire::api::Http;
use nebula_wire::convert::{self, Passwords};
use toml::de::DeTable;

use crate::error::{CliError, Outcome};
use crate::toml_text::{self, place, position, with_nearest};

const HINT: &str = "see docs/http.md for what the file may say";

/// Reads and checks a policy.
pub fn read(path: &Path) -> Outcome<Http> {
    let text = toml_text::read(path, HINT)?;
    parse(&text).map_err(|(line, reason)| {
        CliError::usage(format!("{}, line {line}: {reason}", path.display()), HINT)
    })
}

/// The policy, or the number of the first bad line and what is wrong with it.
fn parse(text: &str) -> Result<Http, (usize, String)> {
    let http: Http = toml::from_str(text).map_err(|error| {
        let line = position(text, error.span()).line;
        (line, with_nearest(error.message()))
    })?;
    convert::policy(&http, Passwords::Unseen).map_err(|error| {
        let document = DeTable::parse(text).ok();
        let found = document.and_then(|document| place(document.get_ref(), &error.field));
        (
            position(text, found.map(|place| place.span)).line,
            format!("{}: {}", error.field, error.reason),
        )
    })?;
    Ok(http)
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
