//! Parts of a policy that the proxy does not carry out yet. They have their form and their checks; whoever sets one is told,
//! instead of relying on what does not happen.

use super::{Cache, HttpError, HttpPolicy};

impl HttpPolicy {
    /// Refuses what would have no effect. For whoever takes policies from people; stored ones stay as they are.
    pub fn check_carried_out(&self) -> Result<(), HttpError> {
        let pending = [("cache", self.cache != Cache::default())];
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
        let cached = HttpPolicy {
            cache: Cache {
                on: true,
                ..Cache::default()
            },
            ..HttpPolicy::default()
        };
        assert_eq!(cached.check_carried_out().unwrap_err().field, "cache");
    }
}
