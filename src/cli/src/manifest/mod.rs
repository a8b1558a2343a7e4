//! `nebula.toml`: one file that is the deployment. Flags say the same, one at a time.
//!
//! `file` is its shape, `overlay` its environments, `parse` reads and checks a text, `interpolate` fills in the caller's
//! variables, `difference` compares it with what is deployed, `first` writes one, `schema` describes it to editors.

mod difference;
mod file;
mod first;
mod interpolate;
mod overlay;
mod parse;
mod schema;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use nebula_domain::DeploymentName;
use nebula_wire::api::DeploymentSpec;

pub use difference::{Action, Plan, difference, may_be_secret};
pub use first::first;
pub use schema::schema;

use crate::env_file;
use crate::error::{CliError, Outcome};
use crate::toml_text;
use parse::{Parsed, Wrong};

/// What the file is called unless somebody says otherwise.
pub const FILE: &str = "nebula.toml";

const HINT: &str = "see docs/nebula-toml.md for what the file may say, or 'nebula deploy schema'";

const MISSING_HINT: &str = "name the file with -f, or write one with 'nebula deploy init'";

/// A file that was read, in one of its environments, with everything filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub name: DeploymentName,
    pub environment: Option<String>,
    pub spec: DeploymentSpec,
    /// None leaves the number as it is; one for a new deployment.
    pub instances: Option<u32>,
    /// The archive with the image to deploy;
    pub image: Option<PathBuf>,
    /// otherwise the folder with the files to deploy.
    pub folder: PathBuf,
    /// Files that are no part of what is deployed, wherever they lie: this one, and the one with secrets.
    pub left_out: Vec<PathBuf>,
}

/// Reads and checks the file. `variable` is the caller's environment, for `${VAR}`.
pub fn read(
    path: &Path,
    environment: Option<&str>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Outcome<Manifest> {
    let text = match path.is_file() {
        true => toml_text::read(path, HINT)?,
        false => toml_text::read(path, MISSING_HINT)?,
    };
    let told = |wrong: Wrong| {
        let at = toml_text::position(&text, wrong.span);
        let (path, reason) = (path.display(), wrong.reason);
        let (line, column) = (at.line, at.column);
        CliError::usage(
            format!("{path}, line {line}, column {column}: {reason}"),
            HINT,
        )
    };
    let parsed = parse::parse(&text, environment).map_err(told)?;
    let base = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    with_surroundings(parsed, path, base, variable, told)
}

/// Adds what stands outside the file: the environment file and the caller's variables.
fn with_surroundings(
    parsed: Parsed<'_>,
    path: &Path,
    base: &Path,
    variable: &dyn Fn(&str) -> Option<String>,
    told: impl Fn(Wrong) -> CliError,
) -> Outcome<Manifest> {
    let Parsed {
        name,
        environment,
        mut spec,
        instances,
        path: folder,
        image,
        env_file,
        env,
        table,
    } = parsed;
    let mut left_out = vec![path.to_owned()];
    if let Some(file) = env_file {
        let file = base.join(file);
        spec.env = env_file::read(&file)?;
        left_out.push(file);
    }
    for (key, value) in env {
        let value = interpolate::interpolate(&value, variable)
            .map_err(|reason| told(Wrong::at(&table, &format!("env.{key}"), reason)))?;
        spec.env.insert(key, value);
    }
    parse::check(&spec, &table).map_err(&told)?;
    Ok(Manifest {
        name,
        environment,
        spec,
        instances,
        image: image.map(|file| base.join(file)),
        folder: base.join(folder.as_deref().unwrap_or(".")),
        left_out,
    })
}
