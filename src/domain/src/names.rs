//! Names that people choose. A value of these types has been checked; nothing else constructs one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::excerpt::excerpt;

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("'{value}' is not a valid {kind}: {reason}")]
pub struct NameError {
    pub kind: String,
    pub value: String,
    pub reason: String,
}

/// RFC 1123 section 2.1: letters, digits and inner dashes, at most 63 octets; lower case only, so
/// that a name has one spelling.
fn check_label(label: &str) -> Result<(), &'static str> {
    if label.is_empty() {
        return Err("it is empty; use 1 to 63 lower-case letters, digits and dashes");
    }
    if label.len() > 63 {
        return Err("it is longer than 63 characters");
    }
    if !label
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    {
        return Err("use only lower-case letters, digits and dashes");
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err("it must not begin or end with a dash");
    }
    Ok(())
}

/// RFC 1123 host name: labels joined by dots, at most 253 octets.
fn check_domain(domain: &str) -> Result<(), &'static str> {
    if domain.len() > 253 {
        return Err("it is longer than 253 characters");
    }
    domain.split('.').try_for_each(check_label)
}

/// Kubernetes' form of a label's key, in lower case so that it has one spelling: letters, digits and inner `-`, `_`, `.` and `/`.
fn check_label_key(key: &str) -> Result<(), &'static str> {
    if key.is_empty() {
        return Err("it is empty; use 1 to 63 lower-case letters, digits, '-', '_', '.' and '/'");
    }
    if key.len() > LABEL_BYTES_MAX {
        return Err("it is longer than 63 characters");
    }
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_./".contains(&b);
    if !key.bytes().all(legal) {
        return Err("use only lower-case letters, digits, '-', '_', '.' and '/'");
    }
    check_ends(key)
}

/// As Kubernetes has them, and never empty: letters, digits and inner `-`, `_` and `.`.
fn check_label_value(value: &str) -> Result<(), &'static str> {
    if value.is_empty() {
        return Err("it is empty; use 1 to 63 letters, digits, '-', '_' and '.'");
    }
    if value.len() > LABEL_BYTES_MAX {
        return Err("it is longer than 63 characters");
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if !value.bytes().all(legal) {
        return Err("use only letters, digits, '-', '_' and '.'");
    }
    check_ends(value)
}

fn check_ends(text: &str) -> Result<(), &'static str> {
    let ends = [text.bytes().next(), text.bytes().last()];
    match ends.iter().flatten().all(u8::is_ascii_alphanumeric) {
        true => Ok(()),
        false => Err("it must begin and end with a letter or a digit"),
    }
}

/// Of a label's key and of its value; as in Kubernetes, so that labels can be taken over from there.
const LABEL_BYTES_MAX: usize = 63;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(value: String) -> Result<Self, NameError> {
                match $check(&value) {
                    Ok(()) => Ok($name(value)),
                    Err(reason) => Err(NameError { kind: $kind.to_owned(), value: excerpt(&value), reason: reason.to_owned() }),
                }
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(value: &str) -> Result<Self, NameError> {
                value.to_owned().try_into()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// What a person calls an application; also the first label of its host name.
    DeploymentName, "deployment name", check_label
);
name!(
    /// What a person calls a machine; unique among the members.
    NodeName, "node name", check_label
);
name!(
    /// What a person calls a folder that a deployment keeps.
    VolumeName, "volume name", check_label
);
/// Letters, digits, dots, dashes and underscores, at most 128: any name of an environment variable, and the usual others.
fn check_secret(name: &str) -> Result<(), &'static str> {
    if name.len() > 128 {
        return Err("it is longer than 128 characters");
    }
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let begins = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    match name.as_bytes().first() {
        Some(first) if begins(first) && name.bytes().all(fits) => Ok(()),
        _ => Err("use letters, digits, '_', '-' and '.', beginning with a letter, a digit or '_'"),
    }
}

name!(
    /// What a person calls a secret, such as `DB_PASSWORD`.
    SecretName, "secret name", check_secret
);
name!(
    /// A domain under which deployments get their names, such as `mycompany.com`.
    DomainName, "domain name", check_domain
);

name!(
    /// What a node's label is called, such as `zone`.
    LabelKey, "label", check_label_key
);
name!(
    /// What a node's label says, such as `eu-1`.
    LabelValue, "label value", check_label_value
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_rfc_1123() {
        for good in ["a", "api", "a-b", "0x", &"a".repeat(63)] {
            assert!(good.parse::<DeploymentName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a_b",
            "a.b",
            "ä",
            &"a".repeat(64),
            "a b",
            "a/b",
        ] {
            assert!(bad.parse::<DeploymentName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_of_nodes_are_short_words() {
        for good in ["disk", "a/b", "topology.io/zone", "x_1", &"a".repeat(63)] {
            assert!(good.parse::<LabelKey>().is_ok(), "{good}");
        }
        for bad in ["", "Disk", "a b", "-a", "a/", "a=b", "!a", &"a".repeat(64)] {
            assert!(bad.parse::<LabelKey>().is_err(), "{bad}");
        }
        for good in ["ssd", "EU-1", "1.2_3"] {
            assert!(good.parse::<LabelValue>().is_ok(), "{good}");
        }
        for bad in ["", "a/b", "a b", ".a", "a-", &"a".repeat(64)] {
            assert!(bad.parse::<LabelValue>().is_err(), "{bad}");
        }
    }

    #[test]
    fn domains_are_labels_joined_by_dots() {
        for good in ["test", "example.test", "a.b.c"] {
            assert!(good.parse::<DomainName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "a..b",
            ".a",
            "a.",
            "A.b",
            &format!("{}.test", "a".repeat(64)),
        ] {
            assert!(bad.parse::<DomainName>().is_err(), "{bad}");
        }
    }
}
