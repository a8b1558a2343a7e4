//! `nodectl init` and `nodectl join`: prepare the data folder, then start the daemon.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use clap::Args;
use nebula_client::ClientError;
use nebula_node::{Config, SetupError};
use nebula_telemetry::{Clock, Random};
use nebula_wire::token::JoinTokenText;
use serde::Serialize;

use super::daemon::{self, Started};
use super::flags::{NodeFlags, bad_config};
use crate::app::block_on;
use crate::error::{CliError, Outcome};
use crate::output::Output;
use crate::pack::chain;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodectl init
  nodectl init --name node-1 --advertise 192.0.2.1 --cluster-name lab

The folder then holds cluster.json, which points the CLIs of other machines at the cluster. It holds a token: keep it
for yourself. The daemon is started by systemd where there is one and you are root, in the background otherwise.")]
pub struct Init {
    /// Begins the cluster's id
    #[arg(long, value_name = "NAME")]
    cluster_name: Option<String>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    node: NodeFlags,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  nodectl join 192.0.2.1:7601 --token nbj1.… --name node-2

'nodectl token create' on a member prints the whole line.")]
pub struct Join {
    /// API address of a member, HOST:PORT
    address: String,
    /// What 'nodectl token create' printed
    #[arg(
        long,
        value_name = "TOKEN",
        env = "NEBULA_JOIN_TOKEN",
        hide_env_values = true
    )]
    token: String,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    node: NodeFlags,
}

/// What happens after the folder is prepared.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct How {
    /// Run the daemon here instead of in the background
    #[arg(long)]
    foreground: bool,
    /// Only prepare the data folder
    #[arg(long, conflicts_with = "foreground")]
    no_start: bool,
}

/// What was prepared, for scripts.
#[derive(Debug, Serialize)]
pub struct Prepared {
    cluster_id: String,
    id: u64,
    name: String,
    data_dir: PathBuf,
    /// Only on the first node: points other machines' CLIs at the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_file: Option<PathBuf>,
    api: String,
    edge: String,
    quic: String,
    started: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_by: Option<daemon::By>,
}

impl Prepared {
    fn new(
        config: &Config,
        cluster_id: String,
        id: u64,
        cluster_file: Option<PathBuf>,
    ) -> Outcome<Prepared> {
        let advertised = |what, listen| config.advertised(what, listen).map_err(bad_config);
        Ok(Prepared {
            cluster_id,
            id,
            name: config.name.to_string(),
            data_dir: config.data_dir.clone(),
            cluster_file,
            api: format!("https://{}", advertised("the API address", config.api)?),
            edge: format!("http://{}", advertised("the edge address", config.edge)?),
            quic: advertised("the mesh address", config.quic)?.to_string(),
            started: false,
            pid: None,
            started_by: None,
        })
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{} is node {} of the cluster {}",
            self.name, self.id, self.cluster_id
        );
        match self.pid {
            Some(pid) => text.push_str(&format!(" and runs (pid {pid})\n")),
            None => text.push_str(&format!(
                "; start it with 'nodectl run --data-dir {}'\n",
                self.data_dir.display()
            )),
        }
        text.push_str(&format!(
            "  api   {}\n  edge  {}\n  data  {}\n",
            self.api,
            self.edge,
            self.data_dir.display()
        ));
        if let Some(file) = &self.cluster_file {
            let here = match self.data_dir == nebula_node::default_data_dir() {
                true => String::new(),
                // The commands below look in the usual place unless they are told.
                false => format!("  export NEBULA_DATA_DIR={}\n", self.data_dir.display()),
            };
            text.push_str(&format!(
                "\nNext, on this machine:\n{here}  nodectl token create      prints what to run on each other machine\n  nebula deploy create site --path ./dist --tld example.test\n\nFrom elsewhere, with a copy of {}:\n  nebula --cluster cluster.json deploy list\n",
                file.display()
            ));
        }
        text
    }
}

/// Finds an address that cannot be had before anything is made: a prepared folder keeps its addresses, and a join
/// token works once.
pub fn check_addresses(config: &Config) -> Outcome {
    if nebula_node::is_prepared(&config.data_dir) {
        // Perhaps its own daemon has them; that it is prepared is the better answer.
        return Ok(());
    }
    let cannot = |flag: &str, address: SocketAddr| {
        let hint = format!("choose an address that is free with {flag}");
        move |e: std::io::Error| CliError::failed(format!("cannot listen on {address}: {e}"), hint)
    };
    UdpSocket::bind(config.quic).map_err(cannot("--listen", config.quic))?;
    // Held while the other is tried, so that one cannot be given for both.
    let _api = TcpListener::bind(config.api).map_err(cannot("--api-addr", config.api))?;
    TcpListener::bind(config.edge).map_err(cannot("--edge-addr", config.edge))?;
    if let Some(tls) = config.edge_tls() {
        TcpListener::bind(tls).map_err(cannot("--edge-tls-addr, or 'off'", tls))?;
        if config.edge_http3 {
            let http3 = UdpSocket::bind(tls);
            http3.map_err(cannot("--edge-tls-addr, or --edge-http3 false", tls))?;
        }
    }
    Ok(())
}

pub fn init(args: Init, out: Output) -> Outcome {
    let config = args.node.config(None)?;
    if !args.how.no_start {
        check_addresses(&config)?;
    }
    let prepared = prepare_first(&config, args.cluster_name.as_deref())?;
    go_on(config, prepared, args.how, out)
}

/// Prepares the first node of a new cluster.
pub fn prepare_first(config: &Config, cluster_name: Option<&str>) -> Outcome<Prepared> {
    let done = nebula_node::init(config, cluster_name, &Clock::system(), &Random::system())
        .map_err(refused)?;
    Prepared::new(
        config,
        done.cluster_id.to_string(),
        done.node.0,
        Some(done.cluster_file),
    )
}

pub fn join(args: Join, out: Output) -> Outcome {
    let config = args.node.config(None)?;
    let token: JoinTokenText = args
        .token
        .parse()
        .map_err(|e: nebula_wire::token::BadToken| {
            CliError::usage(
                e.to_string(),
                "run 'nodectl token create' on a member for a new one",
            )
        })?;
    if !args.how.no_start {
        check_addresses(&config)?;
    }
    let joined = block_on(async {
        nebula_node::join(&config, &args.address, &token, &Random::system())
            .await
            .map_err(refused)
    })?;
    let prepared = Prepared::new(&config, joined.cluster_id.to_string(), joined.node.0, None)?;
    go_on(config, prepared, args.how, out)
}

/// Starts the daemon as asked, and says what there is now.
fn go_on(config: Config, mut prepared: Prepared, how: How, out: Output) -> Outcome {
    if how.foreground {
        out.note(&prepared.text());
        return daemon::run_config(config, out);
    }
    if !how.no_start {
        let program = daemon::program("nodectl")?;
        prepared.start(block_on(daemon::start(&program, &config.data_dir))?);
    }
    out.result(&prepared, Prepared::text);
    Ok(())
}

impl Prepared {
    pub fn start(&mut self, started: Started) {
        self.started = true;
        self.pid = Some(started.pid);
        self.started_by = Some(started.by);
    }

    pub fn show(&self, out: Output) {
        out.result(self, Prepared::text);
    }
}

/// Why a folder was not prepared, with the exit code that fits.
pub fn refused(error: SetupError) -> CliError {
    match error {
        SetupError::ClusterName(_) => {
            CliError::usage(error.to_string(), "such as --cluster-name lab")
        }
        SetupError::Config(error) => bad_config(error),
        SetupError::Join { address, source } => {
            let said = match &source {
                ClientError::Api(_) => {
                    format!("the cluster at {address} did not let this machine join")
                }
                _ => "this machine cannot join".to_owned(),
            };
            let mut error = CliError::from(source);
            error.error.message = format!("{said}: {}", error.error.message);
            error
        }
        other => CliError::failed(chain(&other), hint(&other)),
    }
}

fn hint(error: &SetupError) -> &'static str {
    match error {
        SetupError::AlreadyPrepared(_) | SetupError::Lock(_) => {
            "see 'nodectl status', or choose another --data-dir"
        }
        SetupError::Io { .. } => "choose a folder that you may write to with --data-dir",
        SetupError::BadAnswer(_) => "use the same version on all machines",
        _ => "see 'nodectl init --help'",
    }
}

/// The folder of this machine's node: the one named, or the default one.
pub fn data_dir(named: Option<&Path>) -> PathBuf {
    named.map_or_else(nebula_node::default_data_dir, Path::to_owned)
}

#[cfg(test)]
mod tests {
    use nebula_wire::api::{ApiError, ErrorCode};

    use super::*;

    fn config(dir: &Path) -> Config {
        let local = |port| Some(std::net::SocketAddr::from(([127, 0, 0, 1], port)));
        let flags = NodeFlags {
            data_dir: Some(dir.to_owned()),
            name: Some("n1".parse().unwrap()),
            listen: local(1),
            api_addr: local(2),
            edge_addr: local(3),
            ..NodeFlags::default()
        };
        flags.config(None).unwrap()
    }

    #[test]
    fn a_prepared_folder_is_told_of_and_not_prepared_twice() {
        nebula_pki::install_crypto_provider();
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir.path().join("data"));
        let prepared = prepare_first(&config, Some("lab")).unwrap();
        let json = serde_json::to_value(&prepared).unwrap();
        assert_eq!(json["id"], 1);
        assert_eq!(json["api"], "https://127.0.0.1:2");
        assert_eq!(json["edge"], "http://127.0.0.1:3");
        assert_eq!(json["started"], false);
        assert!(json.get("pid").is_none());
        assert!(Path::new(json["cluster_file"].as_str().unwrap()).is_file());
        assert!(prepared.text().contains("nodectl run --data-dir"));
        assert_eq!(prepare_first(&config, None).unwrap_err().exit as u8, 1);
    }

    #[test]
    fn a_taken_address_is_found_before_anything_is_made() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let free = "127.0.0.1:0".parse().unwrap();
        let config = Config {
            quic: free,
            api: taken.local_addr().unwrap(),
            edge: free,
            ..config(&dir.path().join("data"))
        };
        let error = check_addresses(&config).unwrap_err();
        assert!(error.error.hint.contains("--api-addr"), "{error:?}");
        assert!(error.to_string().contains(&config.api.to_string()));
        let free = Config {
            api: free,
            ..config
        };
        assert_eq!(check_addresses(&free), Ok(()));
    }

    #[test]
    fn refusals_keep_their_exit_codes() {
        let join = |source| {
            refused(SetupError::Join {
                address: "a:1".into(),
                source,
            })
        };
        let token = ApiError {
            code: ErrorCode::InvalidToken,
            message: "expired".into(),
            hint: "make a new one".into(),
        };
        let error = join(ClientError::Api(token));
        assert_eq!(
            (error.exit as u8, error.error.code),
            (1, ErrorCode::InvalidToken)
        );
        assert!(
            error.to_string().contains("a:1") && error.to_string().contains("expired"),
            "{error}"
        );
        assert_eq!(
            join(ClientError::Unreachable { tried: vec![] }).exit as u8,
            3
        );
        assert_eq!(refused(SetupError::ClusterName("X".into())).exit as u8, 2);
    }
}
