//! `raft-store` as a test uses it: at work until it is cut off, and asked afterwards what is there.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::model::{Model, Op};
use crate::binaries;

/// A store that takes longer to open hangs.
const CHECK: Duration = Duration::from_secs(60);

/// What one life of a store confirmed.
#[derive(Debug, Default)]
pub struct Life {
    pub opened: bool,
    pub done: Vec<Op>,
    pub begun: Option<Op>,
}

/// A store at work.
pub struct Writer {
    child: Child,
    confirmed: Arc<AtomicU64>,
    heard: Option<JoinHandle<Life>>,
}

impl Writer {
    pub fn start(dir: &Path, seed: u64) -> Writer {
        Writer::run("write", dir, seed, None)
    }

    /// Ends at a fault point, `NAME=N`.
    pub fn start_until(dir: &Path, seed: u64, point: &str) -> Writer {
        Writer::run("write", dir, seed, Some(point))
    }

    /// Does not see that the disk is full before it writes.
    pub fn start_blind(dir: &Path, seed: u64) -> Writer {
        Writer::run("write-blind", dir, seed, None)
    }

    fn run(what: &str, dir: &Path, seed: u64, point: Option<&str>) -> Writer {
        let mut command = Command::new(binaries::with_fault_points("raft-store"));
        command.arg(what).arg(dir).arg(seed.to_string());
        command.envs(point.map(|point| ("NEBULA_FAULT_POINT", point)));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("raft-store runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let confirmed = Arc::new(AtomicU64::new(0));
        let count = confirmed.clone();
        let heard = std::thread::spawn(move || {
            let mut life = Life::default();
            for line in lines.map_while(Result::ok) {
                match line.split_once(' ') {
                    Some(("try", op)) => {
                        life.begun = Some(serde_json::from_str(op).expect("an operation"));
                    }
                    _ if line == "open" => life.opened = true,
                    _ => {
                        life.done.extend(life.begun.take());
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
            life
        });
        Writer {
            child,
            confirmed,
            heard: Some(heard),
        }
    }

    /// Ends it at once, if it has not ended by itself.
    pub fn end(mut self) -> Life {
        self.finish().expect("it is ended once")
    }

    /// Operations so far.
    pub fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::SeqCst)
    }

    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    fn finish(&mut self) -> Option<Life> {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let heard = self.heard.take()?;
        Some(
            heard
                .join()
                .expect("it says nothing that is not understood"),
        )
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.finish();
    }
}

/// What the stores of a folder hold, or why they cannot be opened.
pub fn check(dir: &Path) -> Result<Model, String> {
    let mut child = Command::new(binaries::with_fault_points("raft-store"))
        .arg("check")
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("raft-store runs");
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ = pipe.expect("a pipe").read_to_string(&mut text);
            text
        })
    };
    let out = read(out.map(|p| Box::new(p) as _));
    let err = read(err.map(|p| Box::new(p) as _));
    let until = Instant::now() + CHECK;
    let status = loop {
        match child.try_wait().expect("a child") {
            Some(status) => break status,
            None if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{}: it neither opens nor is refused", dir.display());
            }
        }
    };
    let (out, err) = [out, err].map(|t| t.join().expect("it reads")).into();
    if !status.success() {
        return Err(err);
    }
    Ok(serde_json::from_str(&out).expect("what it holds is JSON"))
}

/// Whether an error says what is wrong, and is not merely the end of a program.
pub fn says_why(error: &str) -> bool {
    error.contains("is damaged") || error.contains("cannot be opened")
}
