//! The load: wrk for HTTP/1.1, h2load for TLS, HTTP/2 and a given rate. Both are other people's programs, so that what
//! is measured is not measured by itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::Context;

use super::proc::find;
use super::tls::Protocol;
use crate::report;

pub const CONNECTIONS: u32 = 32;

/// What is asked of whom.
#[derive(Debug, Clone)]
pub struct Target<'a> {
    pub address: SocketAddr,
    pub host: &'a str,
    pub path: &'a str,
}

/// How it is asked, always over [`CONNECTIONS`] connections by one thread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    Plain,
    TlsOne,
    /// So many streams at once on each connection.
    TlsTwo {
        streams: u32,
    },
    /// So many requests a second in all, over HTTP/1.1 in the clear.
    Paced {
        rate: f64,
    },
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answers {
    pub requests: u64,
    /// Connections that broke, answers that were not 200, and requests without one.
    pub errors: u64,
    pub seconds: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// A program that makes load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    Wrk,
    H2load,
}

impl Tool {
    /// Why it cannot be used here.
    pub fn missing(self) -> Option<String> {
        let (name, how) = match self {
            Tool::Wrk => ("wrk", "apt install wrk"),
            Tool::H2load => ("h2load", "apt install nghttp2-client"),
        };
        find(name).is_none().then(|| format!("needs {name}: {how}"))
    }
}

impl Way {
    pub fn tool(self) -> Tool {
        match self {
            Way::Plain => Tool::Wrk,
            Way::TlsOne | Way::TlsTwo { .. } | Way::Paced { .. } => Tool::H2load,
        }
    }

    /// What it speaks in TLS, if that is what it does.
    pub fn in_tls(self) -> Option<Protocol> {
        match self {
            Way::TlsOne => Some(Protocol::HttpOne),
            Way::TlsTwo { .. } => Some(Protocol::HttpTwo),
            Way::Plain | Way::Paced { .. } => None,
        }
    }

    pub fn run(self, target: &Target, seconds: u64, folder: &Path) -> anyhow::Result<Answers> {
        match self {
            Way::Plain => wrk(target, seconds, folder),
            _ => self.h2load(target, seconds, folder),
        }
    }

    fn h2load(self, target: &Target, seconds: u64, folder: &Path) -> anyhow::Result<Answers> {
        let log = folder.join("h2load.log");
        // It appends.
        let _ = std::fs::remove_file(&log);
        let scheme = if matches!(self, Way::Paced { .. }) {
            "http"
        } else {
            "https"
        };
        let mut command = Command::new("h2load");
        command.args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-D{seconds}")]);
        match self {
            Way::TlsTwo { streams } => command.arg(format!("-m{streams}")),
            Way::Paced { rate } => command.args([
                "--h1",
                &format!("--rps={:.3}", rate / f64::from(CONNECTIONS)),
            ]),
            Way::Plain | Way::TlsOne => command.arg("--h1"),
        };
        command
            .arg(format!("--log-file={}", log.display()))
            .arg(format!("--connect-to={}", target.address))
            .arg(format!(
                "{scheme}://{}:{}{}",
                target.host,
                target.address.port(),
                target.path
            ));
        let said = run(command)?;
        let mut answers = h2load_summary(&said).with_context(|| said.clone())?;
        let lines = std::fs::read_to_string(&log).unwrap_or_default();
        let times = h2load_times(&lines);
        answers.p50_ms = report::percentile(&times, 0.5);
        answers.p99_ms = report::percentile(&times, 0.99);
        Ok(answers)
    }
}

fn run(mut command: Command) -> anyhow::Result<String> {
    let name = command.get_program().display().to_string();
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    let text = String::from_utf8_lossy(&stdout).into_owned();
    anyhow::ensure!(
        status.success(),
        "{name}: {status}: {text}{}",
        String::from_utf8_lossy(&stderr)
    );
    Ok(text)
}

/// wrk's own report rounds; this one has all digits, times in microseconds.
const WRK_SCRIPT: &str = r#"done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("figures %d %d %d %d %d\n", summary.requests, e.connect + e.read + e.write + e.status + e.timeout,
    summary.duration, latency:percentile(50), latency:percentile(99)))
end
"#;

fn wrk(target: &Target, seconds: u64, folder: &Path) -> anyhow::Result<Answers> {
    let script = folder.join("wrk.lua");
    std::fs::write(&script, WRK_SCRIPT)?;
    let mut command = Command::new("wrk");
    command
        .args([
            "-t1",
            &format!("-c{CONNECTIONS}"),
            &format!("-d{seconds}s"),
            "-s",
        ])
        .arg(script)
        .arg("-H")
        .arg(format!("Host: {}", target.host))
        .arg(format!("http://{}{}", target.address, target.path));
    let said = run(command)?;
    wrk_figures(&said).with_context(|| said.clone())
}

fn wrk_figures(said: &str) -> Option<Answers> {
    let line = said.lines().find_map(|l| l.strip_prefix("figures "))?;
    let numbers: Vec<u64> = line
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let &[requests, errors, micros, p50, p99] = numbers.as_slice() else {
        return None;
    };
    #[allow(clippy::cast_precision_loss)]
    let [micros, p50, p99] = [micros, p50, p99].map(|n| n as f64);
    Some(Answers {
        requests,
        errors,
        seconds: micros / 1e6,
        p50_ms: p50 / 1e3,
        p99_ms: p99 / 1e3,
    })
}

/// From the lines `finished in …`, `requests: …` and `status codes: …`.
fn h2load_summary(said: &str) -> Option<Answers> {
    let seconds = said
        .lines()
        .find_map(|l| l.strip_prefix("finished in "))
        .and_then(|l| duration(l.split(',').next()?))?;
    let counts = |prefix: &str| {
        let line = said.lines().find_map(|l| l.strip_prefix(prefix))?;
        let parts = line.split(',').filter_map(|part| {
            let (number, name) = part.trim().split_once(' ')?;
            Some((name.to_owned(), number.parse::<u64>().ok()?))
        });
        Some(parts.collect::<BTreeMap<String, u64>>())
    };
    let (requests, codes) = (counts("requests: ")?, counts("status codes: ")?);
    let of = |map: &BTreeMap<String, u64>, name: &str| map.get(name).copied().unwrap_or(0);
    let done = of(&requests, "done");
    let broken = of(&requests, "errored") + of(&requests, "timeout");
    let good = of(&codes, "2xx");
    Some(Answers {
        requests: done,
        errors: broken + done.saturating_sub(good),
        seconds,
        ..Answers::default()
    })
}

/// `1.50s`, `20.5ms`, `70us`.
fn duration(text: &str) -> Option<f64> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let (number, scale) = units
        .iter()
        .find_map(|(unit, scale)| Some((text.trim().strip_suffix(unit)?, scale)))?;
    Some(number.parse::<f64>().ok()? * scale)
}

/// Sorted times in milliseconds. A line: when it began, the status, how many microseconds it took.
fn h2load_times(log: &str) -> Vec<f64> {
    let mut times: Vec<f64> = log
        .lines()
        .filter_map(|line| line.split('\t').nth(2)?.trim().parse::<f64>().ok())
        .map(|micros| micros / 1e3)
        .collect();
    times.sort_by(f64::total_cmp);
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrks_line_is_read() {
        let answers = wrk_figures("Requests/sec: 1\nfigures 300 2 1500000 700 5900\n").unwrap();
        assert_eq!((answers.requests, answers.errors), (300, 2));
        assert_eq!(
            (answers.seconds, answers.p50_ms, answers.p99_ms),
            (1.5, 0.7, 5.9)
        );
        assert_eq!(wrk_figures("no figures"), None);
    }

    #[test]
    fn h2loads_summary_is_read() {
        let said = "finished in 999.50ms, 28365.00 req/s, 4.36MB/s\n\
            requests: 100 total, 132 started, 100 done, 97 succeeded, 3 failed, 2 errored, 1 timeout\n\
            status codes: 97 2xx, 0 3xx, 1 4xx, 2 5xx\n";
        let answers = h2load_summary(said).unwrap();
        assert_eq!((answers.requests, answers.errors), (100, 6));
        assert!((answers.seconds - 0.9995).abs() < 1e-9);
        assert_eq!(h2load_times("1\t200\t1500\n2\t200\t500\n"), [0.5, 1.5]);
        assert_eq!(duration("1.50s"), Some(1.5));
        assert_eq!(duration("soon"), None);
    }
}
