//! `nebula secrets`: values that programs are given and nobody is told.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use nebula_domain::SecretName;
use nebula_domain::limits::SECRET_BYTES;
use nebula_domain::names::NameError;
use nebula_wire::api::{SecretInfo, SecretValue, Secrets as List};

use crate::connect::ConnectFlags;
use crate::error::{CliError, Outcome};
use crate::origin;
use crate::output::{Output, table};

#[derive(Debug, Subcommand)]
pub enum Secrets {
    /// Set a secret, or give it a new value
    #[command(after_help = "\
Examples:
  nebula secrets set DB_PASSWORD < password.txt
  nebula secrets set TLS_KEY --file key.pem
  openssl rand -hex 24 | nebula secrets set API_KEY

The value is read from standard input, without the line break at its end, unless --file or VALUE gives it. Everybody on
this machine can see a VALUE on the command line while the command runs, and the shell remembers it. Programs are given
a new value with the next release or 'nebula deploy restart'.")]
    Set(Set),
    /// List secrets, without their values
    #[command(
        visible_alias = "ls",
        after_help = "Example:\n  nebula secrets list --json"
    )]
    List,
    /// Delete a secret that no deployment is given
    #[command(
        visible_alias = "rm",
        after_help = "Example:\n  nebula secrets delete DB_PASSWORD"
    )]
    Delete { name: String },
}

#[derive(Args)]
pub struct Set {
    name: String,
    /// The value; standard input is the safer way
    #[arg(conflicts_with = "file")]
    value: Option<String>,
    /// File with the value, all of it
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Never the value.
impl std::fmt::Debug for Set {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Set")
            .field("name", &self.name)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

#[derive(serde::Serialize)]
struct Deleted<'a> {
    name: &'a str,
}

pub async fn run(command: Secrets, connect: &ConnectFlags, out: Output) -> Outcome {
    match command {
        Secrets::Set(args) => {
            let name = name(&args.name)?;
            let value = SecretValue {
                value: checked(read(args)?)?,
                author: origin::author(),
            };
            let set = connect.client()?.set_secret(name.as_str(), &value).await?;
            out.result(&set, |set| {
                let SecretInfo { name, version, .. } = set;
                match set.used_by.is_empty() {
                    true => format!("{name} is set, version {version}"),
                    false => format!(
                        "{name} is set, version {version}; given with the next release or 'nebula deploy restart' of {}",
                        set.used_by.join(", ")
                    ),
                }
            });
        }
        Secrets::List => {
            let all = connect.client()?.secrets().await?;
            out.result(&all, text);
        }
        Secrets::Delete { name: given } => {
            let name = name(&given)?;
            connect.client()?.delete_secret(name.as_str()).await?;
            let answer = Deleted {
                name: name.as_str(),
            };
            out.result(&answer, |a| format!("{} is deleted", a.name));
        }
    }
    Ok(())
}

fn name(text: &str) -> Outcome<SecretName> {
    text.parse().map_err(|error: NameError| {
        CliError::usage(error.to_string(), "choose a name such as DB_PASSWORD")
    })
}

/// The value as it was given; what is wrong with it is said without it.
fn read(args: Set) -> Outcome<String> {
    let most = SECRET_BYTES.max + 2;
    let mut bytes = Vec::new();
    if let Some(value) = args.value {
        return Ok(value);
    }
    if let Some(file) = args.file {
        let cannot = |error: std::io::Error| {
            let file = file.display();
            CliError::usage(
                format!("cannot read {file}: {error}"),
                "name a file with the value",
            )
        };
        let opened = std::fs::File::open(&file).map_err(cannot)?;
        opened.take(most).read_to_end(&mut bytes).map_err(cannot)?;
        return utf8(bytes);
    }
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(CliError::usage(
            "the value is read from standard input, and that is a terminal",
            "use 'nebula secrets set NAME < FILE', or a pipe",
        ));
    }
    let cannot = |error: std::io::Error| {
        CliError::usage(
            format!("cannot read standard input: {error}"),
            "use 'nebula secrets set NAME < FILE', or a pipe",
        )
    };
    stdin.take(most).read_to_end(&mut bytes).map_err(cannot)?;
    let mut value = utf8(bytes)?;
    if value.ends_with('\n') {
        value.pop();
        if value.ends_with('\r') {
            value.pop();
        }
    }
    Ok(value)
}

fn utf8(bytes: Vec<u8>) -> Outcome<String> {
    String::from_utf8(bytes).map_err(|_| {
        CliError::usage(
            "the value is not text in UTF-8",
            "an environment variable holds text: encode it, such as with base64",
        )
    })
}

fn checked(value: String) -> Outcome<String> {
    if value.is_empty() {
        return Err(CliError::usage("the value is empty", "give one"));
    }
    if value.contains('\0') {
        return Err(CliError::usage(
            "the value contains a NUL byte",
            "an environment variable cannot hold one: encode the value",
        ));
    }
    SECRET_BYTES
        .check("the secret's length in bytes", value.len())
        .map_err(|error| CliError::usage(error.to_string(), "keep large values in a volume"))?;
    Ok(value)
}

fn text(all: &List) -> String {
    if all.secrets.is_empty() {
        return "no secrets".to_owned();
    }
    let row = |secret: &SecretInfo| {
        [
            secret.name.clone(),
            secret.version.to_string(),
            secret.set_at.clone(),
            secret.author.clone(),
            secret.used_by.join(", "),
            secret.behind.join(", "),
        ]
    };
    table(
        ["NAME", "VERSION", "SET", "BY", "USED BY", "OLDER VALUE IN"],
        all.secrets.iter().map(row),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_text_of_a_sane_length_and_no_error_shows_it() {
        assert_eq!(checked("x".into()).unwrap(), "x");
        for bad in [String::new(), "hush\0".into(), "hush".repeat(10_000)] {
            let error = checked(bad).unwrap_err();
            assert_eq!(error.exit as u8, 2);
            assert!(!error.to_string().contains("hush"), "{error}");
        }
        let set = Set {
            name: "KEY".into(),
            value: Some("hush".into()),
            file: None,
        };
        assert!(!format!("{set:?}").contains("hush"));
        assert_eq!(read(set).unwrap(), "hush");
    }
}
