//! nft(8) as a program that is given rules by standard input, and that may fail or hang.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, PipeReader, Read as _, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::MemfdFlags;

/// Where distributions and administrators put it. Not the daemon's own `PATH`, which a service manager may have cut.
const FOLDERS: &str = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin:/usr/local/bin";
/// Milliseconds are usual; with another program's thousands of rules it takes a second.
const LIMIT: Duration = Duration::from_secs(5);
/// More than a table has whose node runs all that a registry can hold.
const SAID_BYTES: usize = 16 << 20;
/// Of an error, in a status.
const TOLD_CHARS: usize = 160;
/// Between the end of its output and its own end.
const POLL: Duration = Duration::from_millis(1);

pub(super) struct Nft {
    program: PathBuf,
    limit: Duration,
}

impl Nft {
    /// The one that is configured, or the machine's. The error is a sentence.
    pub(super) fn find(configured: Option<&Path>) -> Result<Nft, String> {
        let own = || {
            let folders = FOLDERS.split(':').map(Path::new);
            let mut places = folders.map(|folder| folder.join("nft"));
            places.find(|place| place.exists())
        };
        let program = configured.map(Path::to_owned).or_else(own);
        let program = program.ok_or("nft is not installed (package 'nftables')")?;
        Ok(Nft {
            program,
            limit: LIMIT,
        })
    }

    /// All of it or nothing.
    pub(super) fn load(&self, rules: &str) -> Result<(), String> {
        self.run(&["-f", "-"], rules).map(drop)
    }

    /// A table as numbers and without its counters, in words whose order does not matter: the kernel keeps sets in its own.
    pub(super) fn words(&self, table: &str) -> Result<Vec<String>, String> {
        let listed = self.run(&["-s", "-nn", "list", "table", "inet", table], "")?;
        let words = listed.split([' ', '\t', '\n', ',']);
        let mut words: Vec<String> = words
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        words.sort_unstable();
        Ok(words)
    }

    /// Also when there is none.
    pub(super) fn remove(&self, table: &str) -> Result<(), String> {
        self.load(&format!("table inet {table}\ndelete table inet {table}\n"))
    }

    /// The users that the tables of other nodes judge. What cannot be read is as if it were not there.
    pub(super) fn users_beside(&self, own: &str, prefix: &str) -> BTreeSet<u32> {
        let tables = self.run(&["list", "tables", "inet"], "");
        let tables = tables.unwrap_or_default();
        let names = tables.lines().filter_map(|line| {
            let name = line.trim().strip_prefix("table inet ")?;
            (name.starts_with(prefix) && name != own).then_some(name)
        });
        let sets = names.filter_map(|name| {
            let list = ["-nn", "list", "set", "inet", name, "users"];
            self.run(&list, "").ok()
        });
        sets.flat_map(|set| elements(&set)).collect()
    }

    fn run(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let told = |error: io::Error| format!("nft cannot be run: {error}");
        let script = script(input).map_err(told)?;
        let (reader, writer) = io::pipe().map_err(told)?;
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", FOLDERS)
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(script)
            .stdout(writer.try_clone().map_err(told)?)
            .stderr(writer);
        let mut child = command.spawn().map_err(told)?;
        // With its ends of the pipe.
        drop(command);
        let deadline = Instant::now() + self.limit;
        let ended = hear(reader, deadline).and_then(|said| Ok((end(&mut child, deadline)?, said)));
        match ended {
            Ok((status, said)) if status.success() => Ok(said),
            Ok((_, said)) => Err(format!("nft refuses: {}", excerpt(&said))),
            Err(error) => {
                let _ = child.kill();
                // One that the kernel holds up does not end by a signal either.
                std::thread::spawn(move || child.wait());
                match error.kind() {
                    io::ErrorKind::TimedOut => {
                        Err(format!("nft did not end within {} s", self.limit.as_secs()))
                    }
                    _ => Err(told(error)),
                }
            }
        }
    }
}

/// A file, since a pipe would have to be written while its reader is waited for.
fn script(text: &str) -> io::Result<File> {
    let file = rustix::fs::memfd_create(c"nebula-rules", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(file);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

/// All that it says until it closes the pipe.
fn hear(mut from: PipeReader, deadline: Instant) -> io::Result<String> {
    let mut said = Vec::new();
    let mut part = vec![0; 64 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // A remainder of less than a millisecond is none.
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, left) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let count = from.read(&mut part)?;
        if count == 0 {
            return Ok(String::from_utf8_lossy(&said).into_owned());
        }
        said.extend_from_slice(&part[..count]);
        if said.len() > SAID_BYTES {
            return Err(io::Error::other("it says too much"));
        }
    }
}

fn end(child: &mut Child, deadline: Instant) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(POLL);
    }
}

/// Its first line says what is wrong; the others show where.
fn excerpt(said: &str) -> String {
    let line = said.lines().find(|line| !line.trim().is_empty());
    let line = line.unwrap_or("it says nothing").trim();
    line.chars().take(TOLD_CHARS).collect()
}

/// The numbers in `elements = { 1, 2 }`.
fn elements(set: &str) -> Vec<u32> {
    let Some((_, elements)) = set.split_once("elements = {") else {
        return Vec::new();
    };
    let (elements, _) = elements.split_once('}').unwrap_or((elements, ""));
    let numbers = elements.split(',').map(str::trim);
    numbers.filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A program that does this instead. Written by another process: what this one has open for writing, a child that is
    /// just being made by another test has too, and nobody could run it.
    pub(in crate::firewall) fn acting(dir: &Path, script: &str) -> PathBuf {
        let program = dir.join("nft");
        let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod 755 \"$0\"";
        let mut command = Command::new("/bin/sh");
        command.args(["-c", write]).arg(&program).arg(script);
        assert!(command.status().unwrap().success());
        program
    }

    fn nft(dir: &Path, script: &str, limit: Duration) -> Nft {
        let program = acting(dir, script);
        Nft { program, limit }
    }

    #[test]
    fn rules_are_given_by_standard_input_however_long_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let nft = nft(dir.path(), "echo \"$@\"; exec cat", LIMIT);
        let rules = "x".repeat(1 << 20);
        let said = nft.run(&["-f", "-"], &rules).unwrap();
        assert_eq!(said, format!("-f -\n{rules}"));
    }

    #[test]
    fn an_error_is_its_first_line() {
        let dir = tempfile::tempdir().unwrap();
        let script = "echo 'Error: Operation not permitted' >&2; echo 'table x' >&2; exit 1";
        let error = nft(dir.path(), script, LIMIT).load("").unwrap_err();
        assert_eq!(error, "nft refuses: Error: Operation not permitted");
    }

    #[test]
    fn one_that_hangs_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let limit = Duration::from_millis(300);
        for script in ["exec sleep 1000", "exec >&- 2>&- sleep 1000"] {
            let begun = Instant::now();
            let error = nft(dir.path(), script, limit).load("").unwrap_err();
            assert_eq!(error, "nft did not end within 0 s");
            assert!(begun.elapsed() < Duration::from_secs(10));
        }
    }

    #[test]
    fn a_missing_one_is_named() {
        let nft = Nft::find(Some(Path::new("/nonexistent/nft"))).unwrap();
        let error = nft.load("").unwrap_err();
        assert!(error.starts_with("nft cannot be run: "), "{error}");
    }

    #[test]
    fn users_are_read_from_a_listing() {
        let set = "table inet t {\n\tset users {\n\t\ttype uid\n\t\telements = { 200001, 200002,\n\t\t\t     200003 }\n\t}\n}\n";
        assert_eq!(elements(set), [200_001, 200_002, 200_003]);
        assert_eq!(elements("set users { type uid }"), [] as [u32; 0]);
    }
}
