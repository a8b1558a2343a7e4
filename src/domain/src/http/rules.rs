//! Route rules: which requests of a deployment's names get another answer than the deployment's own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::{HttpError, TextError, text_form, within};
use super::fields::{FieldMatch, is_token};
use super::limits::{FIELD_NAME_BYTES, PAGE_BYTES, RULE_HEADERS, RULE_METHODS};
use super::name::HostPattern;
use super::path::PathPrefix;
use super::redirect::{RedirectCode, RedirectTarget};
use crate::names::DeploymentName;
use crate::text::nearest;

/// A request's method: upper-case by custom, and case counts (RFC 9110 section 9.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Method(String);

/// RFC 9110 section 9.3 and RFC 5789.
const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE",
];

impl Method {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Method {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        FIELD_NAME_BYTES
            .check("the method's length in bytes", text.len())
            .map_err(|e| TextError::new(e.to_string()))?;
        if is_token(text) && !text.bytes().any(|b| b.is_ascii_lowercase()) {
            return Ok(Method(text.to_owned()));
        }
        let instead = match nearest(text, METHODS) {
            Some(near) => format!("did you mean '{near}'?"),
            None => "methods are words in upper case, such as GET".to_owned(),
        };
        Err(TextError::not(text, "a method", instead))
    }
}

text_form!(Method);

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A rule: all that it names must be so. Rules with longer paths are looked at first, those with equally
/// long ones in the order in which they are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// One of the deployment's names, or any of them.
    pub host: Option<HostPattern>,
    pub path: PathPrefix,
    /// Empty: any.
    pub methods: Vec<Method>,
    pub headers: Vec<FieldMatch>,
    pub action: Action,
}

/// What becomes of a request that a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// On to this deployment, or to another one, whose own policy then holds (all but its rules).
    Forward {
        to: Option<DeploymentName>,
        /// Take the rule's prefix off the path before it goes on.
        strip_prefix: bool,
    },
    Redirect {
        to: RedirectTarget,
        code: RedirectCode,
    },
    /// Answered by the proxy itself.
    Status { code: AnswerCode, body: String },
}

impl Default for Rule {
    fn default() -> Self {
        Rule {
            host: None,
            path: PathPrefix::root(),
            methods: Vec::new(),
            headers: Vec::new(),
            action: Action::Forward {
                to: None,
                strip_prefix: false,
            },
        }
    }
}

/// A status that ends a request: 200 to 599, those of redirects left out, which need a place to go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct AnswerCode(u16);

impl AnswerCode {
    pub fn get(self) -> u16 {
        self.0
    }

    /// RFC 9110 sections 15.3.5 and 15.3.6, and 15.4.5.
    fn has_body(self) -> bool {
        !matches!(self.0, 204 | 205 | 304)
    }
}

impl TryFrom<u16> for AnswerCode {
    type Error = TextError;
    fn try_from(code: u16) -> Result<Self, TextError> {
        match code {
            301 | 302 | 303 | 307 | 308 => Err(TextError::not(
                &code.to_string(),
                "a status to answer with",
                "write 'redirect' with the place to go to, and this as its 'code'",
            )),
            200..=599 => Ok(AnswerCode(code)),
            _ => Err(TextError::not(
                &code.to_string(),
                "a status to answer with",
                "use one from 200 to 599",
            )),
        }
    }
}

impl From<AnswerCode> for u16 {
    fn from(code: AnswerCode) -> u16 {
        code.0
    }
}

impl Rule {
    pub(super) fn check(&self, field: &str) -> Result<(), HttpError> {
        let of = |part: &str| format!("{field}.{part}");
        within(
            &of("methods"),
            RULE_METHODS,
            "the number of methods",
            self.methods.len(),
        )?;
        within(
            &of("headers"),
            RULE_HEADERS,
            "the number of headers",
            self.headers.len(),
        )?;
        match &self.action {
            Action::Forward {
                strip_prefix: true, ..
            } if self.path.is_root() => Err(HttpError::new(
                of("strip_prefix"),
                "there is nothing to strip from '/': give the rule a path",
            )),
            Action::Status { code, body } => {
                within(
                    &of("body"),
                    PAGE_BYTES,
                    "the body's size in bytes",
                    body.len(),
                )?;
                match body.is_empty() || code.has_body() {
                    true => Ok(()),
                    false => Err(HttpError::new(
                        of("body"),
                        format!("an answer with status {} has no body", code.get()),
                    )),
                }
            }
            _ => Ok(()),
        }
    }

    pub(super) fn text_bytes(&self) -> usize {
        let headers = self
            .headers
            .iter()
            .map(|h| h.name.as_str().len() + h.value.as_ref().map_or(0, |v| v.as_str().len()));
        let methods = self.methods.iter().map(|m| m.as_str().len());
        let action = match &self.action {
            Action::Forward { to, .. } => to.as_ref().map_or(0, |name| name.as_str().len()),
            Action::Redirect { to, .. } => to.to_string().len(),
            Action::Status { body, .. } => body.len(),
        };
        let host = self.host.as_ref().map_or(0, |host| host.to_string().len());
        host + self.path.bytes() + headers.sum::<usize>() + methods.sum::<usize>() + action
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_upper_case_words() {
        for good in ["GET", "PURGE", "M-SEARCH"] {
            assert_eq!(good.parse::<Method>().unwrap().as_str(), good);
        }
        for (bad, word) in [("get", "'GET'"), ("psot", "'POST'"), ("", "upper case")] {
            let error = bad.parse::<Method>().unwrap_err().to_string();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }

    #[test]
    fn rules_that_cannot_be_meant_are_refused() {
        let strip = Rule {
            action: Action::Forward {
                to: None,
                strip_prefix: true,
            },
            ..Rule::default()
        };
        assert_eq!(
            strip.check("rules[0]").unwrap_err().field,
            "rules[0].strip_prefix"
        );
        let answer = |code: u16, body: &str| Rule {
            action: Action::Status {
                code: code.try_into().unwrap(),
                body: body.to_owned(),
            },
            ..Rule::default()
        };
        assert!(answer(204, "x").check("rules[0]").is_err());
        assert!(answer(204, "").check("rules[0]").is_ok());
        assert!(answer(410, &"x".repeat(20_000)).check("rules[0]").is_err());
        let many = Rule {
            methods: vec!["GET".parse().unwrap(); 17],
            ..Rule::default()
        };
        assert_eq!(
            many.check("rules[3]").unwrap_err().field,
            "rules[3].methods"
        );
        for bad in [0, 101, 302, 600] {
            assert!(AnswerCode::try_from(bad).is_err(), "{bad}");
        }
    }
}
