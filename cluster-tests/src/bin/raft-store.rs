//! The registry's stores at work, to be cut off at any moment. `raft-store write DIR SEED` says what it tries and what
//! is done, a line each, until it is ended or an operation fails; `write-blind` does not see that the disk is full before
//! it writes; `raft-store check DIR` prints what the stores hold.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use nebula_cluster_tests::disk::model::{Model, Op};
use nebula_registry::laboratory::Stores;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let done = match args[..] {
        ["write", dir, seed] => runtime.block_on(write(Path::new(dir), seed, false)),
        ["write-blind", dir, seed] => runtime.block_on(write(Path::new(dir), seed, true)),
        ["check", dir] => runtime.block_on(check(Path::new(dir))),
        _ => Err("usage: raft-store write|write-blind DIR SEED | check DIR".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

type Done = Result<(), Box<dyn std::error::Error>>;

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

async fn open(dir: &Path, blind: bool) -> Result<Stores, Box<dyn std::error::Error>> {
    let opened = match blind {
        true => Stores::open_blind(dir).await,
        false => Stores::open(dir).await,
    };
    opened.map_err(|error| {
        let source = std::error::Error::source(&error).map(|s| format!(": {s}"));
        format!("{error}{}", source.unwrap_or_default()).into()
    })
}

async fn look(stores: &mut Stores) -> std::io::Result<Model> {
    let found = stores.found().await?;
    Ok(Model {
        vote: found.vote,
        log: found
            .entries
            .iter()
            .map(|(term, index)| (*index, *term))
            .collect(),
        purged: found.purged,
        snapshot: found.snapshot,
    })
}

async fn check(dir: &Path) -> Done {
    let mut stores = open(dir, false).await?;
    let found = look(&mut stores).await?;
    say(&json!(found).to_string())?;
    stores.close().await;
    Ok(())
}

async fn write(dir: &Path, seed: &str, blind: bool) -> Done {
    let mut stores = open(dir, blind).await?;
    let mut model = look(&mut stores).await?;
    let mut rng = StdRng::seed_from_u64(seed.parse()?);
    say("open")?;
    loop {
        let op = first(&model).unwrap_or_else(|| next(&model, &mut rng));
        say(&format!("try {}", json!(op)))?;
        carry_out(&mut stores, &op).await?;
        say("ok")?;
        model.carry_out(&op);
    }
}

async fn carry_out(stores: &mut Stores, op: &Op) -> std::io::Result<()> {
    match *op {
        Op::Append { term, from, count } => stores.append(term, from, count).await,
        Op::Vote { term } => stores.vote(term).await,
        Op::Truncate { from } => stores.truncate(from).await,
        Op::Snapshot { at } => stores.snapshot(at).await,
        Op::Purge { upto } => stores.purge(upto).await,
        Op::Install { at, vote } => stores.install(at, vote).await,
    }
}

/// What Raft does before anything else: a log that a crash left behind its snapshot is purged, and nothing is appended
/// to it.
fn first(model: &Model) -> Option<Op> {
    let upto = model.snapshot.filter(|at| model.last() < *at)?;
    Some(Op::Purge { upto })
}

/// What a Raft might do next.
fn next(model: &Model, rng: &mut StdRng) -> Op {
    let (newest, last) = model.last();
    // No Raft appends for an earlier term than its log has, also when a crash came between an installed snapshot and the
    // vote behind it.
    let term = model.vote.max(newest).max(1);
    let snapshot = model.snapshot.map_or(0, |at| at.1);
    match rng.random_range(0..100) {
        0..8 => Op::Vote { term: term + 1 },
        8..16 if last > snapshot + 1 => {
            let from = rng.random_range(snapshot.max(last.saturating_sub(20)) + 1..=last);
            Op::Truncate {
                from: (model.log[&from], from),
            }
        }
        16..20 if last > snapshot => {
            let index = rng.random_range(snapshot + 1..=last);
            Op::Snapshot {
                at: (model.log[&index], index),
            }
        }
        20..26 if snapshot > model.purged.map_or(0, |at| at.1) => {
            let index = rng.random_range(model.purged.map_or(0, |at| at.1) + 1..=snapshot);
            match model.log.get(&index) {
                Some(term) => Op::Purge {
                    upto: (*term, index),
                },
                None => Op::Vote { term: term + 1 },
            }
        }
        26..28 => Op::Install {
            at: (term + 1, last + rng.random_range(1..500)),
            vote: term + 2,
        },
        n => Op::Append {
            term,
            from: last + 1,
            count: rng.random_range(1..if n < 40 { 80 } else { 6 }),
        },
    }
}
