//! Inputs nobody meant: seeded mutations of valid ones and noise, for everything that reads what others send.
//!
//! A target panics never, takes no time to speak of, and allocates no more than a multiple of its input and a constant.
//! Each must also show that it gets anywhere: that a share of what is mutated is still understood.
//!
//! | variable | meaning |
//! |---|---|
//! | `NEBULA_FUZZ_SECONDS` | how long each target runs; one second otherwise |
//! | `NEBULA_FUZZ_SEED` | one input alone: what a failure printed |

mod mutate;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use mutate::Mutator;

/// One input takes microseconds; what takes this long on a busy machine does not end.
const HANG: Duration = Duration::from_secs(30);
/// Shown of an input that fails.
const SHOWN_BYTES: usize = 256;
/// Fewer inputs say nothing of a share.
const ENOUGH: u64 = 200;

/// What reads the inputs, and within which bounds.
pub struct Target {
    /// `<crate> <what>`, for people.
    pub name: &'static str,
    /// Valid inputs to begin with.
    pub corpus: Vec<Vec<u8>>,
    /// Pieces that are put in at random; for texts.
    pub words: &'static [&'static str],
    /// An input's limit: what comes before the target refuses larger ones.
    pub max_bytes: usize,
    /// What may be allocated at once: so many bytes for each byte of the input, and these.
    pub allocated_per_byte: u64,
    pub allocated_bytes: u64,
    /// Of a hundred mutated inputs, how many are understood at least.
    pub understood_percent: u64,
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

impl Target {
    /// Runs for its time. `read` says whether it understood the input; a panic of it is a failure.
    ///
    /// # Panics
    /// When a bound is broken, with the seed that repeats it.
    pub fn run(&self, mut read: impl FnMut(&[u8]) -> bool) {
        for valid in &self.corpus {
            assert!(read(valid), "{}: a valid input is refused", self.name);
        }
        let watch = Watchdog::start(self.name);
        let mutator = Mutator::new(&self.corpus, self.words, self.max_bytes);
        if let Some(seed) = variable("NEBULA_FUZZ_SEED") {
            self.one(&mutator, seed, &watch, &mut read);
            return;
        }
        let lasts = Duration::from_secs(variable("NEBULA_FUZZ_SECONDS").unwrap_or(1));
        // Seeds have 53 bits at most, so that they go through JSON and shells unharmed.
        let first: u64 = rand::rng().random::<u64>() >> 16;
        let begun = Instant::now();
        let (mut tried, mut mutated, mut understood, mut highest) = (0, 0, 0, 0);
        while begun.elapsed() < lasts || mutated < ENOUGH {
            let done = self.one(&mutator, first + tried, &watch, &mut read);
            tried += 1;
            mutated += u64::from(done.mutated);
            understood += u64::from(done.mutated && done.understood);
            highest = highest.max(done.allocated);
        }
        let percent = understood * 100 / mutated;
        eprintln!(
            "fuzz: {}: {tried} inputs from seed {first}, of {mutated} mutated {percent} % understood, at most {highest} bytes allocated",
            self.name
        );
        assert!(
            percent >= self.understood_percent,
            "{}: only {percent} % of the mutated inputs are understood: the target tests nothing",
            self.name
        );
    }

    fn one(
        &self,
        mutator: &Mutator<'_>,
        seed: u64,
        watch: &Watchdog,
        read: &mut impl FnMut(&[u8]) -> bool,
    ) -> Done {
        let (input, mutated) = mutator.input(&mut StdRng::seed_from_u64(seed));
        watch.begin(seed);
        let mut result = Ok(false);
        let counted = allocation_counter::measure(|| {
            result = catch_unwind(AssertUnwindSafe(|| read(&input)));
        });
        watch.end();
        let tell = |what: &str| {
            let shown = &input[..input.len().min(SHOWN_BYTES)];
            eprintln!(
                "fuzz: {}: {what}\n{} bytes: {}\nto repeat it: NEBULA_FUZZ_SEED={seed}, and this test alone",
                self.name,
                input.len(),
                shown.escape_ascii()
            );
        };
        let understood = result.unwrap_or_else(|panic| {
            tell("it panicked");
            resume_unwind(panic)
        });
        let allowed = self.allocated_bytes + self.allocated_per_byte * input.len() as u64;
        if counted.bytes_max > allowed {
            tell("it allocates too much");
            panic!(
                "{} bytes are allocated, {allowed} allowed",
                counted.bytes_max
            );
        }
        Done {
            mutated,
            understood,
            allocated: counted.bytes_max,
        }
    }
}

struct Done {
    mutated: bool,
    understood: bool,
    allocated: u64,
}

/// Ends the process when one input takes too long: a loop without an end cannot be ended in any other way.
struct Watchdog {
    /// The seed under way, plus one.
    seed: Arc<AtomicU64>,
    began: Arc<AtomicU64>,
    zero: Instant,
}

impl Watchdog {
    fn start(name: &'static str) -> Watchdog {
        let watch = Watchdog {
            seed: Arc::default(),
            began: Arc::default(),
            zero: Instant::now(),
        };
        let (seed, began, zero) = (Arc::downgrade(&watch.seed), watch.began.clone(), watch.zero);
        std::thread::spawn(move || {
            while let Some(seed) = seed.upgrade() {
                let now = seed.load(Ordering::SeqCst);
                let since = Duration::from_millis(began.load(Ordering::SeqCst));
                if now > 0 && zero.elapsed() > since + HANG {
                    eprintln!(
                        "fuzz: {name}: one input takes over {HANG:?}; to repeat it: NEBULA_FUZZ_SEED={}",
                        now - 1
                    );
                    std::process::abort();
                }
                drop(seed);
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        watch
    }

    fn begin(&self, seed: u64) {
        let now = u64::try_from(self.zero.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.began.store(now, Ordering::SeqCst);
        self.seed.store(seed + 1, Ordering::SeqCst);
    }

    fn end(&self) {
        self.seed.store(0, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(allocated_bytes: u64) -> Target {
        Target {
            name: "testkit itself",
            corpus: vec![vec![1; 40], b"length: 7".to_vec()],
            words: &["word"],
            max_bytes: 100,
            allocated_per_byte: 1,
            allocated_bytes,
            understood_percent: 0,
        }
    }

    fn failure(run: impl FnOnce()) -> String {
        let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
        let text = panic.downcast_ref::<String>().cloned();
        text.unwrap_or_else(|| panic.downcast_ref::<&str>().unwrap().to_string())
    }

    #[test]
    fn what_a_target_must_not_do_is_found() {
        let mut lengths = std::collections::BTreeSet::new();
        target(10_000).run(|input| {
            lengths.insert(input.len());
            true
        });
        assert!(
            lengths.len() > 50 && lengths.last() <= Some(&100),
            "{lengths:?}"
        );
        let said = failure(|| {
            target(10_000).run(|input| {
                assert!(!input.ends_with(&[0]), "a zero");
                true
            });
        });
        assert_eq!(said, "a zero");
        let said = failure(|| target(50).run(|input| vec![0u8; 40 + 3 * input.len()].len() > 1));
        assert!(said.contains("allowed"), "{said}");
        let picky = Target {
            understood_percent: 90,
            ..target(10_000)
        };
        let corpus = picky.corpus.clone();
        let said = failure(|| picky.run(|input| corpus.iter().any(|valid| valid == input)));
        assert!(said.contains("tests nothing"), "{said}");
    }
}
