//! Where instances may be, between text and the domain's types.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use nebula_domain::names::{LabelKey, LabelValue, NameError};
use nebula_domain::placement::{Labels, Placement};

use crate::api::{self, ApiError};

fn each<T: FromStr<Err: Display>>(field: &str, texts: &[String]) -> Result<Vec<T>, ApiError> {
    let read = |text: &String| {
        text.parse().map_err(|e| {
            ApiError::bad_request(format!("placement.{field}: {e}"), "see docs/placement.md")
        })
    };
    texts.iter().map(read).collect()
}

fn texts<T: Display>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

/// A placement as it arrives; its bounds are the spec's to check.
pub(super) fn placement(wire: &api::Placement) -> Result<Placement, ApiError> {
    let spread = wire.spread.as_slice();
    Ok(Placement {
        require: each("require", &wire.require)?,
        prefer: each("prefer", &wire.prefer)?,
        avoid: each("avoid", &wire.avoid)?,
        spread: each("spread", spread)?.pop(),
        apart_from: each("apart_from", &wire.apart_from)?,
        near: each("near", &wire.near)?,
    })
}

pub(super) fn told_placement(placement: &Placement) -> api::Placement {
    api::Placement {
        require: texts(&placement.require),
        prefer: texts(&placement.prefer),
        avoid: texts(&placement.avoid),
        spread: placement.spread.as_ref().map(ToString::to_string),
        apart_from: texts(&placement.apart_from),
        near: texts(&placement.near),
    }
}

/// The key of a label.
pub fn label_key(text: &str) -> Result<LabelKey, ApiError> {
    let bad = |e: NameError| ApiError::bad_request(e.to_string(), "use a word such as 'zone'");
    text.parse().map_err(bad)
}

/// Labels as they arrive.
pub fn labels(wire: &BTreeMap<String, String>) -> Result<Labels, ApiError> {
    let label = |(key, value): (&String, &String)| {
        let bad = |e: NameError| ApiError::bad_request(e.to_string(), "use a word such as 'eu-1'");
        let value: LabelValue = value.parse().map_err(bad)?;
        Ok((label_key(key)?, value))
    };
    wire.iter().map(label).collect()
}

pub fn told_labels(labels: &Labels) -> BTreeMap<String, String> {
    let labels = labels.iter();
    labels
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placements_survive_being_told_and_errors_name_the_field() {
        let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let wire = api::Placement {
            require: list(&["disk=ssd", "zone!=eu", "gpu", "!spot"]),
            prefer: list(&["rack=r1"]),
            avoid: list(&["slow"]),
            spread: Some("zone".into()),
            apart_from: list(&["batch"]),
            near: list(&["db"]),
        };
        assert_eq!(told_placement(&placement(&wire).unwrap()), wire);
        let none = api::Placement::default();
        assert_eq!(placement(&none).unwrap(), Placement::default());
        let bad = |change: fn(&mut api::Placement)| {
            let mut wire = api::Placement::default();
            change(&mut wire);
            placement(&wire).unwrap_err().message
        };
        let error = bad(|wire| wire.prefer = vec!["a==b".into()]);
        assert!(error.starts_with("placement.prefer: 'a==b'"), "{error}");
        let error = bad(|wire| wire.spread = Some("A".into()));
        assert!(error.starts_with("placement.spread: 'A'"), "{error}");
        let error = bad(|wire| wire.near = vec!["No".into()]);
        assert!(error.starts_with("placement.near: 'No'"), "{error}");
    }

    #[test]
    fn labels_survive_being_told() {
        let wire: BTreeMap<_, _> = [("zone".to_owned(), "EU-1".to_owned())].into();
        assert_eq!(told_labels(&labels(&wire).unwrap()), wire);
        for (key, value) in [("Zone", "a"), ("zone", ""), ("zone", "a b")] {
            let wire = [(key.to_owned(), value.to_owned())].into();
            assert!(labels(&wire).is_err(), "{key}={value}");
        }
    }
}
