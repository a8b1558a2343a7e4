//! What a cluster must keep while it is attacked: its leader, its term, its memory, its writers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::history::{Clock, Moment, Op};
use crate::lab::load::Load;
use crate::lab::wait::{ASK, DEADLINE, until};
use crate::lab::{Lab, Processes, wait};

/// What no attack may make a daemon grow by.
pub const GROWTH_LIMIT_BYTES: u64 = 150 * 1024 * 1024;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Resident memory of a process.
fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Looks at the daemons' memory all the time.
struct Memory {
    pids: Vec<u32>,
    before: Vec<u64>,
    highest: Arc<Vec<AtomicU64>>,
    over: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

impl Memory {
    fn watch(pids: Vec<u32>) -> Memory {
        let before = pids.iter().map(|pid| resident_bytes(*pid)).collect();
        let highest: Arc<Vec<AtomicU64>> = Arc::new(pids.iter().map(|_| 0.into()).collect());
        let over = Arc::new(AtomicBool::new(false));
        let (of, seen, end) = (pids.clone(), highest.clone(), over.clone());
        let watcher = std::thread::spawn(move || {
            while !end.load(Ordering::SeqCst) {
                for (pid, highest) in of.iter().zip(seen.iter()) {
                    highest.fetch_max(resident_bytes(*pid), Ordering::SeqCst);
                }
                std::thread::sleep(LOOK_EVERY);
            }
        });
        Memory {
            pids,
            before,
            highest,
            over,
            watcher: Some(watcher),
        }
    }

    /// The most that each daemon has grown by, ever.
    fn growth(&self) -> Vec<u64> {
        let highest = self.highest.iter().map(|h| h.load(Ordering::SeqCst));
        let pairs = highest.zip(&self.before);
        pairs
            .map(|(now, before)| now.saturating_sub(*before))
            .collect()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(watcher) = self.watcher.take() {
            let _ = watcher.join();
        }
    }
}

/// A cluster under attack, with clients at work.
pub struct Siege<'a> {
    pub lab: &'a Processes,
    pub load: &'a Load,
    pub clock: &'a Clock,
    /// Where the nodes' meshes listen, by index.
    pub meshes: Vec<SocketAddr>,
    pub leader: usize,
    term: u64,
    memory: Memory,
    figures: BTreeMap<String, Value>,
}

impl<'a> Siege<'a> {
    pub async fn lay(lab: &'a Processes, load: &'a Load, clock: &'a Clock) -> Siege<'a> {
        wait::all_ready(lab).await;
        let leader = wait::leader(lab).await;
        let list = lab.api(0).look("/v1/members", ASK).await;
        let list = list.expect("the members");
        let mesh = |node: usize| {
            let mut members = list["members"].as_array().into_iter().flatten();
            let member = members.find(|m| m["id"] == lab.id(node));
            let address = member.and_then(|m| m["address"].as_str()?.parse().ok());
            address.expect("a member's mesh address")
        };
        Siege {
            lab,
            load,
            clock,
            meshes: (0..lab.nodes()).map(mesh).collect(),
            leader,
            term: list["term"].as_u64().expect("a term"),
            memory: Memory::watch(lab.cluster().members.iter().map(|m| m.pid).collect()),
            figures: BTreeMap::new(),
        }
    }

    /// A counter of a node, all labels that begin like this together.
    pub async fn counter(&self, node: usize, start: &str) -> u64 {
        let mut api = self.lab.http_api(node);
        let text = until(DEADLINE, "the metrics", async || {
            api.text("/metrics", ASK).await.map_err(|e| e.to_string())
        })
        .await;
        let lines = text.lines().filter(|line| line.starts_with(start));
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum::<f64>() as u64
    }

    pub async fn counters(&self, start: &str) -> u64 {
        let mut sum = 0;
        for node in 0..self.lab.nodes() {
            sum += self.counter(node, start).await;
        }
        sum
    }

    /// Until a counter of the cluster is over what it was: a refusal is counted a moment after it was felt.
    pub async fn has_grown(&self, start: &str, before: u64) {
        until(DEADLINE, &format!("{start} over {before}"), async || {
            let now = self.counters(start).await;
            (now > before).then_some(()).ok_or(now.to_string())
        })
        .await;
    }

    /// The attack that began at `begun` is over: was somebody's write begun and acknowledged meanwhile, and is
    /// everything as it was?
    ///
    /// # Panics
    /// When it is not.
    pub async fn withstood(&mut self, attack: &str, begun: Moment, sent: u64) {
        let over = self.clock.now();
        let meanwhile = |o: &Op| {
            o.is_acknowledged_write()
                && o.invoked.order > begun.order
                && o.returned.order < over.order
        };
        assert!(
            self.load.has(meanwhile),
            "no write was begun and acknowledged in the {:?} of '{attack}'",
            over.at.saturating_sub(begun.at)
        );
        self.holds(attack, sent).await;
    }

    /// The attack is over: is everything as it was?
    ///
    /// # Panics
    /// When it is not.
    pub async fn holds(&mut self, attack: &str, sent: u64) {
        let now = self.clock.now();
        until(DEADLINE, &format!("a write after '{attack}'"), async || {
            let later = |o: &Op| o.is_acknowledged_write() && o.invoked.order > now.order;
            self.load.has(later).then_some(()).ok_or_else(String::new)
        })
        .await;
        for node in 0..self.lab.nodes() {
            let list = until(DEADLINE, "the members", async || {
                let asked = self.lab.api(node).look("/v1/members", ASK).await;
                asked.map_err(|e| e.to_string())
            })
            .await;
            let of = (list["leader"].as_u64(), list["term"].as_u64());
            let was = (Some(self.lab.id(self.leader)), Some(self.term));
            assert_eq!(of, was, "leader and term by node {node} after '{attack}'");
        }
        let growth = self.memory.growth();
        let mib: Vec<u64> = growth.iter().map(|b| b / 1024 / 1024).collect();
        eprintln!("{attack}: {sent} sent; the daemons have grown by {mib:?} MiB at most");
        let figures = json!({ "sent": sent, "grown_mib": mib });
        self.figures.insert(attack.to_owned(), figures);
        for (pid, bytes) in self.memory.pids.iter().zip(growth) {
            assert!(
                bytes < GROWTH_LIMIT_BYTES,
                "daemon {pid} grew by {bytes} bytes in '{attack}'"
            );
        }
    }

    pub fn figures(&self) -> Value {
        json!(self.figures)
    }
}
