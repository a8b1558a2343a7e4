//! What must hold, one file for each invariant. An oracle looks from outside and says what is wrong, with what it saw.

pub mod acknowledged;
pub mod applied_once;
pub mod exclusive;
pub mod linearizable;
pub mod orphans;
pub mod proxies;
pub mod replicas;
pub mod stale;

/// A broken promise.
#[derive(Debug)]
pub struct Violation {
    pub invariant: &'static str,
    pub detail: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "violated: {}: {}", self.invariant, self.detail)
    }
}

pub type Verdict = Result<(), Violation>;

fn violated(invariant: &'static str, detail: impl Into<String>) -> Verdict {
    Err(Violation {
        invariant,
        detail: detail.into(),
    })
}
