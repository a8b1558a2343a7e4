//! Seeded runs of the simulated cluster. Each has a process of its own (this test binary again), so that
//! nothing but the seed has a say in it.
//!
//! `NEBULA_SIM_SEEDS` sets how many seeds are run, `NEBULA_SIM_FIRST` which is the first. `NEBULA_SIM_LOG` is a filter such as
//! `openraft=debug`, by which a single seed also logs.

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nebula_cluster_tests::sim;
use nebula_membership::CodecThread;
use nebula_telemetry::logging::{self, LogConfig, LogFormat};

mod entropy {
    //! The process's randomness, from a seed: hash maps, the runtime's choices and every generator
    //! that begins with the system's entropy repeat themselves. Without a seed it is the kernel's.

    use std::sync::atomic::{AtomicU64, Ordering};

    /// 0: none.
    static STATE: AtomicU64 = AtomicU64::new(0);

    pub fn seed(seed: u64) {
        STATE.store(seed.wrapping_mul(2).wrapping_add(1), Ordering::SeqCst);
    }

    /// SplitMix64.
    fn next() -> u64 {
        let state = STATE.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst);
        let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Takes the place of the C library's function, for this test binary alone.
    ///
    /// # Safety
    /// As for the C library's: `buffer` has room for `length` bytes.
    #[allow(unsafe_code)]
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, _: u32) -> isize {
        if length == 0 {
            return 0;
        }
        // SAFETY: the caller's promise.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
        if STATE.load(Ordering::SeqCst) == 0 {
            use std::io::Read as _;
            let urandom = std::fs::File::open("/dev/urandom");
            return match urandom.and_then(|mut file| file.read_exact(bytes)) {
                Ok(()) => length as isize,
                Err(_) => -1,
            };
        }
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&next().to_le_bytes()[..chunk.len()]);
        }
        length as isize
    }
}

/// What a single run is asked for with.
const SEED: &str = "NEBULA_SIM_SEED";
/// And that it prints a report alone.
const QUIET: &str = "NEBULA_SIM_QUIET";
const PLANTED: &str = "NEBULA_PLANTED_BUG";
/// Seeds of one test without further wishes.
const SEEDS: u64 = 200;
/// One run takes some seconds; one that never ends is a finding, too.
const HANGS: Duration = Duration::from_secs(300);

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// One run, in this process; nothing unless asked for.
#[test]
fn one_seed() {
    let Some(seed) = number(SEED) else { return };
    let echo = std::env::var_os(QUIET).is_none();
    if let Ok(filter) = std::env::var("NEBULA_SIM_LOG") {
        let format = LogFormat::Text;
        logging::init(&LogConfig { format, filter }).expect("a filter such as openraft=debug");
    }
    let (alive, watched) = channel::<()>();
    std::thread::spawn(move || {
        if watched.recv_timeout(HANGS) == Err(RecvTimeoutError::Timeout) {
            println!("seed {seed} hangs");
            std::process::exit(1);
        }
    });
    // A thread of its own has drawn nothing yet.
    let run = std::thread::spawn(move || {
        entropy::seed(seed);
        let codec = CodecThread::start().expect("a codec thread");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(sim::run(seed, codec, echo))
    });
    let report = run.join().expect("a run");
    drop(alive);
    if let Some(violation) = &report.violation {
        if !echo {
            report.latest.iter().for_each(|line| println!("{line}"));
        }
        println!("seed {seed} broke a promise: {violation}");
    }
    println!(
        "seed {seed} hash {} events {} writes {} lasted {:?}",
        report.hash, report.events, report.acknowledged, report.lasted
    );
    assert!(report.violation.is_none());
}

/// A run in a process of its own.
struct Run {
    seed: u64,
    passed: bool,
    text: String,
}

impl Run {
    fn of(seed: u64, planted: Option<&str>) -> Run {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .args(["one_seed", "--exact", "--nocapture"])
            .env(SEED, seed.to_string())
            .env(QUIET, "1")
            .env_remove(PLANTED);
        if let Some(bug) = planted {
            command.env(PLANTED, bug);
        }
        let output = command.output().expect("a process");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Run {
            seed,
            passed: output.status.success(),
            text: text(&output.stdout) + &text(&output.stderr),
        }
    }

    /// The line that sums the run up.
    fn sum(&self) -> &str {
        let head = format!("seed {} hash ", self.seed);
        let line = self.text.lines().find(|line| line.starts_with(&head));
        line.unwrap_or("no result")
    }

    #[cfg(feature = "planted-bugs")]
    fn violation(&self) -> &str {
        let line = self
            .text
            .lines()
            .find(|line| line.contains("broke a promise"));
        line.unwrap_or("no result")
    }

    /// What there is to know of a run that failed, and how to see it again.
    fn report(&self, planted: Option<&str>) -> String {
        let bug = planted
            .map(|bug| format!("{PLANTED}={bug} "))
            .unwrap_or_default();
        format!(
            "{}\nseed {} failed; to repeat it: {bug}just sim SEED={}",
            self.text, self.seed, self.seed
        )
    }
}

/// Runs seeds on all processors, in order, until one fails or all have passed.
fn until_failure(seeds: std::ops::Range<u64>, planted: Option<&str>) -> (u64, Option<Run>) {
    let next = AtomicU64::new(seeds.start);
    let failed: Mutex<Option<Run>> = Mutex::default();
    let passed = AtomicU64::new(0);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while failed.lock().expect("the verdict").is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        return;
                    }
                    let run = Run::of(seed, planted);
                    if run.passed {
                        passed.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    let mut failed = failed.lock().expect("the verdict");
                    // The lowest seed is the one to begin with.
                    if failed.as_ref().is_none_or(|other| other.seed > seed) {
                        *failed = Some(run);
                    }
                }
            });
        }
    });
    (
        passed.into_inner(),
        failed.into_inner().expect("the verdict"),
    )
}

#[test]
fn no_seed_breaks_a_promise() {
    let first = number("NEBULA_SIM_FIRST").unwrap_or(1);
    let count = number("NEBULA_SIM_SEEDS").unwrap_or(SEEDS);
    let begun = Instant::now();
    let (passed, failed) = until_failure(first..first + count, None);
    if let Some(run) = failed {
        panic!("{}", run.report(None));
    }
    println!("{passed} seeds in {:?}", begun.elapsed());
    assert_eq!(passed, count);
}

/// Seeds that broke a promise once. 284: the one voter that could win stood a term too late, again and again. 1314: a
/// leader was removed while it led, beside a voter that had never heard of the others. 3004: a removed machine knew nobody
/// who could have told it.
#[test]
fn seeds_that_found_something_pass() {
    for seed in [284, 1314, 3004] {
        let (_, failed) = until_failure(seed..seed + 1, None);
        if let Some(run) = failed {
            panic!("{}", run.report(None));
        }
    }
}

/// Without this no seed would repeat anything.
#[test]
fn a_seed_repeats_its_run() {
    for seed in [11, 12, 13] {
        let (one, two) = (Run::of(seed, None), Run::of(seed, None));
        assert!(one.sum().contains(" hash "), "{}", one.text);
        assert_eq!(one.sum(), two.sum());
    }
    let hash = |run: Run| run.sum().split(' ').nth(3).map(str::to_owned);
    assert_ne!(hash(Run::of(11, None)), hash(Run::of(12, None)));
}

#[cfg(feature = "planted-bugs")]
mod planted {
    use super::*;

    /// Seeds within which each has to be found; they are fixed, so that this is no matter of luck.
    const FOUND_WITHIN: u64 = 120;

    fn is_found(bug: &str, by: &[&str]) {
        let (passed, failed) = until_failure(1..1 + FOUND_WITHIN, Some(bug));
        let run = failed.unwrap_or_else(|| panic!("{bug} was not found by {passed} seeds"));
        println!("{bug}: after {passed} seeds, {}", run.violation());
        let found = by.iter().any(|oracle| run.violation().contains(oracle));
        assert!(found, "{}", run.report(Some(bug)));
    }

    #[test]
    fn an_append_confirmed_before_its_sync_is_found() {
        is_found(
            "confirm-before-sync",
            &[
                "linearizable",
                "acknowledged",
                "agreement",
                "once",
                "restart",
            ],
        );
    }

    #[test]
    fn a_stale_read_of_an_old_leader_is_found() {
        is_found("stale-read", &["linearizable"]);
    }

    #[test]
    fn an_apply_by_the_order_of_a_map_is_found() {
        is_found("apply-by-map-order", &["agreement", "linearizable"]);
    }
}
