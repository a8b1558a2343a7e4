//! `_headers`: response fields by path (<https://docs.netlify.com/routing/headers/>).
//!
//! ```text
//! # A comment.
//! /assets/*
//!   Cache-Control: public, max-age=3600
//!   Access-Control-Allow-Origin: *
//! ```
//!
//! A name that a rule has twice becomes one field, its values joined by commas. Of several rules that
//! match a path, the last that has a name decides about it, as in Netlify's own tools.

use percent_encoding::percent_decode_str;

use super::glob::Glob;
use super::{Problem, Problems, lines};
use crate::excerpt::excerpt;

pub const HEADERS_FILE: &str = "_headers";
/// Longest file that is read: a thousand rules, and their fields still fit the memory of a client.
pub const HEADERS_BYTES_MAX: u64 = 64 * 1024;
/// Rules of one file. Each is looked at for every path that is served for the first time.
const RULES_MAX: usize = 1000;
/// Fields of one rule.
const FIELDS_MAX: usize = 64;
/// Of one value. Servers and clients commonly take 8 KiB for all of a response's fields.
const VALUE_BYTES_MAX: usize = 4096;

/// Fields that the proxy sets by itself, or that mean something else to it (Netlify's list, and what is
/// about one message or one connection: RFC 9110 sections 7.6 and 8).
const RESERVED: &[&str] = &[
    "accept-ranges",
    "age",
    "allow",
    "alt-svc",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "date",
    "etag",
    "keep-alive",
    "location",
    "proxy-authenticate",
    "proxy-connection",
    "server",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
];

/// The rules of one site, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    path: Glob,
    /// Names in lower case.
    fields: Vec<(String, String)>,
}

impl Headers {
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub fn parse(text: &str) -> (Headers, Vec<Problem>) {
        let mut problems = Problems::new(HEADERS_FILE);
        let mut rules: Vec<Rule> = Vec::new();
        // The fields below a path that was refused are refused with it.
        let mut current = Current::None;
        for (number, line) in lines(text) {
            if ["/", "http://", "https://"]
                .iter()
                .any(|begin| line.starts_with(begin))
            {
                current = match rule(line) {
                    Ok(_) if rules.len() == RULES_MAX => {
                        let what =
                            format!("the file has more than {RULES_MAX} rules (header_rules)");
                        problems.add(number, what);
                        break;
                    }
                    Ok(rule) => {
                        rules.push(rule);
                        Current::Last
                    }
                    Err(what) => {
                        problems.add(number, what);
                        Current::Refused
                    }
                };
                continue;
            }
            match (&current, rules.last_mut(), field(line)) {
                (Current::Refused, ..) => {}
                (_, _, Err(what)) => problems.add(number, what),
                (Current::Last, Some(rule), Ok((name, value))) => {
                    if let Err(what) = rule.add(name, value) {
                        problems.add(number, what);
                    }
                }
                (_, _, Ok(_)) => problems.add(number, "a field stands before any path"),
            }
        }
        rules.retain(|rule| !rule.fields.is_empty());
        (Headers { rules }, problems.found)
    }

    /// The fields for a decoded path without slashes around it: names in lower case, each once.
    pub fn of(&self, path: &str) -> Vec<(&str, &str)> {
        let mut all: Vec<(&str, &str)> = Vec::new();
        for rule in self.rules.iter().filter(|rule| rule.path.matches(path)) {
            for (name, value) in &rule.fields {
                match all.iter_mut().find(|(known, _)| known == name) {
                    Some(field) => field.1 = value,
                    None => all.push((name, value)),
                }
            }
        }
        all
    }
}

enum Current {
    None,
    Last,
    Refused,
}

impl Rule {
    fn add(&mut self, name: String, value: &str) -> Result<(), String> {
        if let Some((_, known)) = self.fields.iter_mut().find(|(known, _)| *known == name) {
            if known.len() + value.len() + 2 > VALUE_BYTES_MAX {
                return Err(too_long());
            }
            known.push_str(", ");
            known.push_str(value);
            return Ok(());
        }
        if self.fields.len() == FIELDS_MAX {
            return Err(format!(
                "the rule has more than {FIELDS_MAX} fields (header_fields)"
            ));
        }
        self.fields.push((name, value.to_owned()));
        Ok(())
    }
}

fn rule(line: &str) -> Result<Rule, String> {
    if !line.starts_with('/') {
        return Err("rules for a host are not supported; begin the path with '/'".to_owned());
    }
    let path = percent_decode_str(line)
        .decode_utf8()
        .map_err(|_| "the path is not UTF-8 once decoded".to_owned())?;
    Ok(Rule {
        path: Glob::parse(&path)?,
        fields: Vec::new(),
    })
}

fn field(line: &str) -> Result<(String, &str), String> {
    let Some((name, value)) = line.split_once(':') else {
        return Err(format!(
            "'{}' is neither a path nor 'Name: value'",
            excerpt(line)
        ));
    };
    let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
    // RFC 9110 section 5.6.2.
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(format!("'{}' is not a field's name", excerpt(&name)));
    }
    if name == "basic-auth" {
        // The value is a password: it must not be sent to anybody, nor shown here.
        return Err("'Basic-Auth' is not supported, and is not sent".to_owned());
    }
    if RESERVED.contains(&name.as_str()) {
        return Err(format!("'{name}' is set by the proxy itself"));
    }
    if value.is_empty() {
        return Err(format!("'{name}' has no value"));
    }
    if value.len() > VALUE_BYTES_MAX {
        return Err(too_long());
    }
    if !value
        .bytes()
        .all(|b| b == b'\t' || (b' '..=b'~').contains(&b))
    {
        return Err(format!(
            "the value of '{name}' holds other than plain ASCII"
        ));
    }
    Ok((name, value))
}

fn too_long() -> String {
    format!("the value is longer than {VALUE_BYTES_MAX} bytes (header_value_bytes)")
}
