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
const SEED: &str = "NEBULA_FUZZ_SEED";
/// Fewer mutations of each valid input say nothing of a share.
const ENOUGH: u64 = 100;

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
    /// Of a hundred mutated inputs, how many are understood at least; where there are kinds, of each kind.
    pub understood_percent: u64,
}

/// What reads one kind of input.
#[derive(Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    pub read: fn(&[u8]) -> bool,
}

/// Of mutated inputs.
#[derive(Clone, Copy, Default)]
struct Tally {
    tried: u64,
    understood: u64,
}

/// Whether one input alone is run, to repeat a failure: what is done now and then is to be done then.
pub fn repeats() -> bool {
    variable(SEED).is_some()
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
        let tallies = self.drive(|input, _| read(input));
        self.judge("inputs", tallies);
    }

    /// The same for several kinds of input: `own` has what reads each of the corpus, and is to understand what comes of
    /// it; the others are shown it as well.
    ///
    /// # Panics
    /// When a bound is broken, with the seed that repeats it.
    pub fn run_kinds(&self, own: &[Kind]) {
        assert_eq!(own.len(), self.corpus.len(), "each valid input has a kind");
        let mut kinds: Vec<Kind> = own.to_vec();
        kinds.sort_by_key(|kind| kind.name);
        kinds.dedup_by_key(|kind| kind.name);
        let tallies = self.drive(|input, origin| {
            let meant = origin.map(|origin| own[origin].name);
            let understands =
                |kind: &&Kind| (kind.read)(input) && meant.is_none_or(|name| name == kind.name);
            // All of them, whoever understands it.
            kinds.iter().filter(understands).count() > 0
        });
        for kind in kinds {
            let of_kind = own
                .iter()
                .zip(&tallies)
                .filter(|(k, _)| k.name == kind.name);
            self.judge(kind.name, of_kind.map(|(_, tally)| *tally));
        }
    }

    fn judge(&self, kind: &str, tallies: impl IntoIterator<Item = Tally>) {
        let mut all = Tally::default();
        for tally in tallies {
            all.tried += tally.tried;
            all.understood += tally.understood;
        }
        // One alone was run.
        if repeats() {
            return;
        }
        let percent = all.understood * 100 / all.tried.max(1);
        eprintln!(
            "fuzz: {}: {kind}: {percent} % of {} mutated understood",
            self.name, all.tried
        );
        assert!(
            percent >= self.understood_percent,
            "{}: {kind}: only {percent} % of the mutated ones are understood: the target tests nothing",
            self.name
        );
    }

    /// `read` is told which of the corpus an input is, or was before it was mutated.
    fn drive(&self, mut read: impl FnMut(&[u8], Option<usize>) -> bool) -> Vec<Tally> {
        for (origin, valid) in self.corpus.iter().enumerate() {
            assert!(
                read(valid, Some(origin)),
                "{}: a valid input is refused",
                self.name
            );
        }
        let mut tallies = vec![Tally::default(); self.corpus.len()];
        let watch = Watchdog::start(self.name);
        let mutator = Mutator::new(&self.corpus, self.words, self.max_bytes);
        if let Some(seed) = variable(SEED) {
            self.one(&mutator, seed, &watch, &mut read);
            return tallies;
        }
        let lasts = Duration::from_secs(variable("NEBULA_FUZZ_SECONDS").unwrap_or(1));
        // Seeds have 53 bits at most, so that they go through JSON and shells unharmed.
        let first: u64 = rand::rng().random::<u64>() >> 16;
        let begun = Instant::now();
        let (mut tried, mut mutated, mut highest) = (0, 0, 0);
        let enough = ENOUGH * self.corpus.len() as u64;
        while begun.elapsed() < lasts || mutated < enough {
            let done = self.one(&mutator, first + tried, &watch, &mut read);
            tried += 1;
            if let Some(origin) = done.origin {
                mutated += 1;
                tallies[origin].tried += 1;
                tallies[origin].understood += u64::from(done.understood);
            }
            highest = highest.max(done.allocated);
        }
        eprintln!(
            "fuzz: {}: {tried} inputs from seed {first}, at most {highest} bytes allocated",
            self.name
        );
        tallies
    }

    fn one(
        &self,
        mutator: &Mutator<'_>,
        seed: u64,
        watch: &Watchdog,
        read: &mut impl FnMut(&[u8], Option<usize>) -> bool,
    ) -> Done {
        let (input, origin) = mutator.input(&mut StdRng::seed_from_u64(seed));
        watch.begin(seed);
        let mut result = Ok(false);
        let counted = allocation_counter::measure(|| {
            result = catch_unwind(AssertUnwindSafe(|| read(&input, origin)));
        });
        watch.end();
        let tell = |what: &str| {
            let shown = &input[..input.len().min(SHOWN_BYTES)];
            eprintln!(
                "fuzz: {}: {what}\n{} bytes: {}\nto repeat it: {SEED}={seed}, and this test alone",
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
            origin,
            understood,
            allocated: counted.bytes_max,
        }
    }
}

struct Done {
    /// Of what it is a mutation.
    origin: Option<usize>,
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
                        "fuzz: {name}: one input takes over {HANG:?}; to repeat it: {SEED}={}",
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

    #[test]
    fn each_kind_has_to_understand_its_own() {
        let all = Kind {
            name: "all",
            read: |_| true,
        };
        let none = Kind {
            name: "its valid one",
            read: |input| input == b"length: 7",
        };
        let picky = Target {
            understood_percent: 90,
            ..target(10_000)
        };
        let said = failure(|| picky.run_kinds(&[none, all]));
        assert!(said.contains("is refused"), "{said}");
        let said = failure(|| picky.run_kinds(&[all, none]));
        assert!(said.contains("its valid one: only"), "{said}");
        picky.run_kinds(&[all, all]);
    }
}
