//! `nodectl recover`: bring the cluster back on this machine when a majority of its voters is gone for good.

use std::path::PathBuf;

use clap::Args;
use nebula_node::recover::{Findings, Named, Outcome as Recovery, RecoverError, RegistryError};
use nebula_wire::api::ErrorCode;
use serde::Serialize;

use super::setup::data_dir;
use crate::app::block_on;
use crate::error::{CliError, Exit, Outcome};
use crate::output::Output;
use crate::pack::chain;

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  systemctl stop nebula                         its instances run on
  nodectl recover                               says what this machine knows, and changes nothing
  nodectl recover --accept-loss
  systemctl start nebula

Do this on one machine only: the one that knows the latest log entry, if several are left. Changes that only the lost
voters knew are lost, although they were acknowledged. The lost voters are removed for good: should one of their machines
come back, it is refused, and joins again with an empty data folder. While a majority of the voters can be reached, or any
member follows a leader, nothing is changed. The machine votes alone afterwards; join others with 'nodectl token create'.")]
pub struct Recover {
    /// Of the surviving node, whose daemon is stopped
    #[arg(long, value_name = "DIR", env = "NEBULA_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Go on from what this machine knows; what only the lost voters knew is lost
    #[arg(long)]
    accept_loss: bool,
}

#[derive(Serialize)]
struct Member {
    id: u64,
    name: String,
}

#[derive(Serialize)]
struct Recovered {
    /// False when it had been done before and nothing was left to do, and while something is needed.
    changed: bool,
    /// `accept_loss`: `removed` are those that would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    needs: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
    /// The node that votes alone now.
    id: u64,
    /// The last log entry that was known.
    known_term: u64,
    known_index: u64,
    removed: Vec<Member>,
    kept: Vec<Member>,
    /// Where the registry goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
}

pub fn run(args: Recover, out: Output) -> Outcome {
    let dir = data_dir(args.data_dir.as_deref());
    let recover = async {
        let outcome = nebula_node::recover::recover(&dir, args.accept_loss).await;
        outcome.map_err(refused)
    };
    let recovered = match block_on(recover)? {
        Recovery::Asked(findings) => {
            if out.is_json() {
                out.json(&Recovered {
                    changed: false,
                    needs: Some("accept_loss"),
                    ..found(&findings)
                });
            }
            return Err(unconfirmed(&findings));
        }
        Recovery::Done {
            findings, revision, ..
        } => Recovered {
            revision: Some(revision),
            ..found(&findings)
        },
        Recovery::Already(before) => Recovered {
            changed: false,
            needs: None,
            cluster_id: None,
            id: before.by.0,
            known_term: before.term,
            known_index: before.index,
            removed: before
                .removed
                .iter()
                .map(|node| Member {
                    id: node.id.0,
                    name: node.name.to_string(),
                })
                .collect(),
            kept: Vec::new(),
            revision: None,
        },
    };
    out.result(&recovered, text);
    Ok(())
}

fn found(findings: &Findings) -> Recovered {
    Recovered {
        changed: true,
        needs: None,
        cluster_id: Some(findings.cluster.clone()),
        id: findings.survivor.id.0,
        known_term: findings.term,
        known_index: findings.index,
        removed: findings.lost.iter().map(member).collect(),
        kept: findings.kept.iter().map(member).collect(),
        revision: None,
    }
}

fn text(done: &Recovered) -> String {
    let names = |members: &[Member]| {
        let names: Vec<&str> = members.iter().map(|m| m.name.as_str()).collect();
        names.join(", ")
    };
    let (removed, index) = (names(&done.removed), done.known_index);
    if done.changed {
        let kept = match names(&done.kept) {
            none if none.is_empty() => String::new(),
            kept => format!("; {kept} stay members and follow"),
        };
        format!(
            "the cluster goes on from log entry {index}, with this node as its only voter and without {removed}{kept}\n\
             next: start the daemon, then join other machines ('nodectl token create'); wipe {removed} before they come back"
        )
    } else {
        format!(
            "nothing to do: the cluster was brought back here before, from log entry {index}, without {removed}; start the daemon"
        )
    }
}

fn member(named: &Named) -> Member {
    Member {
        id: named.id.0,
        name: named.name.clone(),
    }
}

fn list(members: &[Named]) -> String {
    let names: Vec<&str> = members.iter().map(|m| m.name.as_str()).collect();
    names.join(", ")
}

fn unconfirmed(findings: &Findings) -> CliError {
    let mut details = vec![
        format!("cluster:  {}", findings.cluster),
        format!(
            "survivor: {}, which knows log entry {} of term {}",
            findings.survivor.name, findings.index, findings.term
        ),
        format!("lost:     {}, to be removed for good", list(&findings.lost)),
    ];
    if !findings.kept.is_empty() {
        details.push(format!("kept:     {}, to follow", list(&findings.kept)));
    }
    CliError::usage(
        "nothing was changed: changes that only the lost voters knew would be lost, although they were acknowledged",
        "if the lost are gone for good, run it again with --accept-loss",
    )
    .with_details(details)
}

fn refused(error: RecoverError) -> CliError {
    let message = chain(&error);
    let conflict = |hint: &str| CliError::new(Exit::Failed, ErrorCode::Conflict, &message, hint);
    match &error {
        RecoverError::NotPrepared(_) => CliError::usage(
            &message,
            "name the data folder of the surviving node with --data-dir",
        ),
        RecoverError::Owner { .. } => CliError::usage(
            &message,
            "run it as the user that the daemon runs as ('sudo -u', 'runuser -u')",
        ),
        RecoverError::Lock(nebula_node::LockError::Held { .. }) => conflict(
            "stop a daemon with SIGTERM ('systemctl stop nebula'), which leaves its instances running, then run this again",
        ),
        RecoverError::Alone
        | RecoverError::Registry(RegistryError::Led(_) | RegistryError::Majority(_)) => {
            conflict("see 'nodectl status' and 'nodectl members'")
        }
        RecoverError::Registry(RegistryError::Unclear { .. }) => conflict(
            "wait until the daemon there is up, and compare the clocks of both machines; if that machine is to be given up, stop what answers at its address",
        ),
        RecoverError::Registry(RegistryError::KnowsMore { .. }) => conflict(
            "start this node's daemon, then stop the one there and run it there; or stop both and wipe that machine, which loses what only it knows",
        ),
        RecoverError::Registry(RegistryError::Refused { .. }) => conflict(
            "if this machine was removed, join it again with an empty data folder; otherwise see the log of the daemon there",
        ),
        RecoverError::Survivor(_) | RecoverError::NoAuthority => {
            conflict("run it on a machine that was a voter")
        }
        RecoverError::Lock(_)
        | RecoverError::DataDir { .. }
        | RecoverError::Identity(_)
        | RecoverError::Pki(_)
        | RecoverError::Registry(_)
        | RecoverError::Mesh(_) => CliError::failed(
            &message,
            "correct the cause, or run it on another survivor; running it again does no harm",
        ),
    }
}

#[cfg(test)]
mod tests {
    use nebula_domain::NodeId;

    use super::*;

    fn findings() -> Findings {
        let named = |id: u64| Named {
            id: NodeId(id),
            name: format!("n{id}"),
        };
        Findings {
            cluster: "lab".to_owned(),
            survivor: named(3),
            term: 4,
            index: 70,
            lost: vec![named(1), named(2)],
            kept: Vec::new(),
        }
    }

    #[test]
    fn without_the_operator_s_word_it_says_what_is_at_stake_and_fails() {
        let error = unconfirmed(&findings());
        assert_eq!(error.exit as u8, 2);
        let text = error.details.join("\n");
        assert!(
            text.contains("n3, which knows log entry 70 of term 4"),
            "{text}"
        );
        assert!(text.contains("n1, n2, to be removed"), "{text}");
        assert!(!text.contains("kept"), "{text}");
    }

    #[test]
    fn scripts_and_people_hear_who_is_kept_and_what_is_needed() {
        let mut findings = findings();
        findings.kept.push(Named {
            id: NodeId(4),
            name: "n4".to_owned(),
        });
        let asked = Recovered {
            changed: false,
            needs: Some("accept_loss"),
            ..found(&findings)
        };
        let json = serde_json::to_value(&asked).unwrap();
        assert_eq!(json["needs"], "accept_loss");
        assert_eq!(json["removed"][1]["name"], "n2");
        assert_eq!(json["known_index"], 70);
        assert!(text(&found(&findings)).contains("; n4 stay members and follow"));
    }

    #[test]
    fn each_refusal_has_its_exit_code() {
        let code = |error| refused(error).exit as u8;
        assert_eq!(code(RecoverError::NotPrepared("/x".into())), 2);
        assert_eq!(code(RecoverError::Alone), 1);
        let led = RegistryError::Led("n1".to_owned());
        assert_eq!(code(RecoverError::Registry(led)), 1);
        let majority = RegistryError::Majority("n1".to_owned());
        assert_eq!(code(RecoverError::Registry(majority)), 1);
        assert_eq!(code(RecoverError::NoAuthority), 1);
    }
}
