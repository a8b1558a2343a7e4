//! A first `nebula.toml` from what lies in a folder. A guess that a person reads and corrects: each line says why.

mod find;
#[cfg(test)]
mod tests;

use std::path::Path;

use nebula_domain::DeploymentName;

/// Of a host name's label (RFC 1123 section 2.1).
const NAME_BYTES_MAX: usize = 63;
const NAME: &str = "app";

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Found {
    /// What it was recognised by, for people.
    by: String,
    /// What it calls itself.
    name: Option<String>,
    /// Where the files are, seen from the folder.
    path: String,
    /// The program; none is a static site.
    command: Option<String>,
    spa: bool,
    /// What a person should know of it, a line each.
    notes: Vec<String>,
}

/// A file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct First {
    pub text: String,
    /// `a service, from package.json`.
    pub what: String,
}

/// The file for this folder. `name` is what the deployment is to be called; otherwise it is found.
pub fn first(dir: &Path, name: Option<&DeploymentName>) -> First {
    let found = find::find(dir);
    let name = match name {
        Some(name) => name.to_string(),
        None => {
            let folder = dir.canonicalize().ok();
            let folder = folder.as_deref().and_then(Path::file_name);
            let folder = folder.map(|name| name.to_string_lossy().into_owned());
            let names = [found.name.clone(), folder];
            let mut names = names.into_iter().flatten().filter_map(|name| legal(&name));
            names.next().unwrap_or_else(|| NAME.to_owned())
        }
    };
    let kind = match found.command {
        Some(_) => "a service",
        None => "a static site",
    };
    First {
        text: text(&found, &name),
        what: format!("{kind}, from {}", found.by),
    }
}

/// What comes nearest to a text among deployments' names.
fn legal(text: &str) -> Option<String> {
    // npm's `@scope/name`, Go's `example.com/module`.
    let last = text.rsplit('/').next().unwrap_or(text);
    let plain = last.chars().map(|c| match c.to_ascii_lowercase() {
        c if c.is_ascii_lowercase() || c.is_ascii_digit() => c,
        _ => '-',
    });
    let plain: String = plain.take(NAME_BYTES_MAX).collect();
    let plain = plain.trim_matches('-');
    plain
        .parse::<DeploymentName>()
        .ok()
        .map(|name| name.to_string())
}

/// Text as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn text(found: &Found, name: &str) -> String {
    let mut lines = vec![
        format!(
            "# One deployment, made from {}. What each field means: docs/nebula-toml.md",
            found.by
        ),
        "#   nebula deploy plan     what would change".to_owned(),
        "#   nebula deploy apply    change it".to_owned(),
        String::new(),
        format!("name = {}", quoted(name)),
    ];
    lines.extend(found.notes.iter().map(|note| format!("# {note}")));
    lines.push(format!("path = {}", quoted(&found.path)));
    match &found.command {
        Some(command) => {
            lines.push("# It has to listen on 127.0.0.1:$PORT.".to_owned());
            lines.push(format!("command = {}", quoted(command)));
            lines.push("instances = 1".to_owned());
        }
        None if found.spa => {
            lines.push("# Paths that are no files are the application's own.".to_owned());
            lines.push("spa = true".to_owned());
        }
        None => {}
    }
    lines.push("# tld = \"example.test\"    # otherwise the cluster's default domain".to_owned());
    if found.command.is_some() {
        lines.push(SERVICE.to_owned());
    }
    lines.push(STAGING.to_owned());
    lines.join("\n")
}

const SERVICE: &str = "
# [env]
# LEVEL = \"info\"
# TOKEN = \"${TOKEN}\"       # from the environment of whoever deploys

# [probe]
# path = \"/health\"

# [resources]
# memory = \"512Mi\"
# cpu = \"500m\"";

const STAGING: &str = "
# Another deployment, staging-NAME, with 'nebula deploy apply --env staging'.
# [environments.staging]
# tld = \"staging.test\"
";
