//! `nodectl upgrade`: which member is next on the way to another version.

use clap::Args;
use nebula_wire::api::{Member, MemberStatus};
use serde::Serialize;

use super::members::Here;
use crate::connect::ConnectFlags;
use crate::error::Outcome;
use crate::output::{Output, table};

/// Of this program, to which the members are upgraded.
const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  nodectl upgrade

It changes nothing. On the member that is next, put the new programs in the place of the old ones and start the daemon again
('systemctl restart nebula'): its instances run on. Then ask again. Members without a vote go first and the leader last, one at
a time, and none while another is away.")]
pub struct Upgrade {
    #[command(flatten)]
    here: Here,
}

/// How far an upgrade is.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Guide {
    /// The version of this program.
    to: String,
    members: Vec<Step>,
    /// The member to upgrade now; absent when all are done, or none may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// Why no member may be upgraded now.
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Step {
    name: String,
    version: String,
    level: u32,
    role: String,
    leader: bool,
    done: bool,
}

pub async fn run(args: Upgrade, connect: &ConnectFlags, out: Output) -> Outcome {
    let members = connect.client_at(args.here.data_dir())?.members().await?;
    out.result(&guide(members.members, VERSION), show);
    Ok(())
}

fn guide(mut members: Vec<Member>, to: &str) -> Guide {
    members.sort_by_key(|m| (m.role == "voter", m.leader, m.id));
    let pending = |m: &&Member| m.version != to;
    let newer = members.iter().find(|m| is_newer(&m.version, to));
    let is_away = |m: &&Member| matches!(m.status, MemberStatus::Dead | MemberStatus::Restarting);
    let away = members.iter().find(is_away);
    let unknown = members.iter().find(|m| m.version.is_empty());
    let leaderless = !members.iter().any(|m| m.leader);
    let wait = if !members.iter().any(|m| pending(&m)) {
        None
    } else if let Some(newer) = newer {
        Some(format!(
            "{} runs {}, which is newer than this program: use that version's nodectl",
            newer.name, newer.version
        ))
    } else if let Some(away) = away {
        Some(format!(
            "{} is not reachable: bring it back or remove it first",
            away.name
        ))
    } else if leaderless {
        Some("the cluster has no leader now: ask again".to_owned())
    } else {
        unknown.map(|m| format!("{} has not said its version yet: ask again", m.name))
    };
    let next = members.iter().find(pending).filter(|_| wait.is_none());
    Guide {
        to: to.to_owned(),
        next: next.map(|m| m.name.clone()),
        wait,
        members: members
            .into_iter()
            .map(|m| Step {
                done: m.version == to,
                name: m.name,
                version: m.version,
                level: m.level,
                role: m.role,
                leader: m.leader,
            })
            .collect(),
    }
}

/// Compares the numbers of two versions; what is none compares as none.
fn is_newer(version: &str, than: &str) -> bool {
    let numbers = |text: &str| -> Vec<u64> {
        let text = text.split(['-', '+']).next().unwrap_or_default();
        text.split('.')
            .map_while(|part| part.parse().ok())
            .collect()
    };
    numbers(version) > numbers(than)
}

fn show(guide: &Guide) -> String {
    let rows = guide.members.iter().map(|step| {
        let what = match (step.done, guide.next.as_ref() == Some(&step.name)) {
            (true, _) => "done",
            (false, true) => "next",
            (false, false) => "later",
        };
        let role = match step.leader {
            true => format!("{}, leads", step.role),
            false => step.role.clone(),
        };
        let level = step.level.to_string();
        [
            step.name.clone(),
            step.version.clone(),
            level,
            role,
            what.to_owned(),
        ]
    });
    let table = table(["NAME", "VERSION", "LEVEL", "ROLE", "UPGRADE"], rows);
    let said = match (&guide.next, &guide.wait) {
        (Some(next), _) => format!(
            "next: on {next}, install {} and start the daemon again; its instances run on",
            guide.to
        ),
        (None, Some(wait)) => format!("wait: {wait}"),
        (None, None) => format!("every member runs {}", guide.to),
    };
    format!("{table}\n{said}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, role: &str, version: &str) -> Member {
        Member {
            id,
            name: format!("n{id}"),
            address: String::new(),
            api: String::new(),
            edge: String::new(),
            role: role.to_owned(),
            status: MemberStatus::Alive,
            leader: id == 1,
            version: version.to_owned(),
            level: 1,
            labels: Default::default(),
            room: Default::default(),
        }
    }

    fn cluster(versions: [&str; 4]) -> Vec<Member> {
        let roles = ["voter", "voter", "voter", "learner"];
        let members = roles.iter().zip(versions).zip(1..);
        members.map(|((role, v), id)| member(id, role, v)).collect()
    }

    fn next(members: Vec<Member>) -> Result<Option<String>, String> {
        let guide = guide(members, "0.2.0");
        guide.wait.map_or(Ok(guide.next), Err)
    }

    #[test]
    fn those_without_a_vote_go_first_and_the_leader_last() {
        let (old, new) = ("0.1.0", "0.2.0");
        let named = |name: &str| Ok(Some(name.to_owned()));
        assert_eq!(next(cluster([old, old, old, old])), named("n4"));
        assert_eq!(next(cluster([old, old, old, new])), named("n2"));
        assert_eq!(next(cluster([old, new, old, new])), named("n3"));
        assert_eq!(next(cluster([old, new, new, new])), named("n1"));
        assert_eq!(next(cluster([new, new, new, new])), Ok(None));
    }

    #[test]
    fn nobody_is_next_while_another_is_away_or_newer() {
        let mut members = cluster(["0.1.0", "0.1.0", "0.1.0", "0.2.0"]);
        members[2].status = MemberStatus::Dead;
        assert!(next(members).is_err_and(|why| why.contains("n3 is not reachable")));
        let members = cluster(["0.1.0", "0.10.0", "0.1.0", "0.2.0"]);
        assert!(next(members).is_err_and(|why| why.contains("n2 runs 0.10.0")));
        let mut members = cluster(["0.1.0"; 4]);
        members[0].leader = false;
        assert!(next(members).is_err_and(|why| why.contains("no leader")));
        let members = cluster(["0.1.0", "", "0.1.0", "0.1.0"]);
        assert!(next(members).is_err_and(|why| why.contains("n2 has not said")));
        // All done: who is away needs nothing any more.
        let mut members = cluster(["0.2.0"; 4]);
        members[1].status = MemberStatus::Dead;
        assert_eq!(next(members), Ok(None));
    }

    #[test]
    fn what_is_said_names_the_next_step() {
        let text = show(&guide(cluster(["0.1.0"; 4]), "0.2.0"));
        assert!(text.contains("next: on n4, install 0.2.0"), "{text}");
        assert!(text.contains("voter, leads"), "{text}");
    }
}
