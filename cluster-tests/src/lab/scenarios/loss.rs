//! Every link loses a share of its packets, or is slow.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{judge, summary};
use crate::binaries::unless_missing;
use crate::lab::history::Clock;
use crate::lab::links::{Link, Links};
use crate::lab::load::{Load, Plan};
use crate::lab::stalls::Stalls;
use crate::lab::wait::{ASK, DEADLINE, until};
use crate::lab::{Lab, Run, wait};

/// A machine that stands still for so long makes elections of its own: a third of a leader's lease.
const STALLED: Duration = Duration::from_millis(130);
/// Elections are counted in windows of so long, and judged in those in which this machine kept up.
const WINDOW: Duration = Duration::from_secs(4);
/// As many at most, until one can be judged.
const MOST_WINDOWS: usize = 20;

/// What a bad network may do to leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elections {
    Expected,
    Needless,
}

/// What happened from one look at the term to the next.
struct Window {
    elections: u64,
    /// The longest time in which this machine ran nothing of what was due.
    stalled: Duration,
}

impl Window {
    fn calm(&self) -> bool {
        self.stalled < STALLED
    }
}

/// Those that can be judged: a standstill has its election a moment later, perhaps in the next window.
fn judged(windows: &[Window]) -> impl Iterator<Item = &Window> {
    let pairs = windows.windows(2);
    pairs.filter_map(|pair| match pair {
        [before, window] if before.calm() && window.calm() => Some(window),
        _ => None,
    })
}

/// # Panics
/// When there were elections and the machine was not to blame, or when it always was and must not be.
fn must_be_none(windows: &[Window]) {
    let count: u64 = judged(windows).map(|w| w.elections).sum();
    assert!(count == 0, "{count} needless elections");
    let none = judged(windows).count() == 0;
    unless_missing(
        none.then_some("elections are not judged: this machine stood still all the time"),
    );
}

/// All links are like this while clients work.
pub async fn everywhere(
    lab: &mut dyn Lab,
    run: &mut Run,
    link: Link,
    plan: Plan,
    lasts: Duration,
    elections: Elections,
) {
    wait::all_ready(lab).await;
    let stalls = Stalls::watch();
    let mut known = term(lab).await;
    // Of the network as it should be, to begin with.
    let mut windows = vec![window(lab, &stalls, &mut known).await];
    let clock = Clock::default();
    let load = Load::start(lab, &clock, &plan);
    lab.set_links(&Links::all(lab.nodes(), link)).await;
    let begun = Instant::now();
    let undecided = |windows: &[Window]| {
        elections == Elections::Needless
            && judged(windows).count() == 0
            && windows.len() < MOST_WINDOWS
    };
    while begun.elapsed() < lasts || undecided(&windows) {
        windows.push(window(lab, &stalls, &mut known).await);
    }
    let lasted = begun.elapsed();
    lab.set_links(&Links::open(lab.nodes())).await;
    let history = load.stop().await;
    let failed = history.ops.iter().filter(|o| o.has_failed()).count();
    let seen = windows.iter();
    let seen: Vec<_> = seen
        .map(|w| json!({ "elections": w.elections, "stalled_s": w.stalled.as_secs_f64() }))
        .collect();
    let figures = json!({ "link": format!("{link:?}"), "lasted_s": lasted.as_secs(), "failed": failed, "windows": seen,
        "judged": judged(&windows).count(), "load": summary(&history) });
    run.report(lab.kind(), &figures);
    judge(lab, run, &clock, history).await;
    if elections == Elections::Needless {
        must_be_none(&windows);
    }
}

/// Until the next look at the term, and a look at how this machine fared meanwhile.
async fn window(lab: &dyn Lab, stalls: &Stalls, known: &mut u64) -> Window {
    sleep(WINDOW).await;
    let now = term(lab).await;
    Window {
        elections: now - std::mem::replace(known, now),
        stalled: stalls.take(),
    }
}

/// The highest term that a node knows.
pub async fn term(lab: &dyn Lab) -> u64 {
    let mut highest = 0;
    for node in 0..lab.nodes() {
        let mut api = lab.api(node);
        let list: Value = until(DEADLINE, "the term", async || {
            let asked = api.look("/v1/members", ASK).await;
            asked.map_err(|e| e.to_string())
        })
        .await;
        highest = highest.max(list["term"].as_u64().unwrap_or(0));
    }
    highest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_judged_when_it_and_the_one_before_were_calm() {
        let windows = [(0, 200), (1, 10), (2, 10), (3, 130), (4, 10), (5, 129)];
        let windows = windows.map(|(elections, stalled)| Window {
            elections,
            stalled: Duration::from_millis(stalled),
        });
        let seen: Vec<u64> = judged(&windows).map(|w| w.elections).collect();
        assert_eq!(seen, [2, 5]);
        assert_eq!(judged(&windows[..1]).count(), 0);
    }
}
