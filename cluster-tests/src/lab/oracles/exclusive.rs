//! No two holders of an instance: at any moment at most one run of it is alive, on one node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::{Verdict, violated};
use crate::lab::{Lab, Observer, Running};

const INVARIANT: &str = "an instance runs at most once at a time";
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks all the time until it is asked.
pub struct Watch {
    stop: Arc<AtomicBool>,
    looking: JoinHandle<(u64, Option<String>)>,
}

impl Watch {
    pub fn start(lab: &dyn Lab) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let looking = tokio::spawn(look(lab.observer(), stop.clone()));
        Watch { stop, looking }
    }

    pub async fn check(self) -> Verdict {
        self.stop.store(true, Ordering::SeqCst);
        let (looks, found) = self.looking.await.expect("looking does not panic");
        assert!(looks > 0, "nobody looked");
        found.map_or(Ok(()), |detail| violated(INVARIANT, detail))
    }
}

async fn look(observer: Observer, stop: Arc<AtomicBool>) -> (u64, Option<String>) {
    let mut looks = 0;
    let mut found = None;
    while !stop.load(Ordering::SeqCst) {
        // A second look tells a process that was just ending from two that live.
        let twice = twice(&observer()).and_then(|_| twice(&observer()));
        found = found.or(twice);
        looks += 1;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    (looks, found)
}

/// The runs of an instance that has two.
fn twice(running: &[Running]) -> Option<String> {
    let mut instances: BTreeMap<&str, Vec<&Running>> = BTreeMap::new();
    for run in running {
        instances.entry(&run.instance).or_default().push(run);
    }
    let runs = instances.into_values().find(|runs| runs.len() > 1)?;
    Some(format!("{runs:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_runs_of_one_instance_are_found_on_one_node_or_two() {
        let run = |instance: &str, node, run| Running {
            instance: instance.to_owned(),
            node,
            run,
        };
        assert!(twice(&[run("i-1", 0, 10), run("i-2", 1, 11)]).is_none());
        assert!(twice(&[run("i-1", 0, 10), run("i-1", 1, 11)]).is_some());
        assert!(twice(&[run("i-1", 0, 10), run("i-1", 0, 11)]).is_some());
    }
}
