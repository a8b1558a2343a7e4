//! Measures Nebula, side by side with peers where there are any. Prints tables and keeps the raw figures
//! in `bench/results/`. Nothing here asserts a time: see `bench/README.md` for how to read the figures.

mod cluster;
mod etcd;
mod life;
mod pick;
mod plan;
mod proxy;
mod report;
mod space;
mod writes;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures Nebula beside its peers")]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Memory and CPU of an idle three-node cluster, and how long it takes to start.
    Idle,
    /// A static site of 100 files: from the command to 200 from every node.
    Deploy,
    /// kill -9 of each node in turn: failed requests, writes back, instances replaced.
    Failover,
    /// From `deploy update` to the new release at every node: a site, a service.
    Update,
    /// A service's p99 beside programs that take all they can get.
    Neighbour,
    /// Durable registry writes per second beside etcd (Debian package `etcd-server`).
    Writes {
        /// Seconds for each measurement.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
        /// Interleaved rounds; the median counts.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
    /// `routes::pick` with 10,000 routes.
    Pick,
    /// Plans for 10,000 instances on 1,000 nodes.
    Plan,
    /// Data folder and memory after so many small registry writes.
    Space {
        #[arg(long, default_value_t = 1_000_000)]
        writes: u64,
    },
    /// The proxy beside nginx, HAProxy, pingora, Traefik and Caddy.
    Proxy(proxy::Options),
    /// All of it but the comparison of proxies, which takes as long as all the rest.
    All,
}

fn main() -> anyhow::Result<()> {
    nebula_pki::install_crypto_provider();
    match Args::parse().what {
        What::Idle => cluster::idle(),
        What::Deploy => cluster::deploy(),
        What::Failover => cluster::failover(),
        What::Update => life::update(),
        What::Neighbour => life::neighbour(),
        What::Writes { seconds, rounds } => writes::run(seconds, rounds),
        What::Pick => pick::run(),
        What::Plan => plan::run(),
        What::Space { writes } => space::run(writes),
        What::Proxy(options) => proxy::run(&options),
        What::All => {
            pick::run()?;
            plan::run()?;
            cluster::idle()?;
            cluster::deploy()?;
            cluster::failover()?;
            life::update()?;
            life::neighbour()?;
            writes::run(5, 3)?;
            space::run(1_000_000)
        }
    }
}
