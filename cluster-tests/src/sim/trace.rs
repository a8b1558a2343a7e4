//! What happened in a run, in order: hashed whole, so that two runs can be compared, and the end of it
//! kept for whoever looks into a failure.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Events kept for a failure's report.
const KEPT: usize = 400;

/// Clones are the same trace.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Inner>>);

struct Inner {
    zero: Instant,
    hash: blake3::Hasher,
    line: String,
    latest: VecDeque<String>,
    events: u64,
    violation: Option<String>,
    echo: bool,
}

impl Trace {
    /// With `echo` every kept event is also printed.
    pub fn new(echo: bool) -> Trace {
        Trace(Arc::new(Mutex::new(Inner {
            zero: Instant::now(),
            hash: blake3::Hasher::new(),
            line: String::new(),
            latest: VecDeque::new(),
            events: 0,
            violation: None,
            echo,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Since the run began.
    pub fn at(&self) -> Duration {
        self.lock().zero.elapsed()
    }

    /// Something worth reading in a report.
    pub fn note(&self, event: fmt::Arguments<'_>) {
        let mut inner = self.lock();
        inner.take(event);
        if inner.latest.len() == KEPT {
            inner.latest.pop_front();
        }
        let line = inner.line.clone();
        if inner.echo {
            println!("{line}");
        }
        inner.latest.push_back(line);
    }

    /// Something of which there is too much to read.
    pub fn tick(&self, event: fmt::Arguments<'_>) {
        self.lock().take(event);
    }

    /// A promise was broken. The first one counts: what follows may follow from it.
    pub fn violate(&self, oracle: &str, what: fmt::Arguments<'_>) {
        self.note(format_args!("VIOLATION of {oracle}: {what}"));
        let mut inner = self.lock();
        if inner.violation.is_none() {
            inner.violation = Some(format!("{oracle}: {what}"));
        }
    }

    pub fn violation(&self) -> Option<String> {
        self.lock().violation.clone()
    }

    pub fn events(&self) -> u64 {
        self.lock().events
    }

    /// Of every event so far.
    pub fn hash(&self) -> String {
        let hash = self.lock().hash.finalize().to_hex();
        hash[..16].to_owned()
    }

    pub fn latest(&self) -> Vec<String> {
        self.lock().latest.iter().cloned().collect()
    }
}

impl Inner {
    fn take(&mut self, event: fmt::Arguments<'_>) {
        let at = self.zero.elapsed();
        self.line.clear();
        let (s, us) = (at.as_secs(), at.subsec_micros());
        // Writing into a string cannot fail.
        let _ = write!(self.line, "{s:>4}.{us:06} {event}");
        self.hash.update(self.line.as_bytes());
        self.hash.update(b"\n");
        self.events += 1;
    }
}
