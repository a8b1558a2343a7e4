//! `nebula config`: the cluster's settings.

use clap::Subcommand;
use nebula_domain::settings::{self, SettingError};

use crate::connect::ConnectFlags;
use crate::error::{CliError, Outcome};
use crate::output::Output;
use crate::render;

#[derive(Debug, Subcommand)]
pub enum Config {
    /// Set a setting
    #[command(
        after_help = "Examples:\n  nebula config set scheduler.default_tld mycompany.com\n  nebula config set user.note 'ask Kim first'"
    )]
    Set { key: String, value: String },
    /// Print a setting's value
    #[command(after_help = "Example:\n  nebula config get scheduler.default_tld")]
    Get { key: String },
    /// Remove a setting
    #[command(after_help = "Example:\n  nebula config unset user.note")]
    Unset { key: String },
    /// List all settings
    #[command(
        visible_alias = "ls",
        after_help = "Example:\n  nebula config list --json"
    )]
    List,
}

#[derive(serde::Serialize)]
struct Unset<'a> {
    key: &'a str,
}

pub async fn run(command: Config, connect: &ConnectFlags, out: Output) -> Outcome {
    match command {
        Config::Set { key, value } => {
            settings::check(&key, &value).map_err(bad)?;
            let setting = connect.client()?.set_setting(&key, &value).await?;
            out.result(&setting, |s| format!("{} is set", s.key));
        }
        Config::Get { key } => {
            settings::check_key(&key).map_err(bad)?;
            let setting = connect.client()?.setting(&key).await?;
            out.result(&setting, |s| s.value.clone());
        }
        Config::Unset { key } => {
            settings::check_key(&key).map_err(bad)?;
            connect.client()?.unset_setting(&key).await?;
            out.result(&Unset { key: &key }, |u| {
                format!("{} is no longer set", u.key)
            });
        }
        Config::List => {
            let all = connect.client()?.settings().await?;
            out.result(&all, render::settings);
        }
    }
    Ok(())
}

fn bad(error: SettingError) -> CliError {
    CliError::usage(
        error.to_string(),
        "see 'nebula config list' and the documentation of settings",
    )
}
