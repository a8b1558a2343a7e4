//! `_redirects`: one rule a line (<https://docs.netlify.com/routing/redirects/>).
//!
//! ```text
//! # from            query     to                    status
//! /old/*                      /new/:splat
//! /news/:year/:slug           /blog/:year-:slug     302
//! /store            id=:id    /products/:id         301
//! /app/*                      /app/index.html       200
//! /closed                     /sorry.html           404!
//! ```
//!
//! The first rule that matches decides. A path that exists in the site is served in spite of rules, unless
//! the status ends with `!`. A slash at the end of a path makes no difference.

use std::borrow::Cow;
use std::collections::HashMap;

use percent_encoding::percent_decode_str;

use super::target::{Captured, Target, is_name};
use super::{Problem, Problems, lines};
use crate::excerpt::excerpt;

pub const REDIRECTS_FILE: &str = "_redirects";
/// Longest file that is read: [`RULES_MAX`] rules of usual length.
pub const REDIRECTS_BYTES_MAX: u64 = 1024 * 1024;
/// Rules of one file. From there on Netlify too advises wildcards.
const RULES_MAX: usize = 10_000;
/// Rules with placeholders or a splat. They are tried one after the other, for each path that is no file.
const PATTERNS_MAX: usize = 500;
/// Key and value pairs that one rule asks for.
const QUERY_MAX: usize = 16;
/// Of one line; longer than any path of an artifact and where it leads to.
const LINE_BYTES_MAX: usize = 4096;
/// What redirects (RFC 9110 section 15.4), and what shows the target's content under that status.
const REDIRECTING: &[u16] = &[301, 302, 303, 307, 308];
const SHOWING: &[u16] = &[200, 404, 410, 451];

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// `location` is encoded.
    Redirect { status: u16, location: String },
    /// The site's file at `path`, which is encoded as a request's.
    Show { status: u16, path: String },
}

/// The rules of one site, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Redirects {
    rules: Vec<Rule>,
    /// Those for one path each.
    exact: HashMap<String, Vec<usize>>,
    patterns: Vec<usize>,
    forced: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    from: Vec<Part>,
    splat: bool,
    query: Vec<(String, Part)>,
    target: Target,
    status: u16,
    force: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Is(String),
    Placeholder(String),
}

impl Redirects {
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a path that exists has to be looked for here as well.
    pub fn has_forced(&self) -> bool {
        self.forced
    }

    pub fn parse(text: &str) -> (Redirects, Vec<Problem>) {
        let mut problems = Problems::new(REDIRECTS_FILE);
        let mut redirects = Redirects::default();
        for (number, line) in lines(text) {
            let rule = match Rule::parse(line) {
                Ok(rule) => rule,
                Err(what) => {
                    problems.add(number, what);
                    continue;
                }
            };
            let limit = match rule.exact() {
                _ if redirects.rules.len() == RULES_MAX => Some((RULES_MAX, "redirect_rules")),
                None if redirects.patterns.len() == PATTERNS_MAX => {
                    Some((PATTERNS_MAX, "redirect_patterns"))
                }
                _ => None,
            };
            if let Some((limit, name)) = limit {
                let what = format!("the file has more than {limit} such rules ({name})");
                problems.add(number, what);
                break;
            }
            let index = redirects.rules.len();
            match rule.exact() {
                Some(path) => redirects.exact.entry(path).or_default().push(index),
                None => redirects.patterns.push(index),
            }
            redirects.forced |= rule.force;
            redirects.rules.push(rule);
        }
        (redirects, problems.found)
    }

    /// The rule for a decoded path without slashes around it. `exists`: the site has something there.
    pub fn find(&self, path: &str, query: Option<&str>, exists: bool) -> Option<Action> {
        if exists && !self.forced {
            return None;
        }
        let mut exact = self.exact.get(path).into_iter().flatten().peekable();
        let mut patterns = self.patterns.iter().peekable();
        loop {
            let next = match (exact.peek(), patterns.peek()) {
                (Some(a), Some(b)) if a < b => exact.next(),
                (_, Some(_)) => patterns.next(),
                (_, None) => exact.next(),
            };
            let rule = &self.rules[*next?];
            if exists && !rule.force {
                continue;
            }
            if let Some(action) = rule.apply(path, query) {
                return Some(action);
            }
        }
    }
}

impl Rule {
    fn parse(line: &str) -> Result<Rule, String> {
        if line.len() > LINE_BYTES_MAX {
            return Err(format!(
                "the line is longer than {LINE_BYTES_MAX} bytes (redirect_line_bytes)"
            ));
        }
        let mut words = line.split_whitespace().take_while(|w| !w.starts_with('#'));
        let from = words.next().unwrap_or_default();
        let (parts, splat) = from_path(from)?;
        let mut names: Vec<&str> = Vec::new();
        let mut query = Vec::new();
        let is_target =
            |w: &str| w.starts_with('/') || w.starts_with("http:") || w.starts_with("https:");
        let target = loop {
            let Some(word) = words.next() else {
                return Err("the rule leads nowhere: after the path comes the target".to_owned());
            };
            if is_target(word) {
                break word;
            }
            query.push(parameter(word)?);
        };
        if query.len() > QUERY_MAX {
            return Err(format!(
                "the rule asks for more than {QUERY_MAX} parameters (redirect_parameters)"
            ));
        }
        let placeholders = parts.iter().chain(query.iter().map(|(_, part)| part));
        for name in placeholders.filter_map(Part::name) {
            if names.contains(&name) || name == "splat" {
                return Err(format!("':{name}' stands for two things"));
            }
            names.push(name);
        }
        if splat {
            names.push("splat");
        }
        let target = Target::parse(target, &names)?;
        let (status, force) = match words.next() {
            None => (301, false),
            Some(word) => status(word)?,
        };
        if let Some(condition) = words.next() {
            let name = condition.split('=').next().unwrap_or(condition);
            return Err(format!(
                "the condition '{}' is not supported",
                excerpt(name)
            ));
        }
        if target.is_url && SHOWING.contains(&status) {
            return Err(
                "showing another host's content is not supported; redirect to it".to_owned(),
            );
        }
        Ok(Rule {
            from: parts,
            splat,
            query,
            target,
            status,
            force,
        })
    }

    /// The one path that the rule is for.
    fn exact(&self) -> Option<String> {
        if self.splat {
            return None;
        }
        let names: Option<Vec<&str>> = self.from.iter().map(Part::literal).collect();
        Some(names?.join("/"))
    }

    fn apply(&self, path: &str, query: Option<&str>) -> Option<Action> {
        let mut captured = self.capture(path)?;
        self.capture_query(query, &mut captured)?;
        let mut filled = self.target.fill(&captured);
        if SHOWING.contains(&self.status) {
            let end = filled.find(['?', '#']).unwrap_or(filled.len());
            filled.truncate(end);
            return Some(Action::Show {
                status: self.status,
                path: filled,
            });
        }
        if !self.target.is_url && !self.target.has_query && leads_to(&filled, path) {
            // It would come back for ever.
            return None;
        }
        // What the rule did not ask for is passed on.
        let passes = self.query.is_empty() && !self.target.has_query;
        if let Some(query) = query.filter(|query| passes && !query.is_empty()) {
            let at = filled.find('#').unwrap_or(filled.len());
            filled.insert_str(at, query);
            filled.insert(at, '?');
        }
        Some(Action::Redirect {
            status: self.status,
            location: filled,
        })
    }

    fn capture<'a>(&'a self, path: &'a str) -> Option<Vec<Captured<'a>>> {
        let mut captured = Vec::new();
        let mut rest = path;
        for part in &self.from {
            if rest.is_empty() {
                return None;
            }
            let (name, after) = rest.split_once('/').unwrap_or((rest, ""));
            match part {
                Part::Is(text) if text != name => return None,
                Part::Is(_) => {}
                Part::Placeholder(placeholder) => captured.push(Captured {
                    name: placeholder,
                    value: Cow::Borrowed(name),
                    is_splat: false,
                }),
            }
            rest = after;
        }
        if self.splat {
            captured.push(Captured {
                name: "splat",
                value: Cow::Borrowed(rest),
                is_splat: true,
            });
        } else if !rest.is_empty() {
            return None;
        }
        Some(captured)
    }

    /// All that the rule asks for is there, and nothing else: Netlify's rules match exactly, in any order.
    fn capture_query<'a>(
        &'a self,
        query: Option<&'a str>,
        captured: &mut Vec<Captured<'a>>,
    ) -> Option<()> {
        if self.query.is_empty() {
            return Some(());
        }
        let mut missing: Vec<&(String, Part)> = self.query.iter().collect();
        for pair in query.unwrap_or_default().split('&') {
            if pair.is_empty() {
                continue;
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (form(key)?, form(value)?);
            let index = missing.iter().position(|(wanted, _)| *wanted == key)?;
            match &missing.swap_remove(index).1 {
                Part::Is(wanted) if *wanted != value => return None,
                Part::Is(_) => {}
                Part::Placeholder(name) => captured.push(Captured {
                    name,
                    value,
                    is_splat: false,
                }),
            }
        }
        missing.is_empty().then_some(())
    }
}

impl Part {
    fn name(&self) -> Option<&str> {
        match self {
            Part::Placeholder(name) => Some(name),
            Part::Is(_) => None,
        }
    }

    fn literal(&self) -> Option<&str> {
        match self {
            Part::Is(text) => Some(text),
            Part::Placeholder(_) => None,
        }
    }

    fn parse(text: &str) -> Result<Part, String> {
        match text.strip_prefix(':') {
            Some(name) if is_name(name) => Ok(Part::Placeholder(name.to_owned())),
            _ => form(text)
                .map(|text| Part::Is(text.into_owned()))
                .ok_or_else(|| format!("'{}' is not UTF-8 once decoded", excerpt(text))),
        }
    }
}

fn from_path(from: &str) -> Result<(Vec<Part>, bool), String> {
    if from.contains("://") {
        return Err("rules for a host are not supported; begin with the path".to_owned());
    }
    if !from.starts_with('/') {
        return Err("a rule begins with a path, and that with '/'".to_owned());
    }
    if from.contains(['?', '#']) {
        return Err(
            "a path holds no '?' or '#'; parameters stand behind it, as in '/path id=:id'"
                .to_owned(),
        );
    }
    let path = from.trim_matches('/');
    let (path, splat) = match path.strip_suffix('*') {
        Some(before) if before.is_empty() || before.ends_with('/') => {
            (before.trim_end_matches('/'), true)
        }
        _ => (path, false),
    };
    if path.contains('*') {
        return Err("'*' is only understood as the last part of the path".to_owned());
    }
    let mut parts = Vec::new();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        match name.strip_prefix(':') {
            Some(placeholder) if is_name(placeholder) => {
                parts.push(Part::Placeholder(placeholder.to_owned()));
            }
            _ => {
                let decoded = percent_decode_str(name).decode_utf8();
                let decoded = decoded.map_err(|_| "the path is not UTF-8 once decoded")?;
                parts.push(Part::Is(decoded.into_owned()));
            }
        }
    }
    Ok((parts, splat))
}

fn parameter(word: &str) -> Result<(String, Part), String> {
    let Some((key, value)) = word.split_once('=') else {
        return Err(format!(
            "'{}' is neither a target nor a parameter such as 'id=:id'",
            excerpt(word)
        ));
    };
    let Some(key) = form(key).filter(|key| !key.is_empty()) else {
        return Err(format!("'{}' names no parameter", excerpt(word)));
    };
    Ok((key.into_owned(), Part::parse(value)?))
}

fn status(word: &str) -> Result<(u16, bool), String> {
    let (digits, force) = match word.strip_suffix('!') {
        Some(digits) => (digits, true),
        None => (word, false),
    };
    match digits.parse() {
        Ok(status) if REDIRECTING.contains(&status) || SHOWING.contains(&status) => {
            Ok((status, force))
        }
        Ok(status) => Err(format!("the status {status} is not supported")),
        Err(_) if word.contains('=') => {
            let name = word.split('=').next().unwrap_or(word);
            Err(format!(
                "the condition '{}' is not supported",
                excerpt(name)
            ))
        }
        Err(_) => Err(format!("'{}' is not a status", excerpt(word))),
    }
}

/// A key or value of a query, as forms write them: `+` is a space.
fn form(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('+') {
        return percent_decode_str(text).decode_utf8().ok();
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().ok()?;
    Some(Cow::Owned(decoded.into_owned()))
}

/// Whether a filled target is the path that was asked for.
fn leads_to(location: &str, path: &str) -> bool {
    let location = location.split('#').next().unwrap_or(location);
    percent_decode_str(location.trim_matches('/'))
        .decode_utf8()
        .is_ok_and(|location| location == path)
}
