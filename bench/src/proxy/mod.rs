//! The proxy beside the proxies that people run today: one upstream, one worker each, interleaved rounds. What counts
//! on a noisy machine is the CPU that each spends on a request; see `bench/README.md`.

mod half;
mod idle;
mod limits;
mod load;
mod mode;
mod peers;
mod proc;
mod results;
mod rounds;
mod stage;
mod table;
mod tls;

use std::collections::BTreeMap;

use clap::Args;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

use self::idle::Secure;
use self::mode::Mode;
use self::peers::{Layout, Peer, Running};
use self::results::Results;
use self::rounds::{Effort, order};
use self::stage::Stage;
use self::tls::Protocol;
use crate::report;

/// Idle memory is much the same each time.
const IDLE_STARTS: usize = 3;

#[derive(Debug, Args)]
pub struct Options {
    /// Interleaved rounds; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds for each measurement.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Only these; the results are printed and not kept.
    #[arg(long, value_delimiter = ',', value_name = "MODE,…")]
    modes: Vec<Mode>,
    /// Only these; the results are printed and not kept.
    #[arg(long, value_delimiter = ',', value_name = "PROXY,…")]
    peers: Vec<Peer>,
}

struct Bench {
    stage: Stage,
    effort: Effort,
    /// Those that take part.
    peers: Vec<Peer>,
    /// Those that do not, and why.
    absent: BTreeMap<Peer, String>,
    results: Results,
}

pub fn run(options: &Options) -> anyhow::Result<()> {
    raise_file_limit()?;
    let whole = options.modes.is_empty() && options.peers.is_empty();
    let modes = if options.modes.is_empty() {
        Mode::all()
    } else {
        options.modes.clone()
    };
    let mut bench = Bench::new(options)?;
    bench.singles(&modes)?;
    if modes.contains(&Mode::OtherNode) {
        bench.pairs()?;
    }
    for mode in [Mode::Idle, Mode::IdleTls, Mode::IdleH2] {
        if modes.contains(&mode) {
            bench.idle(mode)?;
        }
    }
    if modes.contains(&Mode::Table) {
        bench.table()?;
    }
    let verdicts = limits::verdicts(&bench.results, &modes);
    let mut raw = bench.results.raw();
    raw["rounds"] = json!(options.rounds);
    raw["seconds"] = json!(options.seconds);
    report::publish_all("proxy", &bench.results.tables(&verdicts), &raw, whole)
}

/// A thousand connections here and as many in each proxy, which inherits this.
fn raise_file_limit() -> anyhow::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

impl Bench {
    fn new(options: &Options) -> anyhow::Result<Bench> {
        let asked = match options.peers.as_slice() {
            [] => <Peer as clap::ValueEnum>::value_variants(),
            some => some,
        };
        let missing = |peer: &Peer| Some((*peer, peer.missing()?));
        let absent: BTreeMap<Peer, String> = asked.iter().filter_map(missing).collect();
        for (peer, why) in &absent {
            println!("without {}: {why}", peer.name());
        }
        let mut peers = asked.to_vec();
        peers.retain(|peer| !absent.contains_key(peer));
        let effort = Effort {
            rounds: options.rounds.max(1),
            seconds: options.seconds.max(1),
        };
        Ok(Bench {
            stage: Stage::new()?,
            effort,
            peers,
            absent,
            results: Results::default(),
        })
    }

    /// Starts those that have a part in one of the modes; one that does not start is left out from here on.
    fn start(&mut self, modes: &[Mode], layout: Layout) -> Vec<Running> {
        let mut running = Vec::new();
        for peer in self.peers.clone() {
            if !modes.iter().any(|mode| mode.concerns(peer)) {
                continue;
            }
            match peer.start(&self.stage, layout) {
                Ok(started) => running.push(started),
                Err(error) => {
                    println!("without {}: {error:#}", peer.name());
                    self.absent.insert(peer, "does not start".to_owned());
                    self.peers.retain(|other| *other != peer);
                }
            }
        }
        running
    }

    /// The lines of those that are left out of a mode.
    fn note_absent(&mut self, mode: Mode) {
        for (peer, why) in &self.absent {
            if mode.concerns(*peer) {
                self.results.load.insert((mode, *peer), Err(why.clone()));
            }
        }
    }

    /// All modes of one proxy before the upstream.
    fn singles(&mut self, modes: &[Mode]) -> anyhow::Result<()> {
        let single = |mode: &Mode| match mode.shape() {
            Some(shape) => shape.layout == Layout::Single,
            None => *mode == Mode::HalfLoad,
        };
        let modes: Vec<Mode> = modes.iter().copied().filter(single).collect();
        if modes.is_empty() {
            return Ok(());
        }
        let all = self.start(&modes, Layout::Single);
        for mode in modes {
            self.mode(mode, &all)?;
        }
        Ok(())
    }

    fn pairs(&mut self) -> anyhow::Result<()> {
        let all = self.start(&[Mode::OtherNode], Layout::Pair);
        self.mode(Mode::OtherNode, &all)
    }

    fn mode(&mut self, mode: Mode, all: &[Running]) -> anyhow::Result<()> {
        self.note_absent(mode);
        let mut able = Vec::new();
        let protocol = mode.shape().and_then(|shape| shape.way.in_tls());
        for running in all.iter().filter(|r| mode.concerns(r.peer)) {
            let refused = || self.refuses(running, protocol?);
            let why = mode.missing().or_else(refused);
            match why {
                Some(why) => {
                    self.results.load.insert((mode, running.peer), Err(why));
                }
                None => able.push(running),
            }
        }
        if able.is_empty() {
            return Ok(());
        }
        let folder = self.stage.folder("load")?;
        let Some(shape) = mode.shape() else {
            let upstream = self.stage.upstream;
            return half::run(upstream, &able, self.effort, &folder, &mut self.results);
        };
        let rounds = rounds::measure(mode, &shape, &able, self.effort, &folder);
        for (running, rounds) in able.iter().zip(rounds) {
            self.results.load.insert((mode, running.peer), rounds);
        }
        Ok(())
    }

    fn refuses(&self, running: &Running, protocol: Protocol) -> Option<String> {
        let served = tls::is_served(running.https, &self.stage.certificate, protocol);
        (!served).then(|| "not served".to_owned())
    }

    fn idle(&mut self, mode: Mode) -> anyhow::Result<()> {
        let protocol = match mode {
            Mode::IdleTls => Some(Protocol::HttpOne),
            Mode::IdleH2 => Some(Protocol::HttpTwo),
            _ => None,
        };
        let speak = protocol
            .map(|protocol| Secure::new(&self.stage.certificate, protocol))
            .transpose()?;
        let peers = self.peers.clone();
        for (peer, why) in &self.absent {
            self.results.idle.insert((mode, *peer), Err(why.clone()));
        }
        for round in 0..self.effort.rounds.min(IDLE_STARTS) {
            for i in order(peers.len(), round) {
                let measured = self.idle_once(peers[i], speak.as_ref());
                let key = (mode, peers[i]);
                let known = self.results.idle.entry(key).or_insert(Ok(Vec::new()));
                match (known, measured) {
                    (Ok(all), Ok(kb)) => all.push(kb),
                    (known, Err(why)) => *known = Err(why),
                    (Err(_), Ok(_)) => {}
                }
            }
        }
        Ok(())
    }

    /// The proxy by itself and freshly started, so that no pages are left over from other loads.
    fn idle_once(&self, peer: Peer, secure: Option<&Secure>) -> Result<f64, String> {
        let text = |error: anyhow::Error| format!("{error:#}");
        let running = peer.start(&self.stage, Layout::Single).map_err(text)?;
        let refused = secure.and_then(|secure| self.refuses(&running, secure.protocol));
        match refused {
            Some(why) => Err(why),
            None => idle::measure(&running, secure).map_err(text),
        }
    }

    fn table(&mut self) -> anyhow::Result<()> {
        if !self.peers.contains(&Peer::Nebula) {
            return Ok(());
        }
        let measured = match Mode::Table.missing() {
            Some(why) => Err(why),
            None => Ok(table::run(
                &self.stage,
                self.effort,
                &self.stage.folder("table")?,
            )?),
        };
        self.results.table = Some(measured);
        Ok(())
    }
}
