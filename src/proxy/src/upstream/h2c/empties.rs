//! Counts DATA frames of an instance that carry nothing and end nothing. The `h2` crate ends a connection, and every stream on it, with
//! the 101st of its life, and hands none of them on: they are seen by following the frames by their heads (RFC 9113 section 4.1).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// So many, and a connection gets no more streams: half is left to those that are under way.
const EMPTIES_MAX: u32 = 50;

const HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;

/// Of one connection.
#[derive(Debug, Default)]
pub(super) struct Empties(AtomicU32);

impl Empties {
    /// The connection may not stand many more.
    pub(super) fn are_many(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= EMPTIES_MAX
    }
}

/// Where in its frames a connection is.
pub(super) struct Frames {
    empties: Arc<Empties>,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Head([u8; HEAD_BYTES], usize),
    /// The next byte says how much of the frame's payload is padding.
    Padding(usize),
    /// So much payload is to come.
    Payload(usize),
}

const BETWEEN: State = State::Head([0; HEAD_BYTES], 0);

impl Frames {
    pub(super) fn new(empties: Arc<Empties>) -> Frames {
        Frames {
            empties,
            state: BETWEEN,
        }
    }

    /// Takes what was read of whole frames, however it is cut.
    pub(super) fn look(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.state = match self.state {
                State::Head(mut head, have) => {
                    let more = bytes.len().min(HEAD_BYTES - have);
                    head[have..have + more].copy_from_slice(&bytes[..more]);
                    bytes = &bytes[more..];
                    match have + more {
                        HEAD_BYTES => self.begin(head),
                        have => State::Head(head, have),
                    }
                }
                State::Padding(length) => {
                    let padding = usize::from(bytes[0]);
                    bytes = &bytes[1..];
                    if padding + 1 == length {
                        self.count();
                    }
                    payload(length - 1)
                }
                State::Payload(left) => {
                    let more = bytes.len().min(left);
                    bytes = &bytes[more..];
                    payload(left - more)
                }
            };
        }
    }

    fn begin(&self, [a, b, c, kind, flags, ..]: [u8; HEAD_BYTES]) -> State {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if kind == DATA && flags & END_STREAM == 0 {
            match length {
                0 => self.count(),
                _ if flags & PADDED != 0 => return State::Padding(length),
                _ => {}
            }
        }
        payload(length)
    }

    fn count(&self) {
        self.empties.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn payload(left: usize) -> State {
    match left {
        0 => BETWEEN,
        left => State::Payload(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        [&head[..], payload].concat()
    }

    proptest! {
        #[test]
        fn what_is_empty_is_counted_however_it_is_cut(
            kinds in prop::collection::vec(0usize..8, 0..40),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        ) {
            let zeros = vec![0; 300];
            let frames = [
                // Empty, and nothing but padding.
                frame(DATA, 0, &[]),
                frame(DATA, PADDED, &[0]),
                frame(DATA, PADDED, &[&[200][..], &zeros[..200]].concat()),
                // Something, an end, another kind.
                frame(DATA, 0, &zeros),
                frame(DATA, PADDED, &[&[1][..], &zeros[..20]].concat()),
                frame(DATA, END_STREAM, &[]),
                frame(1, 0, &[]),
                frame(6, 0, &zeros[..8]),
            ];
            let bytes: Vec<u8> = kinds.iter().flat_map(|kind| frames[*kind].clone()).collect();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let empties = Arc::<Empties>::default();
            let mut seen = Frames::new(Arc::clone(&empties));
            at.windows(2).for_each(|cut| seen.look(&bytes[cut[0]..cut[1]]));
            let expected = kinds.iter().filter(|kind| **kind < 3).count();
            prop_assert_eq!(empties.0.load(Ordering::Relaxed) as usize, expected);
        }
    }

    #[test]
    fn a_connection_stands_so_many() {
        let empties = Arc::<Empties>::default();
        let mut frames = Frames::new(Arc::clone(&empties));
        for _ in 0..EMPTIES_MAX {
            assert!(!empties.are_many());
            frames.look(&frame(DATA, 0, &[]));
        }
        assert!(empties.are_many());
    }
}
