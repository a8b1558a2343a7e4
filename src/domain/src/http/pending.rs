//! Parts of a policy that the proxy does not carry out yet. They have their form and their checks; whoever sets one is told,
//! instead of relying on what does not happen.

use super::{HttpError, HttpPolicy, Upstream};

impl HttpPolicy {
    /// Refuses what would have no effect. For whoever takes policies from people; stored ones stay as they are.
    pub fn check_carried_out(&self) -> Result<(), HttpError> {
        let pending = [
            ("hedge", self.hedge.is_some()),
            ("upstream", self.upstream != Upstream::default()),
            (
                "rate_limits.cluster",
                self.rate_limits.iter().any(|rule| rule.cluster),
            ),
        ];
        match pending.iter().find(|(_, set)| *set) {
            Some((field, _)) => Err(HttpError::new(
                *field,
                "the proxy does not carry this out yet: leave it out",
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::SecurityHeaders;
    use super::*;

    #[test]
    fn what_would_have_no_effect_is_refused() {
        HttpPolicy::default().check_carried_out().unwrap();
        HttpPolicy {
            security: SecurityHeaders::OFF,
            ..HttpPolicy::default()
        }
        .check_carried_out()
        .unwrap();
        let logged = HttpPolicy {
            upstream: Upstream::H2c,
            ..HttpPolicy::default()
        };
        assert_eq!(logged.check_carried_out().unwrap_err().field, "upstream");
    }
}
