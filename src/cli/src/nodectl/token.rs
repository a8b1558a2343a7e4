//! `nodectl token`: what machines join with.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use nebula_wire::api::{CreateJoinToken, CreatedJoinToken};

use crate::connect::ConnectFlags;
use crate::error::{CliError, Outcome};
use crate::output::Output;
use crate::{duration, render};

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Role {
    /// May become one of the nodes that keep the registry
    Voter,
    /// Runs instances and serves traffic only
    Worker,
}

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token and print the command that uses it
    #[command(after_help = "\
Examples:
  nodectl token create
  nodectl token create --role worker --ttl 24h --reusable

The token is shown once. Whoever holds it can join a machine until it expires.")]
    Create {
        #[arg(long, value_enum, default_value = "voter")]
        role: Role,
        /// How long it may be used
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration::parse)]
        ttl: Duration,
        /// For more than one machine
        #[arg(long)]
        reusable: bool,
        /// Ask the node with this data folder
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
    /// List the tokens that have been made, without their secrets
    #[command(visible_alias = "ls", after_help = "Example:\n  nodectl token list")]
    List {
        /// Ask the node with this data folder
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Make a token worthless
    #[command(after_help = "Example:\n  nodectl token revoke 3f1c08a2b9d4")]
    Revoke {
        /// As 'nodectl token list' shows it
        id: String,
        /// Ask the node with this data folder
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
}

#[derive(serde::Serialize)]
struct Revoked<'a> {
    id: &'a str,
}

pub async fn run(command: Token, connect: &ConnectFlags, out: Output) -> Outcome {
    match command {
        Token::Create {
            role,
            ttl,
            reusable,
            data_dir,
        } => {
            if ttl < Duration::from_secs(1) {
                return Err(CliError::usage(
                    "a token cannot live for less than a second",
                    "use --ttl 1h",
                ));
            }
            let request = CreateJoinToken {
                role: match role {
                    Role::Voter => "voter".to_owned(),
                    Role::Worker => "worker".to_owned(),
                },
                ttl_seconds: ttl.as_secs(),
                reusable,
            };
            let created = connect
                .client_at(data_dir.as_deref())?
                .create_join_token(&request)
                .await?;
            out.result(&created, instructions);
        }
        Token::List { data_dir } => {
            let tokens = connect
                .client_at(data_dir.as_deref())?
                .join_tokens()
                .await?;
            out.result(&tokens, render::tokens);
        }
        Token::Revoke { id, data_dir } => {
            connect
                .client_at(data_dir.as_deref())?
                .revoke_join_token(&id)
                .await?;
            out.result(&Revoked { id: &id }, |r| {
                format!("the token {} is worthless now", r.id)
            });
        }
    }
    Ok(())
}

fn instructions(created: &CreatedJoinToken) -> String {
    let times = if created.reusable {
        "any number of machines"
    } else {
        "one machine"
    };
    format!(
        "Run this on the machine that should join as a {} ({times}, until {}):\n\n  nodectl join {} --token {}\n",
        created.role, created.expires_at, created.address, created.token
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_join_command_can_be_pasted() {
        let text = instructions(&CreatedJoinToken {
            id: "a".into(),
            token: "nbj1.x".into(),
            role: "voter".into(),
            expires_at: "2026-01-01T00:00:00Z".into(),
            reusable: false,
            address: "192.0.2.1:7601".into(),
        });
        assert!(
            text.contains("\n  nodectl join 192.0.2.1:7601 --token nbj1.x\n"),
            "{text}"
        );
    }
}
