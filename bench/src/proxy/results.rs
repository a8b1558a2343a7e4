//! What a run has measured, as tables for people and as JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::limits::Verdict;
use super::load::Answers;
use super::mode::Mode;
use super::peers::Peer;
use super::proc::Cpu;
use crate::report::{self, Table};

/// One proxy under load, in one round.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    pub requests: u64,
    pub errors: u64,
    /// Microseconds of the proxy's CPU for each request.
    pub cpu_us: f64,
    /// The part of it that Nebula's edge threads had.
    pub edge_cpu_us: f64,
    pub requests_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

impl Sample {
    pub fn new(answers: &Answers, cpu: Cpu) -> Sample {
        #[allow(clippy::cast_precision_loss)]
        let requests = answers.requests as f64;
        Sample {
            requests: answers.requests,
            errors: answers.errors,
            cpu_us: cpu.all / requests,
            edge_cpu_us: cpu.edge / requests,
            requests_per_second: requests / answers.seconds,
            p50_ms: answers.p50_ms,
            p99_ms: answers.p99_ms,
        }
    }
}

/// One value for each round, or why there is none.
pub type Rounds<T> = Result<Vec<T>, String>;

#[derive(Default)]
pub struct Results {
    pub load: BTreeMap<(Mode, Peer), Rounds<Sample>>,
    /// KB for each idle connection.
    pub idle: BTreeMap<(Mode, Peer), Rounds<f64>>,
    /// The upstream without a proxy, at the rate of [`Mode::HalfLoad`].
    pub direct: Vec<Sample>,
    pub table: Option<Rounds<Replaced>>,
}

/// The same load without and with a table that is replaced all the time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replaced {
    pub still: Sample,
    pub replaced: Sample,
    pub replacements: usize,
}

pub fn median_of(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> f64 {
    report::median(samples.iter().map(value).collect())
}

pub fn errors(samples: &[Sample]) -> u64 {
    samples.iter().map(|s| s.errors).sum()
}

/// What comes on top of the upstream's own p99.
pub fn added_p99(samples: &[Sample], direct: &[Sample]) -> f64 {
    median_of(samples, |s| s.p99_ms) - median_of(direct, |s| s.p99_ms)
}

fn figures(samples: &[Sample]) -> Vec<String> {
    let of = |value: fn(&Sample) -> f64| median_of(samples, value);
    let edge = of(|s| s.edge_cpu_us);
    vec![
        format!("{:.1}", of(|s| s.cpu_us)),
        if edge > 0.0 {
            format!("{edge:.1}")
        } else {
            String::new()
        },
        format!("{:.0}", of(|s| s.requests_per_second)),
        format!("{:.2}", of(|s| s.p50_ms)),
        format!("{:.2}", of(|s| s.p99_ms)),
        errors(samples).to_string(),
    ]
}

impl Results {
    pub fn tables(&self, verdicts: &[Verdict]) -> Vec<Table> {
        let all = [self.load_table(), self.idle_table(), self.replaced_table()];
        let mut tables: Vec<Table> = all.into_iter().filter(|t| !t.rows.is_empty()).collect();
        tables.push(Table {
            name: "limits",
            header: &["what", "of", "measured", "at most", ""],
            rows: verdicts.iter().map(Verdict::row).collect(),
        });
        tables
    }

    fn load_table(&self) -> Table {
        let mut rows = Vec::new();
        for ((mode, peer), rounds) in &self.load {
            let mut row = vec![mode.name(), peer.name().to_owned()];
            match rounds {
                Ok(samples) => row.extend(figures(samples)),
                Err(why) => row.push(why.clone()),
            }
            rows.push(row);
        }
        if !self.direct.is_empty() {
            let mut row = vec![Mode::HalfLoad.name(), "no proxy".to_owned()];
            row.extend(figures(&self.direct));
            rows.push(row);
        }
        Table {
            name: "load",
            header: &[
                "mode",
                "proxy",
                "CPU µs/request",
                "of it edge",
                "requests/s",
                "p50 ms",
                "p99 ms",
                "errors",
            ],
            rows,
        }
    }

    fn idle_table(&self) -> Table {
        let row = |((mode, peer), rounds): (&(Mode, Peer), &Rounds<f64>)| {
            let figure = match rounds {
                Ok(kb) => format!("{:.1}", report::median(kb.clone())),
                Err(why) => why.clone(),
            };
            vec![mode.name(), peer.name().to_owned(), figure]
        };
        Table {
            name: "idle connections",
            header: &["mode", "proxy", "KB/connection"],
            rows: self.idle.iter().map(row).collect(),
        }
    }

    fn replaced_table(&self) -> Table {
        let mut rows = Vec::new();
        match &self.table {
            None => {}
            Some(Err(why)) => rows.push(vec![why.clone()]),
            Some(Ok(rounds)) => {
                let kinds: [(&str, fn(&Replaced) -> Sample); 2] = [
                    ("left alone", |r| r.still.clone()),
                    ("replaced", |r| r.replaced.clone()),
                ];
                for (name, of) in kinds {
                    let samples: Vec<Sample> = rounds.iter().map(of).collect();
                    let mut row = vec![name.to_owned()];
                    row.extend(figures(&samples).into_iter().skip(2));
                    rows.push(row);
                }
            }
        }
        Table {
            name: "a table of 10,000 names",
            header: &["table", "requests/s", "p50 ms", "p99 ms", "errors"],
            rows,
        }
    }

    pub fn raw(&self) -> Value {
        fn rounds<T: Serialize>(mode: Mode, peer: Peer, rounds: &Rounds<T>) -> Value {
            match rounds {
                Ok(rounds) => {
                    json!({ "mode": mode.name(), "proxy": peer.name(), "rounds": rounds })
                }
                Err(why) => json!({ "mode": mode.name(), "proxy": peer.name(), "left_out": why }),
            }
        }
        let load = self.load.iter().map(|((m, p), r)| rounds(*m, *p, r));
        let idle = self.idle.iter().map(|((m, p), r)| rounds(*m, *p, r));
        json!({
            "load": load.collect::<Vec<_>>(),
            "direct": self.direct,
            "idle_kb": idle.collect::<Vec<_>>(),
            "table": self.table,
        })
    }
}
