//! How inputs come about. Everything follows from the generator alone, so that a seed is an input.

use rand::Rng;
use rand::rngs::StdRng;

/// Of a hundred inputs, so many are valid ones as they are, and so many are noise.
const VALID: u32 = 5;
const NOISE: u32 = 5;
/// Steps from a valid input; most have few.
const MAX_STEPS: usize = 12;
const MAX_REPEATS: usize = 64;
/// Values at which arithmetic turns.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    u64::MAX / 2,
    u64::MAX,
];

pub(super) struct Mutator<'a> {
    corpus: &'a [Vec<u8>],
    words: &'a [&'a str],
    max_bytes: usize,
}

impl<'a> Mutator<'a> {
    pub fn new(corpus: &'a [Vec<u8>], words: &'a [&'a str], max_bytes: usize) -> Mutator<'a> {
        assert!(!corpus.is_empty(), "a target needs a valid input");
        Mutator {
            corpus,
            words,
            max_bytes,
        }
    }

    /// An input, and which of the valid ones it is a mutation of, if it is one.
    pub fn input(&self, rng: &mut StdRng) -> (Vec<u8>, Option<usize>) {
        let kind = rng.random_range(0..100);
        let origin = rng.random_range(0..self.corpus.len());
        let mut bytes = self.corpus[origin].clone();
        if kind < VALID {
            return (bytes, None);
        }
        if kind < VALID + NOISE {
            let length = rng.random_range(0..=self.max_bytes.min(4096));
            bytes = vec![0; length];
            rng.fill(&mut bytes[..]);
            return (bytes, None);
        }
        let mut steps = 1;
        while steps < MAX_STEPS && rng.random() {
            steps += 1;
        }
        for _ in 0..steps {
            self.step(&mut bytes, rng);
            bytes.truncate(self.max_bytes);
        }
        (bytes, Some(origin))
    }

    fn step(&self, bytes: &mut Vec<u8>, rng: &mut StdRng) {
        let kinds = if self.words.is_empty() { 9 } else { 11 };
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..kinds) {
            0 | 1 => with_byte(bytes, at, |byte| *byte ^= 1 << rng.random_range(0..8)),
            2 => with_byte(bytes, at, |byte| *byte = rng.random()),
            3 => bytes.truncate(at),
            4 => {
                // A splice: the head of this one, the tail of another.
                let other = &self.corpus[rng.random_range(0..self.corpus.len())];
                let from = rng.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            5 => {
                let end = range_end(at, bytes, rng);
                bytes.drain(at..end);
            }
            6 => {
                let end = range_end(at, bytes, rng);
                let times = rng.random_range(1..=MAX_REPEATS);
                let piece = bytes[at..end].repeat(times);
                let room = self.max_bytes.saturating_sub(bytes.len());
                bytes.splice(at..at, piece.into_iter().take(room));
            }
            7 => length_field(bytes, at, rng),
            8 => {
                let piece: [u8; 8] = rng.random();
                let length = rng.random_range(1..=piece.len());
                bytes.splice(at..at, piece[..length].iter().copied());
            }
            _ => {
                let word = self.words[rng.random_range(0..self.words.len())];
                bytes.splice(at..at, word.bytes());
            }
        }
    }
}

fn with_byte(bytes: &mut [u8], at: usize, change: impl FnOnce(&mut u8)) {
    if let Some(byte) = bytes.get_mut(at) {
        change(byte);
    }
}

/// Pieces are mostly short.
fn range_end(at: usize, bytes: &[u8], rng: &mut StdRng) -> usize {
    let longest = if rng.random() { 16 } else { bytes.len() };
    at + rng.random_range(0..=longest.min(bytes.len() - at))
}

/// A number of one to eight bytes, in either order of bytes, becomes a little more or less, or an edge.
fn length_field(bytes: &mut [u8], at: usize, rng: &mut StdRng) {
    let size = 1 << rng.random_range(0..4);
    let Some(field) = bytes.get_mut(at..at + size) else {
        return;
    };
    let big_endian: bool = rng.random();
    if big_endian {
        field.reverse();
    }
    let mut whole = [0; 8];
    whole[..size].copy_from_slice(field);
    let value = match rng.random_range(0..3) {
        0 => u64::from_le_bytes(whole).wrapping_add(rng.random_range(1..=16)),
        1 => u64::from_le_bytes(whole).wrapping_sub(rng.random_range(1..=16)),
        _ => EDGES[rng.random_range(0..EDGES.len())],
    };
    field.copy_from_slice(&value.to_le_bytes()[..size]);
    if big_endian {
        field.reverse();
    }
}
