//! Tables and sentences for people.

mod instances;

use nebula_domain::resources::{show_cpu, show_memory};
use nebula_wire::api::{
    AsOf, DeploymentPhase, DeploymentSpec, DeploymentStatus, Deployments, JoinTokens, LogLine,
    MemberStatus, Members, NodeRoom, NodeStatus, ReleaseInfo, Releases, RolloutStatus, Run, Runs,
    Settings,
};

use crate::nodectl::label;
use crate::output::table;

pub fn phase(phase: DeploymentPhase) -> &'static str {
    match phase {
        DeploymentPhase::Progressing => "progressing",
        DeploymentPhase::Ready => "ready",
        DeploymentPhase::Degraded => "degraded",
        DeploymentPhase::Failed => "failed",
        DeploymentPhase::Removing => "removing",
    }
}

pub fn members(members: &Members) -> String {
    let rows = members.members.iter().map(|m| {
        let status = match m.status {
            MemberStatus::Alive => "alive",
            MemberStatus::Draining => "draining",
            MemberStatus::Joining => "joining",
            MemberStatus::Leaving => "leaving",
            MemberStatus::Restarting => "restarting",
            MemberStatus::Dead => "dead",
        };
        [
            m.id.to_string(),
            m.name.clone(),
            status.to_owned(),
            m.role.clone(),
            if m.leader { "yes" } else { "" }.to_owned(),
            m.address.clone(),
            m.api.clone(),
            m.edge.clone(),
            m.version.clone(),
            room(&m.room),
            label::shown(&m.labels),
        ]
    });
    let table = table(
        [
            "ID", "NAME", "STATUS", "ROLE", "LEADER", "QUIC", "API", "EDGE", "VERSION", "ROOM",
            "LABELS",
        ],
        rows,
    );
    let leader = match members.leader {
        Some(id) => format!("led by node {id} in term {}", members.term),
        None => "without a leader: changes are not possible until a majority of the voters is back"
            .to_owned(),
    };
    format!("cluster {}, {leader}\n{table}", members.cluster_id)
}

/// What instances ask for of what there is: `3/64, 512Mi/2Gi, 500m/2`.
fn room(room: &NodeRoom) -> String {
    format!(
        "{}/{}, {}/{}, {}/{}",
        room.instances,
        room.instances_most,
        show_memory(room.memory_asked_bytes),
        show_memory(room.memory_bytes),
        show_cpu(room.cpu_asked_millis),
        show_cpu(room.cpu_millis)
    )
}

pub fn node(status: &NodeStatus) -> String {
    let leader = match (status.leader, status.quorum) {
        (Some(id), true) => format!("node {id}, term {}", status.term),
        (Some(id), false) => format!("node {id} was the last known; no quorum"),
        (None, _) => "none known; no quorum".to_owned(),
    };
    let known = match &status.no_quorum_since {
        None => format!("log entry {}", status.applied_index),
        Some(since) => format!(
            "log entry {}, without a quorum since {since}: may be out of date",
            status.applied_index
        ),
    };
    let disk = match status.disk.as_deref() {
        None => "has room".to_owned(),
        Some("low") => "nearly full: this node does not lead until there is room".to_owned(),
        Some(_) => "full: this node takes no part in changes until there is room".to_owned(),
    };
    let mut rows = vec![
        ("cluster", status.cluster_id.clone()),
        ("node", format!("{} (id {})", status.name, status.id)),
        ("role", status.role.clone()),
        ("disk", disk),
        ("leader", leader),
        ("revision", format!("{} ({known})", status.revision)),
        ("deployments", status.deployments.to_string()),
        ("instances here", status.instances.to_string()),
        (
            "room",
            format!(
                "{} (instances, memory, cores asked for)",
                room(&status.room)
            ),
        ),
        ("labels", label::shown(&status.labels)),
        ("memory", format!("{} MB", status.rss_bytes / 1_000_000)),
        ("version", status.version.clone()),
        ("pid", status.pid.to_string()),
        ("up for", format!("{} s", status.uptime_seconds)),
        ("certificate until", status.certificate_expires_at.clone()),
        ("api", format!("https://{}", status.api)),
        ("edge", status.edge.clone()),
        ("quic", status.quic.clone()),
        ("data", status.data_dir.clone()),
    ];
    if let Some(recovery) = &status.recovered {
        let text = format!(
            "{} on node {}, from log entry {}, without {}",
            recovery.at,
            recovery.by,
            recovery.index,
            recovery.removed.join(", ")
        );
        rows.push(("brought back", text));
    }
    let width = rows
        .iter()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or_default();
    let lines: Vec<_> = rows
        .iter()
        .map(|(name, value)| format!("{name:width$}  {value}"))
        .collect();
    lines.join("\n")
}

/// Said first where an answer may be out of date.
fn warning(as_of: Option<&AsOf>) -> String {
    let Some((as_of, since)) = as_of.and_then(|a| Some((a, a.no_quorum_since.as_ref()?))) else {
        return String::new();
    };
    format!(
        "without a quorum since {since}: this is what the asked node knows of revision {} (log entry {})\n",
        as_of.revision, as_of.applied_index
    )
}

pub fn deployments(all: &Deployments) -> String {
    let warning = warning(all.as_of.as_ref());
    if all.deployments.is_empty() {
        return warning
            + "nothing is deployed; begin with 'nebula deploy create NAME --path DIR --tld DOMAIN'";
    }
    let rows = all.deployments.iter().map(|d| {
        [
            d.name.clone(),
            d.kind.clone(),
            phase(d.phase).to_owned(),
            format!("{}/{}", d.ready, d.desired),
            d.release.to_string(),
            d.urls.join(" "),
        ]
    });
    warning + &table(["NAME", "TYPE", "PHASE", "READY", "RELEASE", "URL"], rows)
}

/// What a deployment runs. Values of variables may be secrets, and a screen is seen by others: `--json` has them.
fn spec_lines(spec: &DeploymentSpec) -> String {
    let mut text = String::new();
    if let Some(command) = &spec.command {
        text.push_str(&format!("  command: {command}\n"));
    }
    if let Some(image) = &spec.image {
        text.push_str(&format!("  image: {} ({})\n", image.name, image.digest));
    }
    if let Some(port) = spec.port {
        text.push_str(&format!("  port: {port} on every node\n"));
    }
    if !spec.env.is_empty() {
        let names: Vec<_> = spec.env.keys().map(String::as_str).collect();
        text.push_str(&format!("  environment: {}\n", names.join(", ")));
    }
    let probes = [
        ("startup probe", &spec.startup),
        ("probe", &spec.probe),
        ("liveness probe", &spec.liveness),
    ];
    for (what, probe) in probes {
        if let Some(path) = probe.as_ref().and_then(|p| p.path.as_ref()) {
            text.push_str(&format!("  {what}: GET {path}\n"));
        }
    }
    let wishes = &spec.placement;
    for (what, rules) in [
        ("only on nodes", &wishes.require),
        ("better on nodes", &wishes.prefer),
        ("last on nodes", &wishes.avoid),
        ("apart from", &wishes.apart_from),
        ("near", &wishes.near),
    ] {
        if !rules.is_empty() {
            text.push_str(&format!("  {what}: {}\n", rules.join(", ")));
        }
    }
    if let Some(label) = &wishes.spread {
        text.push_str(&format!("  spread over: {label}\n"));
    }
    if spec.spa {
        text.push_str("  unknown pages: index.html\n");
    }
    if let Ok(serde_json::Value::Object(http)) = serde_json::to_value(&spec.http)
        && !http.is_empty()
    {
        let set: Vec<_> = http.keys().map(String::as_str).collect();
        text.push_str(&format!("  http: {} (see --json)\n", set.join(", ")));
    }
    if spec.http.maintenance.on {
        text.push_str("  maintenance: everybody gets the maintenance page\n");
    }
    text
}

pub fn deployment(d: &DeploymentStatus) -> String {
    let mut text = warning(d.as_of.as_ref());
    text += &format!(
        "{} ({}) is {}: release {}, {} of {} ready\n",
        d.name,
        d.kind,
        phase(d.phase),
        d.release,
        d.ready,
        d.desired
    );
    if let Some(under_way) = &d.rollout {
        let words = rollout(under_way);
        text.push_str(&format!("  release {}: {words}\n", under_way.to));
    }
    let newest_failed = d.releases.first().filter(|r| r.why.is_some());
    if let Some((release, why)) = newest_failed.and_then(|r| Some((r.number, r.why.as_ref()?))) {
        text.push_str(&format!("  release {release} failed: {why}\n"));
    }
    for url in &d.urls {
        text.push_str(&format!("  {url}\n"));
    }
    if let Some(spec) = &d.spec {
        text.push_str(&spec_lines(spec));
    }
    if let Some(run) = &d.last_run {
        let why = run.why.as_ref();
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        let (id, cause, state) = (&run.id, &run.cause, &run.state);
        text.push_str(&format!("  last run: {id} ({cause}) {state}{why}\n"));
    }
    if let Some(at) = &d.next_run_at {
        text.push_str(&format!("  next run: {at}\n"));
    }
    for problem in &d.problems {
        text.push_str(&format!("  problem: {problem}\n"));
    }
    text + &instances::instances(d)
}

/// A release on its way, in a few words.
pub fn rollout(rollout: &RolloutStatus) -> String {
    let stage = match rollout.stage.as_str() {
        "canary" => format!("canary at {}%", rollout.percent.unwrap_or_default()),
        "beside" => "beside the one before".to_owned(),
        "warm" => "has all requests, the one before is kept warm".to_owned(),
        "watching" => "out, and watched".to_owned(),
        "pre-release" => "its first hook runs".to_owned(),
        "job" => "runs".to_owned(),
        _ => "taking over".to_owned(),
    };
    let paused = if rollout.paused { ", paused" } else { "" };
    format!("{} ({}{paused})", stage, rollout.strategy)
}

pub fn releases(all: &Releases) -> String {
    let rows = all.releases.iter().map(release_row);
    table(RELEASE_COLUMNS, rows)
}

const RELEASE_COLUMNS: [&str; 7] = ["RELEASE", "FATE", "MADE", "BY", "FILES", "MESSAGE", "WHY"];

/// The beginning of the artifact's digest; of an image its name and its own.
fn files(release: &ReleaseInfo) -> String {
    let start = |digest: &str| digest.chars().take(12).collect::<String>();
    let image = release.spec.as_ref().and_then(|spec| spec.image.as_ref());
    image.map_or_else(
        || start(&release.artifact),
        |image| {
            let digest = image.digest.trim_start_matches("sha256:");
            format!("{} {}", image.name, start(digest))
        },
    )
}

fn release_row(release: &ReleaseInfo) -> [String; 7] {
    let mark = if release.wanted { "*" } else { "" };
    [
        format!("{}{mark}", release.number),
        release.fate.clone(),
        release.created_at.clone(),
        release.author.clone(),
        files(release),
        release
            .message
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned(),
        release.why.clone().unwrap_or_default(),
    ]
}

pub fn runs(all: &Runs) -> String {
    let next = all.next_run_at.as_ref();
    let next = next.map_or_else(String::new, |at| format!("the next run is due at {at}\n"));
    if all.runs.is_empty() {
        return format!("{next}{} has had no runs yet", all.name);
    }
    let rows = all.runs.iter().map(run_row);
    next + &table(
        [
            "RUN", "RELEASE", "CAUSE", "STATE", "DUE", "BEGUN", "ENDED", "TRIES", "INSTANCE",
            "NODE", "WHY",
        ],
        rows,
    )
}

fn run_row(run: &Run) -> [String; 11] {
    let latest = run.attempts.last();
    [
        run.id.clone(),
        run.release.to_string(),
        run.cause.clone(),
        run.state.clone(),
        run.due_at.clone().unwrap_or_default(),
        run.started_at.clone().unwrap_or_default(),
        run.ended_at.clone().unwrap_or_default(),
        run.attempts.len().to_string(),
        latest.map_or_else(String::new, |attempt| attempt.instance.clone()),
        latest.map_or_else(String::new, |attempt| attempt.node.clone()),
        run.why.clone().unwrap_or_default(),
    ]
}

/// The kept releases of all deployments.
pub fn histories(all: &[Releases]) -> String {
    if all.is_empty() {
        return "nothing is deployed".to_owned();
    }
    let rows = all.iter().flat_map(|deployment| {
        deployment.releases.iter().map(|release| {
            let [number, fate, made, by, files, message, why] = release_row(release);
            let name = deployment.name.clone();
            [name, number, fate, made, by, files, message, why]
        })
    });
    let [a, b, c, d, e, f, g] = RELEASE_COLUMNS;
    table(["NAME", a, b, c, d, e, f, g], rows)
}

pub fn tokens(tokens: &JoinTokens) -> String {
    if tokens.tokens.is_empty() {
        return "there are no join tokens; make one with 'nodectl token create'".to_owned();
    }
    let rows = tokens.tokens.iter().map(|t| {
        let state = match (t.expired, t.reusable, t.used) {
            (true, _, _) => "expired",
            (false, false, 1..) => "used",
            _ => "valid",
        };
        [
            t.id.clone(),
            t.role.clone(),
            state.to_owned(),
            t.used.to_string(),
            if t.reusable { "yes" } else { "" }.to_owned(),
            t.expires_at.clone(),
        ]
    });
    table(["ID", "ROLE", "STATE", "USED", "REUSABLE", "EXPIRES"], rows)
}

pub fn settings(settings: &Settings) -> String {
    if settings.settings.is_empty() {
        return "no settings are set".to_owned();
    }
    let rows = settings
        .settings
        .iter()
        .map(|(k, v)| [k.clone(), v.clone()]);
    table(["KEY", "VALUE"], rows)
}

pub fn log_line(line: &LogLine, timestamps: bool) -> String {
    let time = if timestamps {
        format!("{} ", line.time)
    } else {
        String::new()
    };
    let mark = if line.stream == "nebula" { "*" } else { "|" };
    // What programs write may be anything; a terminal obeys some of it.
    let text = nebula_domain::loglevel::plain(&line.line);
    format!("{time}{}@{} {mark} {text}", line.instance, line.node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_out_of_date_is_said_to_be() {
        let mut all = Deployments {
            deployments: vec![],
            as_of: Some(AsOf {
                consistency: "stale".into(),
                revision: 7,
                applied_index: 9,
                no_quorum_since: None,
            }),
        };
        assert!(deployments(&all).starts_with("nothing is deployed"));
        let as_of = all.as_of.as_mut().unwrap();
        as_of.no_quorum_since = Some("2026-01-31T12:00:00Z".into());
        let text = deployments(&all);
        let first = text.lines().next().unwrap();
        for part in ["2026-01-31T12:00:00Z", "revision 7", "log entry 9"] {
            assert!(first.contains(part), "{text}");
        }
    }

    #[test]
    fn a_log_line_tells_the_platform_s_voice_from_the_program_s() {
        let line = LogLine {
            time: "2026-01-01T00:00:00.000Z".into(),
            instance: "i-1".into(),
            node: "n1".into(),
            release: 1,
            stream: "nebula".into(),
            level: None,
            line: "started\u{7}".into(),
        };
        assert_eq!(log_line(&line, false), "i-1@n1 * started\\x07");
        assert!(log_line(&line, true).starts_with("2026-01-01T00:00:00.000Z i-1"));
    }
}
