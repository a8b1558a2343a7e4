//! What is done to a cluster, written once for every kind of laboratory. A scenario breaks things while clients work,
//! lets the oracles judge, and reports figures; it never fails on the clock, save for generous deadlines.

pub mod clocks;
pub mod kills;
pub mod leader;
pub mod loss;
pub mod membership;
pub mod partitions;
pub mod rogue;
pub mod soak;

use serde_json::{Value, json};

use super::history::{Clock, History, Moment};
use super::load::Load;
use super::oracles::{self, Verdict};
use super::run::spread;
use super::{Lab, Run, wait};

/// Lets every oracle look that needs no deployment, once the load has ended and nothing is broken any more.
///
/// # Panics
/// When a promise was broken, with the history's place.
pub async fn judge(lab: &dyn Lab, run: &Run, clock: &Clock, mut history: History) {
    wait::all_ready(lab).await;
    let verdict = all(lab, clock, &mut history).await;
    if let Err(violation) = verdict {
        let kept = run.keep(&history);
        panic!("{violation}\nthe history is {}", kept.display());
    }
    assert!(history.acknowledged() > 0, "nothing was ever acknowledged");
}

async fn all(lab: &dyn Lab, clock: &Clock, history: &mut History) -> Verdict {
    oracles::acknowledged::check(lab, clock, history).await?;
    oracles::linearizable::check(history)?;
    oracles::stale::check(history)?;
    oracles::applied_once::check(lab, history).await?;
    oracles::replicas::check(lab).await
}

/// The same for an oracle of its own.
#[track_caller]
pub fn must<T>(verdict: Result<T, oracles::Violation>) -> T {
    verdict.unwrap_or_else(|violation| panic!("{violation}"))
}

/// Waits until a write is acknowledged that began after `since`.
pub async fn goes_on(load: &Load, since: Moment) {
    wait::until(wait::DEADLINE, "writes are acknowledged", async || {
        let later = load.has(|op| op.is_acknowledged_write() && op.invoked.order > since.order);
        if later {
            Ok(())
        } else {
            Err("none yet".to_owned())
        }
    })
    .await;
}

/// What every scenario reports of its load.
pub fn summary(history: &History) -> Value {
    let acknowledged = history.ops.iter().filter(|o| o.is_acknowledged_write());
    let took: Vec<_> = acknowledged.map(|o| o.took()).collect();
    json!({ "operations": history.ops.len(), "acknowledged_writes": history.acknowledged(),
        "unknown_writes": history.unknown(), "write": spread(&took) })
}
