//! What makes a run repeatable: its seed, its counts, where its figures go, and the command that repeats it.
//!
//! | variable | meaning |
//! |---|---|
//! | `NEBULA_LAB_SEED` | the seed of all choices; drawn and printed otherwise |
//! | `NEBULA_LAB_<COUNT>` | how often: `KILLS`, `PAUSES`, `LEADER_KILLS`, `PARTITIONS`, `LOSS_SECONDS`, `DELAY_SECONDS`, `FLOOD_SECONDS` of each flood, `CLOCK_JUMPS`, `CLOCK_PACES`, `MEMBERSHIP`, `MINUTES`; of the disks' tests `POWER_CUTS`, `CLUSTER_POWER_CUTS`, `DAMAGES`, `CLUSTER_DAMAGES`, `POINTS`, `POINT_KILLS`, `DISK_FULL` |
//! | `NEBULA_LAB_RESULTS` | a file that figures are appended to, one JSON object a line |
//! | `NEBULA_LAB_TRACES` | a folder for the histories of failed runs; the temporary folder otherwise |

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::history::History;

/// Two clusters on two cores would measure each other.
static ALONE: Mutex<()> = Mutex::new(());

pub struct Run {
    pub test: &'static str,
    pub seed: u64,
    pub rng: StdRng,
    counts: Vec<(String, u64)>,
    _alone: MutexGuard<'static, ()>,
}

/// Of the daemons under test.
fn build() -> String {
    match std::env::var("NEBULA_TEST_BINARIES") {
        Ok(folder) => folder.rsplit('/').next().unwrap_or_default().to_owned(),
        Err(_) if cfg!(debug_assertions) => "debug".to_owned(),
        Err(_) => "release".to_owned(),
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(format!("NEBULA_LAB_{name}")).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("NEBULA_LAB_{name}={text} is not a number")))
}

impl Run {
    /// `test` is `<file> <test's name>`, for the command that repeats it.
    pub fn new(test: &'static str) -> Run {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let seed = variable("SEED").unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
        let run = Run {
            test,
            seed,
            rng: StdRng::seed_from_u64(seed),
            counts: Vec::new(),
            _alone: alone,
        };
        eprintln!("{test}: seed {seed}");
        run
    }

    /// How often, from `NEBULA_LAB_<name>`.
    pub fn count(&mut self, name: &str, otherwise: u64) -> u64 {
        let count = variable(name).unwrap_or(otherwise);
        self.counts.push((name.to_owned(), count));
        count
    }

    /// A seed for a part of this run.
    pub fn part(&mut self) -> u32 {
        self.rng.random()
    }

    pub fn pick(&mut self, below: usize) -> usize {
        self.rng.random_range(0..below)
    }

    pub fn between(&mut self, from: Duration, to: Duration) -> Duration {
        self.rng.random_range(from..=to)
    }

    /// What a shell repeats this run with. Choices repeat; the timing of real processes does not.
    pub fn repeat(&self) -> String {
        let mut line = format!("NEBULA_LAB_SEED={}", self.seed);
        for (name, count) in &self.counts {
            line.push_str(&format!(" NEBULA_LAB_{name}={count}"));
        }
        let (file, test) = self.test.split_once(' ').unwrap_or((self.test, ""));
        format!(
            "{line} cargo test -p nebula-cluster-tests --features laboratory --test {file} -- --exact {test} --nocapture"
        )
    }

    /// Prints figures, and keeps them where `NEBULA_LAB_RESULTS` says.
    pub fn report(&self, kind: &str, figures: &Value) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH);
        let line = json!({
            "test": self.test, "cluster": kind, "seed": self.seed, "at": at.map_or(0, |t| t.as_secs()),
            "build": build(), "figures": figures,
        });
        eprintln!("{line}");
        let Some(path) = std::env::var_os("NEBULA_LAB_RESULTS") else {
            return;
        };
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path);
        let written = file.and_then(|mut file| writeln!(file, "{line}"));
        written.unwrap_or_else(|e| panic!("cannot write figures to {}: {e}", path.display()));
    }

    /// Keeps a history for whoever looks into a failure.
    pub fn keep(&self, history: &History) -> PathBuf {
        let folder = std::env::var_os("NEBULA_LAB_TRACES").map(PathBuf::from);
        let folder = folder.unwrap_or_else(std::env::temp_dir);
        let name = self.test.replace(' ', "-");
        let path = folder.join(format!("nebula-lab-{name}-{}.json", self.seed));
        let text = serde_json::to_string(history).expect("a history is JSON");
        std::fs::write(&path, text).expect("a history can be kept");
        path
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to repeat it: {}", self.repeat());
        }
    }
}

/// Runs a scenario of real time; its clients have threads of their own, so that it may block.
pub fn block_on<T>(scenario: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(scenario)
}

/// Lowest, median, 99th percentile and highest, in seconds.
pub fn spread(times: &[Duration]) -> Value {
    let mut sorted = times.to_vec();
    sorted.sort();
    let at = |percent: usize| {
        let last = sorted.len().saturating_sub(1);
        let seconds = sorted.get((last * percent).div_ceil(100));
        seconds.map(|t| (t.as_secs_f64() * 1000.0).round() / 1000.0)
    };
    json!({ "count": sorted.len(), "min_s": at(0), "median_s": at(50), "p99_s": at(99), "max_s": at(100) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_names_its_ends_and_its_middle() {
        let times: Vec<_> = (1..=100).rev().map(Duration::from_secs).collect();
        let spread = spread(&times);
        assert_eq!(spread["min_s"], 1.0);
        assert_eq!(spread["median_s"], 51.0);
        assert_eq!(spread["p99_s"], 100.0);
        assert_eq!(spread["max_s"], 100.0);
        assert_eq!(super::spread(&[])["median_s"], Value::Null);
    }
}
