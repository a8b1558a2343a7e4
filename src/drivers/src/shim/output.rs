//! From the program's two pipes to the log file.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use nebula_domain::time::Millis;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::logfile::{Bounds, Lines, Stream, Writer};

/// One read; half of a pipe's usual capacity.
const CHUNK_BYTES: usize = 32 * 1024;
/// Reads of one pipe in a row, so that a program that only writes can still be stopped.
const READS_PER_TURN: usize = 8;
/// Reads after the end: a pipe holds at most 1 MiB (pipe(7), `pipe-max-size`) unless root raised it.
const READS_AT_END: usize = 64;

struct Source {
    stream: Stream,
    pipe: Option<File>,
    lines: Lines,
}

pub(crate) struct Output {
    sources: [Source; 2],
    writer: Writer,
    chunk: Vec<u8>,
}

impl Output {
    pub(crate) fn new(dir: &Path, bounds: Bounds, out: File, err: File) -> Output {
        let source = |stream, pipe: File| {
            // Cannot fail for a pipe of our own.
            let _ = fcntl(pipe.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
            Source {
                stream,
                pipe: Some(pipe),
                lines: Lines::default(),
            }
        };
        Output {
            sources: [source(Stream::Stdout, out), source(Stream::Stderr, err)],
            writer: Writer::open(dir.to_owned(), bounds),
            chunk: vec![0; CHUNK_BYTES],
        }
    }

    /// The pipes that are still open.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sources
            .iter()
            .filter_map(|source| source.pipe.as_ref().map(|pipe| pipe.as_fd()))
    }

    /// Writes what has arrived.
    pub(crate) fn read(&mut self, now: Millis) {
        self.pump(now, READS_PER_TURN);
    }

    /// Writes what is left in the pipes, and unfinished lines.
    pub(crate) fn end(&mut self, now: Millis) {
        self.pump(now, READS_AT_END);
        for source in &mut self.sources {
            let stream = source.stream;
            source.lines.end(|line| self.writer.line(now, stream, line));
        }
        self.writer.end(now);
    }

    /// Adds a line of the platform's own.
    pub(crate) fn note(&mut self, now: Millis, text: &str) {
        self.writer.note(now, text);
    }

    /// Whether something is to be told a moment from now, without further output.
    pub(crate) fn owes_note(&self) -> bool {
        self.writer.owes_note()
    }

    fn pump(&mut self, now: Millis, reads: usize) {
        self.writer.flush(now);
        for source in &mut self.sources {
            for _ in 0..reads {
                let Some(pipe) = &mut source.pipe else { break };
                match pipe.read(&mut self.chunk) {
                    Ok(0) => source.pipe = None,
                    Ok(n) => {
                        let stream = source.stream;
                        source
                            .lines
                            .feed(&self.chunk[..n], |line| self.writer.line(now, stream, line));
                        self.writer.flush(now);
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(_) => source.pipe = None,
                }
            }
        }
    }
}
