//! The last lines of several sources.

use std::collections::VecDeque;

/// Most lines that a query may ask to begin with.
pub const MAX_TAIL: usize = 10_000;
/// Text held for one tail; a query for many long lines gets fewer of them rather than a node
/// without memory.
pub const TAIL_BYTES: usize = 8 * 1024 * 1024;

/// A line with a place in time.
pub(crate) trait Timed {
    fn time(&self) -> &str;
    fn bytes(&self) -> usize;
}

/// Keeps the latest lines of all that was added.
pub(crate) struct Tail<T> {
    keep: usize,
    lines: VecDeque<T>,
    bytes: usize,
    is_cut: bool,
}

impl<T: Timed> Tail<T> {
    pub(crate) fn new(keep: usize) -> Tail<T> {
        Tail {
            keep: keep.min(MAX_TAIL),
            lines: VecDeque::new(),
            bytes: 0,
            is_cut: false,
        }
    }

    /// Adds lines of one source, oldest first. Lines of the same time stay in the order in which
    /// they were added.
    pub(crate) fn add(&mut self, lines: impl IntoIterator<Item = T>) {
        for line in lines {
            self.bytes += line.bytes();
            self.lines.push_back(line);
        }
        self.lines
            .make_contiguous()
            .sort_by(|a, b| a.time().cmp(b.time()));
        while self.lines.len() > self.keep || self.bytes > TAIL_BYTES {
            let Some(oldest) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes();
            self.is_cut = true;
        }
    }

    /// There were older lines than those that are kept.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    pub(crate) fn into_lines(self) -> VecDeque<T> {
        self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Timed for (&'static str, u32) {
        fn time(&self) -> &str {
            self.0
        }
        fn bytes(&self) -> usize {
            self.1 as usize
        }
    }

    #[test]
    fn keeps_the_latest_in_the_order_of_time() {
        let mut tail = Tail::new(4);
        tail.add([("1", 10), ("3", 11), ("5", 12)]);
        tail.add([("2", 20), ("3", 21), ("4", 22)]);
        assert_eq!(
            tail.into_lines(),
            [("3", 11), ("3", 21), ("4", 22), ("5", 12)]
        );
        let mut none = Tail::new(0);
        none.add([("1", 1)]);
        assert!(none.into_lines().is_empty());
    }

    #[test]
    fn long_lines_cost_the_oldest() {
        let half = TAIL_BYTES as u32 / 2;
        let mut tail = Tail::new(MAX_TAIL);
        tail.add([("1", half), ("2", half), ("3", 1)]);
        assert_eq!(tail.into_lines(), [("2", half), ("3", 1)]);
    }
}
