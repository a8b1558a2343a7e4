//! Lines of several nodes as they come: held for a moment, so that they leave in order.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::tail::{TAIL_BYTES, Timed};

/// How long a line is held. As long as files are polled apart: lines written at one moment on two
/// nodes are read that far apart.
pub const WINDOW: Duration = Duration::from_millis(200);
/// Lines held at most; a burst beyond it leaves early and perhaps out of order.
pub const WINDOW_LINES: usize = 4_096;
/// Their text; a burst of long lines is over this before it is over the other.
pub const WINDOW_BYTES: usize = TAIL_BYTES;

/// A line is let go [`WINDOW`] after it arrived, with all held lines that are older than it.
pub(crate) struct Window<T> {
    held: BTreeMap<(String, u64), T>,
    /// May name lines that left earlier with a younger one.
    arrivals: VecDeque<(Instant, (String, u64))>,
    count: u64,
    /// Of what is held.
    bytes: usize,
}

impl<T: Timed> Window<T> {
    pub(crate) fn new() -> Window<T> {
        Window {
            held: BTreeMap::new(),
            arrivals: VecDeque::new(),
            count: 0,
            bytes: 0,
        }
    }

    pub(crate) fn push(&mut self, line: T, now: Instant) {
        let key = (line.time().to_owned(), self.count);
        self.count += 1;
        self.arrivals.push_back((now, key.clone()));
        self.bytes += line.bytes();
        self.held.insert(key, line);
    }

    /// When the next line is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.arrivals.front().map(|(arrived, _)| *arrived + WINDOW)
    }

    /// Lets go what is due, and what is too much.
    pub(crate) fn release(&mut self, now: Instant) -> Vec<T> {
        let mut released = Vec::new();
        while let Some((arrived, key)) = self.arrivals.front() {
            let fits = self.arrivals.len() <= WINDOW_LINES && self.bytes <= WINDOW_BYTES;
            if *arrived + WINDOW > now && fits {
                break;
            }
            if self.held.contains_key(key) {
                let mut younger = self.held.split_off(key);
                let from = released.len();
                released.extend(std::mem::take(&mut self.held).into_values());
                released.extend(younger.remove(key));
                self.bytes -= released[from..].iter().map(T::bytes).sum::<usize>();
                self.held = younger;
            }
            self.arrivals.pop_front();
        }
        released
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Timed for &'static str {
        fn time(&self) -> &str {
            self
        }
        fn bytes(&self) -> usize {
            self.len()
        }
    }

    #[test]
    fn lines_within_the_window_leave_in_order_and_none_waits_longer() {
        let start = Instant::now();
        let mut window = Window::new();
        window.push("2", start);
        window.push("1", start + WINDOW / 2);
        window.push("3", start + WINDOW / 2);
        assert_eq!(window.due(), Some(start + WINDOW));
        assert!(window.release(start + WINDOW / 2).is_empty());
        assert_eq!(window.release(start + WINDOW), ["1", "2"]);
        assert_eq!(window.release(start + WINDOW * 2), ["3"]);
        assert_eq!(window.due(), None);
    }

    #[test]
    fn a_burst_leaves_early() {
        let now = Instant::now();
        let mut window = Window::new();
        for _ in 0..WINDOW_LINES + 10 {
            window.push("x", now);
        }
        assert_eq!(window.release(now).len(), 10);
        assert_eq!(window.release(now + WINDOW).len(), WINDOW_LINES);
    }

    #[test]
    fn long_lines_leave_early_as_well() {
        struct Long(String);
        impl Timed for Long {
            fn time(&self) -> &str {
                &self.0
            }
            fn bytes(&self) -> usize {
                16 * 1024
            }
        }
        let now = Instant::now();
        let mut window = Window::new();
        for n in 0..4_000 {
            window.push(Long(format!("{n:04}")), now);
        }
        let held = WINDOW_BYTES / (16 * 1024);
        assert_eq!(window.release(now).len(), 4_000 - held);
        assert_eq!(window.release(now + WINDOW).len(), held);
        window.push(Long(String::new()), now);
        assert!(window.release(now).is_empty());
    }
}
