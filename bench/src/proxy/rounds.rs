//! Interleaved rounds: in each, every proxy is measured once, and every round begins with another one, so that a machine
//! that drifts drifts for all of them.

use std::path::Path;

use super::load::Target;
use super::mode::{Mode, Shape};
use super::peers::Running;
use super::results::{Rounds, Sample};

/// Not measured: connections are made, files read and pools filled.
const WARM_UP_SECONDS: u64 = 1;

#[derive(Debug, Clone, Copy)]
pub struct Effort {
    pub rounds: usize,
    pub seconds: u64,
}

/// Positions `0..count` as round `round` takes them.
pub fn order(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |i| (i + round) % count)
}

/// One load on one proxy.
pub fn one(
    running: &Running,
    shape: &Shape,
    seconds: u64,
    folder: &Path,
) -> anyhow::Result<Sample> {
    let target = Target {
        address: if shape.way.in_tls().is_some() {
            running.https
        } else {
            running.http
        },
        host: shape.host,
        path: shape.path,
    };
    let before = running.threads();
    let answers = shape.way.run(&target, seconds, folder)?;
    let spent = running.threads().since(&before);
    Ok(Sample::new(&answers, spent))
}

/// All proxies under the same load, each in its place. One whose load breaks off is left out from there on.
pub fn measure(
    mode: Mode,
    shape: &Shape,
    all: &[&Running],
    effort: Effort,
    folder: &Path,
) -> Vec<Rounds<Sample>> {
    let first = |running: &&Running| one(running, shape, WARM_UP_SECONDS, folder);
    let mut rounds: Vec<Rounds<Sample>> = all
        .iter()
        .map(|running| first(running).map(|_| Vec::new()).map_err(brief))
        .collect();
    for round in 0..effort.rounds {
        for i in order(all.len(), round) {
            let Ok(samples) = &mut rounds[i] else {
                continue;
            };
            match one(all[i], shape, effort.seconds, folder) {
                Ok(sample) => {
                    tell(mode, all[i], round, &sample);
                    samples.push(sample);
                }
                Err(error) => rounds[i] = Err(brief(error)),
            }
        }
    }
    rounds
}

/// For a cell of a table.
fn brief(error: anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().next().unwrap_or_default().to_owned()
}

fn tell(mode: Mode, running: &Running, round: usize, sample: &Sample) {
    println!(
        "{} {} round {}: {:.1} µs, {:.0}/s, {} errors",
        mode.name(),
        running.peer.name(),
        round + 1,
        sample.cpu_us,
        sample.requests_per_second,
        sample.errors
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_begins_with_another() {
        assert_eq!(order(3, 0).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(order(3, 1).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(order(3, 5).collect::<Vec<_>>(), [2, 0, 1]);
    }
}
