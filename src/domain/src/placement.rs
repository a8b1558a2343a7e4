//! Where a deployment's instances may run and where they had better: rules on the labels of nodes, and on the
//! neighbourhood of other deployments. Pure values with their text and checks; `plan` carries them out.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::http::TextError;
use crate::limits::{LimitExceeded, PLACEMENT_NEIGHBOURS, PLACEMENT_RULES};
use crate::names::{DeploymentName, LabelKey, LabelValue};

/// What a node is labelled with, by its operator.
pub type Labels = BTreeMap<LabelKey, LabelValue>;

/// The label that every node has by itself: its name.
pub const NODE_LABEL: &str = "node";

/// Why a placement was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum PlacementError {
    #[error("placement.near and placement.apart_from both name '{0}'")]
    NearAndApart(DeploymentName),
    #[error("placement.require says both '{0}' and '{1}': no node can be both")]
    Contradiction(String, String),
    #[error("{0}")]
    Limit(#[from] LimitExceeded),
}

/// Wishes for the nodes of a deployment's instances. Without any, they spread evenly over all nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Only nodes to which all of these apply.
    pub require: Vec<Rule>,
    /// Nodes to which more of these apply come first, while they have room.
    pub prefer: Vec<Rule>,
    /// Nodes to which any of these applies come last.
    pub avoid: Vec<Rule>,
    /// Evenly over the values of this label before evenly over nodes.
    pub spread: Option<LabelKey>,
    /// Never on a node with an instance of these deployments.
    pub apart_from: Vec<DeploymentName>,
    /// Better on a node with an instance of these deployments.
    pub near: Vec<DeploymentName>,
}

impl Placement {
    /// # Errors
    /// It says too much, or what cannot be.
    pub fn check(&self) -> Result<(), PlacementError> {
        for (what, rules) in [
            ("the number of rules in placement.require", &self.require),
            ("the number of rules in placement.prefer", &self.prefer),
            ("the number of rules in placement.avoid", &self.avoid),
        ] {
            PLACEMENT_RULES.check(what, rules.len())?;
        }
        for (what, names) in [
            (
                "the number of deployments in placement.apart_from",
                &self.apart_from,
            ),
            ("the number of deployments in placement.near", &self.near),
        ] {
            PLACEMENT_NEIGHBOURS.check(what, names.len())?;
        }
        if let Some(name) = self.near.iter().find(|name| self.apart_from.contains(name)) {
            return Err(PlacementError::NearAndApart(name.clone()));
        }
        for (index, rule) in self.require.iter().enumerate() {
            let mut before = self.require[..index].iter();
            if let Some(other) = before.find(|other| other.excludes(rule)) {
                return Err(PlacementError::Contradiction(
                    other.to_string(),
                    rule.to_string(),
                ));
            }
        }
        Ok(())
    }

    /// How much better than any node one with these labels is; less than 0: worse.
    pub fn score(&self, labels: &Labels) -> i32 {
        let hits = |rules: &[Rule]| {
            let hits = rules.iter().filter(|rule| rule.applies(labels)).count();
            i32::try_from(hits).unwrap_or(i32::MAX)
        };
        hits(&self.prefer) - hits(&self.avoid)
    }
}

/// One rule on a node's labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Rule {
    /// `disk=ssd`
    Is(LabelKey, LabelValue),
    /// `zone!=eu`; a node without the label is another one too.
    IsNot(LabelKey, LabelValue),
    /// `gpu`: whatever it says.
    Has(LabelKey),
    /// `!gpu`
    HasNot(LabelKey),
}

impl Rule {
    pub fn applies(&self, labels: &Labels) -> bool {
        match self {
            Rule::Is(key, value) => labels.get(key) == Some(value),
            Rule::IsNot(key, value) => labels.get(key) != Some(value),
            Rule::Has(key) => labels.contains_key(key),
            Rule::HasNot(key) => !labels.contains_key(key),
        }
    }

    fn key(&self) -> &LabelKey {
        match self {
            Rule::Is(key, _) | Rule::IsNot(key, _) | Rule::Has(key) | Rule::HasNot(key) => key,
        }
    }

    /// No labels satisfy both.
    fn excludes(&self, other: &Rule) -> bool {
        if self.key() != other.key() {
            return false;
        }
        match (self, other) {
            (Rule::Is(_, a), Rule::Is(_, b)) => a != b,
            (Rule::Is(_, a), Rule::IsNot(_, b)) | (Rule::IsNot(_, a), Rule::Is(_, b)) => a == b,
            (Rule::Is(..) | Rule::Has(_), Rule::HasNot(_)) => true,
            (Rule::HasNot(_), Rule::Is(..) | Rule::Has(_)) => true,
            _ => false,
        }
    }
}

impl FromStr for Rule {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Rule, TextError> {
        let wrong = |_| {
            TextError::not(
                text,
                "a rule on labels",
                "write disk=ssd, zone!=eu, gpu (has the label) or !gpu (has it not)",
            )
        };
        if let Some((key, value)) = text.split_once("!=") {
            let key = key.trim_end().parse().map_err(wrong)?;
            return Ok(Rule::IsNot(key, value.trim_start().parse().map_err(wrong)?));
        }
        if let Some((key, value)) = text.split_once('=') {
            let key = key.trim_end().parse().map_err(wrong)?;
            return Ok(Rule::Is(key, value.trim_start().parse().map_err(wrong)?));
        }
        match text.strip_prefix('!') {
            Some(key) => key.parse().map(Rule::HasNot).map_err(wrong),
            None => text.parse().map(Rule::Has).map_err(wrong),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Is(key, value) => write!(f, "{key}={value}"),
            Rule::IsNot(key, value) => write!(f, "{key}!={value}"),
            Rule::Has(key) => write!(f, "{key}"),
            Rule::HasNot(key) => write!(f, "!{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let label = |(key, value): &(&str, &str)| (key.parse().unwrap(), value.parse().unwrap());
        pairs.iter().map(label).collect()
    }

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn rules_are_read_shown_and_applied() {
        let node = labels(&[("disk", "ssd"), ("zone", "eu-1")]);
        for (text, shown, applies) in [
            ("disk=ssd", "disk=ssd", true),
            ("disk = hdd", "disk=hdd", false),
            ("zone!=eu-1", "zone!=eu-1", false),
            ("zone != us-1", "zone!=us-1", true),
            ("rack!=r1", "rack!=r1", true),
            ("disk", "disk", true),
            ("gpu", "gpu", false),
            ("!gpu", "!gpu", true),
            ("!disk", "!disk", false),
        ] {
            let rule: Rule = text.parse().unwrap();
            assert_eq!(
                (rule.to_string().as_str(), rule.applies(&node)),
                (shown, applies)
            );
        }
        for bad in [
            "", "=", "a=", "=b", "a==b", "!a=b", "A=b", "a!=", "a b", "!!a",
        ] {
            let error = bad.parse::<Rule>().unwrap_err().to_string();
            assert!(error.contains("disk=ssd"), "{error}");
        }
    }

    #[test]
    fn preferences_add_up() {
        let placement = Placement {
            prefer: rules(&["disk=ssd", "zone=eu"]),
            avoid: rules(&["spot"]),
            ..Placement::default()
        };
        for (node, score) in [
            (&[("disk", "ssd"), ("zone", "eu")][..], 2),
            (&[("disk", "ssd"), ("spot", "yes")], 0),
            (&[("spot", "yes")], -1),
            (&[], 0),
        ] {
            assert_eq!(placement.score(&labels(node)), score);
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |placement: Placement| placement.check().unwrap_err().to_string();
        let require = |texts: &[&str]| Placement {
            require: rules(texts),
            ..Placement::default()
        };
        for two in [["a=b", "a=c"], ["a=b", "a!=b"], ["a", "!a"], ["!a", "a=b"]] {
            assert!(
                refused(require(&two)).contains("no node can be both"),
                "{two:?}"
            );
        }
        for two in [
            ["a=b", "a"],
            ["a!=b", "a!=c"],
            ["a=b", "b=c"],
            ["!a", "a!=b"],
        ] {
            require(&two).check().unwrap();
        }
        let name: DeploymentName = "db".parse().unwrap();
        let both = Placement {
            near: vec![name.clone()],
            apart_from: vec![name.clone()],
            ..Placement::default()
        };
        assert!(refused(both).contains("both name 'db'"));
        let many = Placement {
            prefer: vec!["a=b".parse().unwrap(); 17],
            ..Placement::default()
        };
        assert!(refused(many).contains("placement_rules"));
        let many = Placement {
            near: vec![name; 17],
            ..Placement::default()
        };
        assert!(refused(many).contains("placement_neighbours"));
    }
}
