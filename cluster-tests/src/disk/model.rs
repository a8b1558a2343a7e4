//! What the stores of a Raft node must hold after a crash, given what was asked of them and what was confirmed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Term and index of an entry.
pub type At = (u64, u64);

/// What Raft asks of its stores. All but a purge is durable once confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    Append {
        term: u64,
        from: u64,
        count: u64,
    },
    Vote {
        term: u64,
    },
    Truncate {
        from: At,
    },
    Snapshot {
        at: At,
    },
    Purge {
        upto: At,
    },
    /// A leader's snapshot, ahead of the log, and a vote right behind it.
    Install {
        at: At,
        vote: u64,
    },
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    pub vote: u64,
    /// Terms by index.
    pub log: BTreeMap<u64, u64>,
    pub purged: Option<At>,
    pub snapshot: Option<At>,
}

impl Model {
    pub fn last(&self) -> At {
        let last = self.log.last_key_value().map(|(i, t)| (*t, *i));
        last.max(self.purged).unwrap_or_default()
    }

    pub fn carry_out(&mut self, op: &Op) {
        match *op {
            Op::Append { term, from, count } => {
                self.log.extend((from..from + count).map(|i| (i, term)));
            }
            Op::Vote { term } => self.vote = term,
            Op::Truncate { from } => {
                self.log.split_off(&from.1);
            }
            Op::Snapshot { at } => self.snapshot = Some(at),
            Op::Purge { upto } => {
                self.purged = Some(upto);
                self.log = self.log.split_off(&(upto.1 + 1));
            }
            Op::Install { at, vote } => {
                self.snapshot = Some(at);
                self.purged = Some(at);
                self.log.clear();
                self.vote = vote;
            }
        }
    }
}

/// Whether `found` may be what is left of a store that held `before`, confirmed `done`, and had begun `begun`.
pub fn judge(before: &Model, done: &[Op], begun: Option<&Op>, found: &Model) -> Result<(), String> {
    judge_damaged(before, done, begun, found)?;
    let mut now = before.clone();
    done.iter().for_each(|op| now.carry_out(op));
    let mut perhaps = now.clone();
    begun.into_iter().for_each(|op| perhaps.carry_out(op));
    one_of(
        "the snapshot",
        found.snapshot,
        now.snapshot,
        perhaps.snapshot,
    )
}

/// The same when files were damaged: a snapshot may be missing that the log makes up for.
pub fn judge_damaged(
    before: &Model,
    done: &[Op],
    begun: Option<&Op>,
    found: &Model,
) -> Result<(), String> {
    let mut now = before.clone();
    // With what a lost purge may bring back.
    let mut written = before.log.clone();
    for op in done {
        now.carry_out(op);
        match op {
            Op::Purge { .. } => {}
            Op::Install { .. } => written.clear(),
            Op::Truncate { from } => drop(written.split_off(&from.1)),
            _ => written.extend(&now.log),
        }
    }
    let mut perhaps = now.clone();
    if let Some(op) = begun {
        perhaps.carry_out(op);
    }
    one_of("the vote", found.vote, now.vote, perhaps.vote)?;
    if ![now.snapshot, perhaps.snapshot].contains(&found.snapshot) {
        made_up_for(before, done, &now, found)?;
    }
    let purged = found.purged.map_or(0, |at| at.1);
    if found.purged > found.snapshot {
        return Err(format!(
            "purged to {:?} with a snapshot of {:?}",
            found.purged, found.snapshot
        ));
    }
    for (index, term) in now.log.range(purged + 1..) {
        let gone = match begun {
            Some(Op::Truncate { from }) => *index >= from.1,
            Some(Op::Install { at, .. }) => found.purged == Some(*at),
            _ => false,
        };
        if !gone && found.log.get(index) != Some(term) {
            return Err(format!(
                "entry {index} of term {term} was confirmed, and there is {:?}",
                found.log.get(index)
            ));
        }
    }
    for (index, term) in &found.log {
        let known = written.get(index) == Some(term) || perhaps.log.get(index) == Some(term);
        if !known {
            return Err(format!("entry {index} of term {term} was never written"));
        }
    }
    Ok(())
}

/// Whether the log goes on from an earlier snapshot, up to what the missing one held and beyond.
fn made_up_for(before: &Model, done: &[Op], now: &Model, found: &Model) -> Result<(), String> {
    let earlier = done.iter().filter_map(|op| match op {
        Op::Snapshot { at } | Op::Install { at, .. } => Some(Some(*at)),
        _ => None,
    });
    let mut known = [None, before.snapshot].into_iter().chain(earlier);
    let from = found.snapshot.map_or(1, |at| at.1 + 1);
    let gap = (from..=now.last().1).find(|index| !found.log.contains_key(index));
    let reached = now
        .snapshot
        .is_none_or(|(term, index)| found.log.get(&index) == Some(&term));
    if known.any(|at| at == found.snapshot) && gap.is_none() && reached {
        return Ok(());
    }
    Err(format!(
        "the snapshot is {:?} instead of {:?}, and the log does not make up for it (entry {gap:?} is missing)",
        found.snapshot, now.snapshot
    ))
}

fn one_of<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: T,
    now: T,
    perhaps: T,
) -> Result<(), String> {
    if found == now || found == perhaps {
        return Ok(());
    }
    Err(format!(
        "{what} is {found:?}; {now:?} was confirmed, and {perhaps:?} was begun"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(vote: u64, log: &[At]) -> Model {
        Model {
            vote,
            log: log.iter().map(|(t, i)| (*i, *t)).collect(),
            ..Model::default()
        }
    }

    #[test]
    fn what_was_confirmed_must_be_there_and_what_was_begun_may() {
        let append = |from| Op::Append {
            term: 1,
            from,
            count: 2,
        };
        let done = [append(1), Op::Vote { term: 3 }];
        let judged = |vote, log: &[At]| {
            judge(
                &Model::default(),
                &done,
                Some(&append(3)),
                &model(vote, log),
            )
            .is_ok()
        };
        assert!(judged(3, &[(1, 1), (1, 2)]));
        assert!(judged(3, &[(1, 1), (1, 2), (1, 3)]));
        assert!(!judged(3, &[(1, 1)]), "an entry is lost");
        assert!(!judged(0, &[(1, 1), (1, 2)]), "the vote is lost");
        assert!(!judged(3, &[(1, 1), (2, 2)]), "another entry in its place");
        assert!(!judged(3, &[(1, 1), (1, 2), (1, 3), (1, 4), (1, 5)]));
    }

    #[test]
    fn what_was_taken_back_stays_away_and_what_was_purged_need_not() {
        let before = model(1, &[(1, 1), (1, 2), (1, 3)]);
        let snapshot = Op::Snapshot { at: (1, 1) };
        let done = [
            Op::Truncate { from: (1, 3) },
            snapshot,
            Op::Purge { upto: (1, 1) },
        ];
        let mut found = model(1, &[(1, 1), (1, 2)]);
        found.snapshot = Some((1, 1));
        judge(&before, &done, None, &found).unwrap();
        found.purged = Some((1, 1));
        found.log.remove(&1);
        judge(&before, &done, None, &found).unwrap();
        found.log.insert(3, 1);
        assert!(judge(&before, &done, None, &found).is_err());
    }

    #[test]
    fn a_damaged_snapshot_may_be_missing_while_the_log_makes_up_for_it() {
        let before = model(1, &[(1, 1), (1, 2), (1, 3)]);
        let at = |index| Op::Snapshot { at: (1, index) };
        let done = [at(1), at(2)];
        let mut found = before.clone();
        for snapshot in [None, Some((1, 1)), Some((1, 2))] {
            found.snapshot = snapshot;
            judge_damaged(&before, &done, None, &found).unwrap();
        }
        assert!(judge(&before, &[at(1), at(3)], None, &found).is_err());
        found.snapshot = Some((1, 3));
        assert!(judge_damaged(&before, &done, None, &found).is_err());
        let installed = Op::Install {
            at: (2, 9),
            vote: 2,
        };
        found = Model {
            vote: 2,
            ..before.clone()
        };
        found.snapshot = Some((1, 2));
        let done = [at(2), installed];
        assert!(
            judge_damaged(&before, &done, None, &found).is_err(),
            "a log that it had replaced"
        );
    }
}
