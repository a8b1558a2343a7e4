//! What applying a file would change, field by field. Values of environment variables are never part of it.

#[cfg(test)]
mod tests;

use nebula_domain::text::show_duration;
use nebula_wire::api::{DeploymentSpec, DeploymentStatus};
use nebula_wire::convert::{self, Passwords};
use serde::Serialize;
use serde_json::Value;

use super::Manifest;
use crate::error::{CliError, Outcome};
use crate::spec::Kind;

/// Longest value that is shown to people; the JSON holds all of it.
const SHOWN_CHARS: usize = 100;
/// So much of a digest tells two apart.
const DIGEST_CHARS: usize = 12;
const USERS: &str = "http.basic_auth.users";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Create,
    /// A new release, and another number of instances where that differs too.
    Update,
    Scale,
    None,
}

/// What applying a file comes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    pub name: String,
    pub environment: Option<String>,
    pub action: Action,
    pub changes: Vec<Change>,
    /// Why not all instances would have places as things stand, if that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unplaced: Option<String>,
    /// The number of instances to ask for after everything else.
    #[serde(skip)]
    pub scale: Option<u32>,
}

/// One field; absent on one side where it has no value there, and on both where values are not told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    pub field: String,
    pub change: How,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    Added,
    Changed,
    Removed,
}

/// Compares a file and the files' digest with what is deployed, if anything is.
pub fn difference(
    manifest: &Manifest,
    artifact: &str,
    current: Option<&DeploymentStatus>,
) -> Outcome<Plan> {
    let mut plan = Plan {
        name: manifest.name.to_string(),
        environment: manifest.environment.clone(),
        action: Action::None,
        changes: Vec::new(),
        unplaced: None,
        scale: None,
    };
    let counted = |kind: &str| Kind::named(kind).is_some_and(Kind::has_instances);
    let is_counted = counted(&manifest.spec.kind);
    let Some(current) = current else {
        plan.action = Action::Create;
        plan.changes = specs(&DeploymentSpec::default(), &told(&manifest.spec, None)?);
        let instances = is_counted.then_some(manifest.instances.unwrap_or(1));
        plan.changes
            .extend(change("instances", None, instances.map(Value::from)));
        plan.changes
            .extend(change("files", None, Some(digest(artifact))));
        return Ok(plan);
    };
    let known = current.spec.as_ref().ok_or_else(|| {
        CliError::failed(
            "the node does not tell what the deployment is now",
            "use the same version on all machines",
        )
    })?;
    let domain = known.tld.as_deref();
    plan.changes = specs(&told(known, domain)?, &told(&manifest.spec, domain)?);
    if manifest
        .spec
        .http
        .basic_auth
        .users
        .iter()
        .any(|line| line.contains(':'))
    {
        // The stored ones are not told: these may be others.
        plan.changes.retain(|change| change.field != USERS);
        plan.changes.push(hidden(USERS, How::Changed));
    }
    let (old, new) = (digest(&current.artifact), digest(artifact));
    if current.artifact != artifact {
        plan.changes.extend(change("files", Some(old), Some(new)));
    }
    let releases = !plan.changes.is_empty();
    // What a site counts is nodes.
    let was_counted = counted(&known.kind);
    let scale = manifest
        .instances
        .filter(|n| !was_counted || *n != current.desired);
    if let Some(n) = scale {
        let old = was_counted.then(|| Value::from(current.desired));
        plan.changes
            .extend(change("instances", old, Some(Value::from(n))));
    }
    plan.scale = scale;
    plan.action = match (releases, scale) {
        (true, _) => Action::Update,
        (false, Some(_)) => Action::Scale,
        (false, None) => Action::None,
    };
    Ok(plan)
}

/// The spec as the cluster would tell it: whole, and without what has its default.
fn told(spec: &DeploymentSpec, domain: Option<&str>) -> Outcome<DeploymentSpec> {
    const NO_DOMAIN: &str = "default.invalid";
    let read = convert::spec(spec, domain.or(Some(NO_DOMAIN)), Passwords::Unseen)?;
    let told = convert::told_spec(&read);
    let tld = told.tld.filter(|tld| tld != NO_DOMAIN);
    Ok(DeploymentSpec { tld, ..told })
}

fn digest(digest: &str) -> Value {
    Value::from(digest.get(..DIGEST_CHARS).unwrap_or(digest))
}

fn change(field: &str, old: Option<Value>, new: Option<Value>) -> Option<Change> {
    let kind = match (&old, &new) {
        (None, None) => return None,
        (None, Some(_)) => How::Added,
        (Some(_), None) => How::Removed,
        (Some(old), Some(new)) if old == new => return None,
        (Some(_), Some(_)) => How::Changed,
    };
    Some(Change {
        field: field.to_owned(),
        change: kind,
        old,
        new,
    })
}

fn hidden(field: &str, change: How) -> Change {
    Change {
        field: field.to_owned(),
        change,
        old: None,
        new: None,
    }
}

/// The fields of two specs that differ, as the file calls them.
fn specs(old: &DeploymentSpec, new: &DeploymentSpec) -> Vec<Change> {
    let mut changes = Vec::new();
    let (old_fields, new_fields) = (fields(old), fields(new));
    let mut names: Vec<&String> = old_fields
        .iter()
        .chain(&new_fields)
        .map(|(name, _)| name)
        .collect();
    names.sort();
    names.dedup();
    for name in names {
        let of = |fields: &[(String, Value)]| {
            let found = fields.iter().find(|(other, _)| other == name);
            found.map(|(_, value)| value.clone())
        };
        let change = change(name, of(&old_fields), of(&new_fields));
        changes.extend(change.map(|change| match may_be_secret(name) {
            true => hidden(name, change.change),
            false => change,
        }));
    }
    for key in old
        .env
        .keys()
        .chain(new.env.keys().filter(|key| !old.env.contains_key(*key)))
    {
        let kind = match (old.env.get(key), new.env.get(key)) {
            (Some(old), Some(new)) if old == new => continue,
            (Some(_), Some(_)) => How::Changed,
            (Some(_), None) => How::Removed,
            _ => How::Added,
        };
        changes.push(hidden(&format!("env.{key}"), kind));
    }
    changes
}

/// Header fields and commands of probes, as environment variables.
pub fn may_be_secret(field: &str) -> bool {
    let of_probe = ["probe", "startup", "liveness"];
    let of_probe = of_probe.iter().find_map(|probe| field.strip_prefix(probe));
    of_probe.is_some_and(|rest| {
        // The probe as a whole holds them, too.
        rest.is_empty() || rest == ".command" || rest.starts_with(".headers")
    })
}

/// All that a spec says but its environment, flat.
fn fields(spec: &DeploymentSpec) -> Vec<(String, Value)> {
    let spec = DeploymentSpec {
        env: Default::default(),
        ..spec.clone()
    };
    let mut found = Vec::new();
    // A spec is a tree of plain values: it always has JSON.
    if let Ok(value) = serde_json::to_value(&spec) {
        flatten("", &value, &mut found);
    }
    found
}

fn flatten(path: &str, value: &Value, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = match path {
                    "" => key.clone(),
                    path => format!("{path}.{key}"),
                };
                flatten(&path, value, found);
            }
        }
        // What says nothing is as if it were not there.
        Value::Null | Value::Bool(false) if path == "spa" => {}
        Value::String(text) if text.is_empty() => {}
        value => found.push(as_written(path, value)),
    }
}

/// Times are numbers in the API and text in the file.
fn as_written(path: &str, value: &Value) -> (String, Value) {
    match (path.strip_suffix("_ms"), value.as_u64()) {
        (Some(path), Some(ms)) => {
            let time = show_duration(std::time::Duration::from_millis(ms)).to_string();
            (path.to_owned(), Value::from(time))
        }
        _ => (path.to_owned(), value.clone()),
    }
}

impl Plan {
    pub fn changes_nothing(&self) -> bool {
        self.action == Action::None
    }

    /// For people: a line for each field.
    pub fn text(&self) -> String {
        let name = &self.name;
        let first = match self.action {
            Action::None => format!("{name} is as the file says: nothing would change"),
            Action::Create => format!("{name} would be created:"),
            Action::Update => format!("{name} would get a new release:"),
            Action::Scale => format!("{name} would be scaled:"),
        };
        let lines = self.changes.iter().map(Change::text);
        let unplaced = self.unplaced.as_ref().map(|why| format!("  ! {why}"));
        let lines: Vec<String> = std::iter::once(first)
            .chain(lines)
            .chain(unplaced)
            .collect();
        lines.join("\n")
    }
}

impl Change {
    fn text(&self) -> String {
        let field = &self.field;
        match (self.change, &self.old, &self.new) {
            (_, Some(old), Some(new)) => format!("  ~ {field}: {} -> {}", shown(old), shown(new)),
            (_, None, Some(new)) => format!("  + {field}: {}", shown(new)),
            (_, Some(old), None) => format!("  - {field}: {}", shown(old)),
            (How::Added, None, None) => format!("  + {field}"),
            (How::Changed, None, None) => format!("  ~ {field} (values are not shown)"),
            (How::Removed, None, None) => format!("  - {field}"),
        }
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
