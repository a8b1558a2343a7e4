//! Prepares a data folder: as a new cluster's first node, or as a member of an existing one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nebula_client::{Client, ClientError};
use nebula_domain::state::Addresses;
use nebula_domain::{ClusterId, NodeId, NodeName};
use nebula_pki::{Authority, Identity, NodeKey, PkiError};
use nebula_telemetry::{Clock, Random};
use nebula_wire::api::{ClusterFile, JoinRequest};
use nebula_wire::token::JoinTokenText;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::{Config, ConfigError};
use crate::directory::Peers;
use crate::files::{BOOTSTRAP_FILE, CLUSTER_FILE, private_dir, write_private};
use crate::lock::{self, Lock, LockError};

/// Why a data folder was not prepared. Nothing was changed then, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("the data folder {} already belongs to a node: start it with 'nodectl run', or choose another --data-dir", .0.display())]
    AlreadyPrepared(PathBuf),
    #[error("'{0}' is not a cluster name: use 1 to 63 lower-case letters, digits and dashes")]
    ClusterName(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("cannot write to the data folder {}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("the cluster at {address} did not let this machine join")]
    Join {
        address: String,
        source: ClientError,
    },
    #[error(
        "the answer of the cluster at {0} is not valid: use the same version of nodectl on all machines"
    )]
    BadAnswer(String),
}

/// A new cluster's first node.
#[derive(Debug, Clone)]
pub struct Initialised {
    pub cluster_id: ClusterId,
    pub node: NodeId,
    /// Holds the API's address, the CA and a token; readable by its owner only.
    pub cluster_file: PathBuf,
}

/// A member of an existing cluster.
#[derive(Debug, Clone)]
pub struct Joined {
    pub cluster_id: ClusterId,
    pub node: NodeId,
    pub role: String,
}

/// The first proposal of a cluster's life, kept until it has been made.
#[derive(Serialize, Deserialize)]
pub(crate) struct Bootstrap {
    pub request_id: String,
    pub api_token_sha256: String,
    pub ca_pem: String,
}

/// Whether a node has been prepared here.
pub fn is_prepared(data_dir: &Path) -> bool {
    Identity::exists(data_dir)
}

/// The addresses that other machines use for this node.
pub(crate) fn addresses(config: &Config) -> Result<Addresses, ConfigError> {
    Ok(Addresses {
        quic: config.advertised("the mesh address", config.quic)?,
        api: config.advertised("the API address", config.api)?,
        edge: config.advertised("the edge address", config.edge)?,
    })
}

/// Makes a new cluster of one node: its CA, the node's certificate, the operator's token.
pub fn init(
    config: &Config,
    cluster_name: Option<&str>,
    clock: &Clock,
    random: &Random,
) -> Result<Initialised, SetupError> {
    let cluster_id = cluster_id(cluster_name, random)?;
    let addresses = addresses(config)?;
    let claim = Claim::make(&config.data_dir)?;
    let dir = &config.data_dir;
    let io = |source| SetupError::Io {
        path: dir.clone(),
        source,
    };

    let now = clock.now();
    let node = NodeId(1);
    let authority = Authority::create(&cluster_id, now)?;
    let key = NodeKey::generate()?;
    let certificate = authority.sign(&key.csr()?, &cluster_id, node, now)?;
    let ca_pem = authority.ca_pem();
    let identity = Identity::new(key, &certificate, &ca_pem)?;

    let token = format!("nba1.{}", hex::encode(random.bytes::<32>()));
    let bootstrap = Bootstrap {
        request_id: random.request_id().to_string(),
        api_token_sha256: hex::encode(Sha256::digest(token.as_bytes())),
        ca_pem: ca_pem.clone(),
    };
    let file = ClusterFile {
        cluster_id: cluster_id.to_string(),
        apis: vec![addresses.api.to_string()],
        ca: ca_pem,
        token,
    };
    let cluster_file = dir.join(CLUSTER_FILE);
    write_private(
        &cluster_file,
        &serde_json::to_vec_pretty(&file).unwrap_or_default(),
    )
    .map_err(io)?;
    write_private(
        &dir.join(BOOTSTRAP_FILE),
        &serde_json::to_vec(&bootstrap).unwrap_or_default(),
    )
    .map_err(io)?;
    Peers {
        next_node_id: 2,
        peers: Vec::new(),
    }
    .store(dir)
    .map_err(io)?;
    config.store()?;
    authority.store(dir)?;
    // Last: the identity is what makes a folder a node's.
    identity.store(dir)?;
    claim.keep();
    Ok(Initialised {
        cluster_id,
        node,
        cluster_file,
    })
}

/// Joins the cluster whose API answers at `address`. The CA is checked against the token before the
/// secret is sent.
pub async fn join(
    config: &Config,
    address: &str,
    token: &JoinTokenText,
    random: &Random,
) -> Result<Joined, SetupError> {
    let addresses = addresses(config)?;
    let claim = Claim::make(&config.data_dir)?;
    let dir = &config.data_dir;
    let io = |source| SetupError::Io {
        path: dir.clone(),
        source,
    };
    let key = NodeKey::generate()?;
    let request = JoinRequest {
        request_id: random.request_id().to_string(),
        token_id: token.id.clone(),
        secret: hex::encode(token.secret),
        name: config.name.to_string(),
        quic: addresses.quic.to_string(),
        api: addresses.api.to_string(),
        edge: addresses.edge.to_string(),
        csr: key.csr()?,
        level: nebula_domain::level::LEVEL,
    };
    let refused = |source| SetupError::Join {
        address: address.to_owned(),
        source,
    };
    let tls = nebula_pki::pinned_client_config(token.ca_sha256)?;
    let client = Client::with_tls(vec![address.to_owned()], Arc::unwrap_or_clone(tls), None)
        .map_err(refused)?;
    let answer = client.join(&request).await.map_err(refused)?;
    let invalid = || SetupError::BadAnswer(address.to_owned());
    if nebula_pki::ca_sha256(&answer.ca).map_err(|_| invalid())? != token.ca_sha256 {
        return Err(invalid());
    }
    let identity = Identity::new(key, &answer.certificate, &answer.ca)?;
    Peers {
        next_node_id: answer.next_node_id,
        peers: answer.peers,
    }
    .store(dir)
    .map_err(io)?;
    config.store()?;
    identity.store(dir)?;
    claim.keep();
    Ok(Joined {
        cluster_id: ClusterId(answer.cluster_id),
        node: NodeId(answer.node_id),
        role: answer.role,
    })
}

/// A data folder in the making: locked, and gone again unless it is kept.
struct Claim {
    lock: Option<Lock>,
    /// Folders that were not there before, the innermost first.
    made: Vec<PathBuf>,
}

impl Claim {
    /// Creates the folder and locks it; refuses one that is a node's already.
    fn make(data_dir: &Path) -> Result<Claim, SetupError> {
        let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let made = data_dir.ancestors().take_while(missing);
        let mut claim = Claim {
            lock: None,
            made: made.map(Path::to_owned).collect(),
        };
        private_dir(data_dir).map_err(|source| SetupError::Io {
            path: data_dir.to_owned(),
            source,
        })?;
        let lock = lock::take(data_dir)?;
        if is_prepared(data_dir) {
            return Err(SetupError::AlreadyPrepared(data_dir.to_owned()));
        }
        claim.lock = Some(lock);
        Ok(claim)
    }

    /// It has become a node's.
    fn keep(mut self) {
        self.lock = None;
        self.made.clear();
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Whatever else lies in them keeps folders from being removed.
        if let Some(lock) = self.lock.take() {
            let _ = lock.discard();
        }
        for folder in &self.made {
            if std::fs::remove_dir(folder).is_err() {
                return;
            }
        }
    }
}

/// The chosen name, or one made up; either way with random digits, so that two clusters that chose
/// the same name do not take each other's nodes for their own.
fn cluster_id(name: Option<&str>, random: &Random) -> Result<ClusterId, SetupError> {
    let name = name.unwrap_or("nebula");
    let id = format!("{name}-{}", hex::encode(random.bytes::<4>()));
    id.parse::<NodeName>()
        .map_err(|_| SetupError::ClusterName(name.to_owned()))?;
    Ok(ClusterId(id))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Overrides;

    fn config(dir: &Path) -> Config {
        let local = |port| Some(std::net::SocketAddr::from(([127, 0, 0, 1], port)));
        let overrides = Overrides {
            data_dir: Some(dir.join("data")),
            name: Some("n1".parse().unwrap()),
            quic: local(1),
            api: local(2),
            edge: local(3),
            ..Overrides::default()
        };
        Config::load(None, &overrides).unwrap()
    }

    #[test]
    fn init_keeps_its_secrets_to_the_owner_and_happens_once() {
        nebula_pki::install_crypto_provider();
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let done = init(&config, Some("lab"), &Clock::system(), &Random::system()).unwrap();
        assert!(done.cluster_id.0.starts_with("lab-"));
        for secret in ["ca.key", "identity/node.key", CLUSTER_FILE, BOOTSTRAP_FILE] {
            let mode = std::fs::metadata(config.data_dir.join(secret))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o077, 0, "{secret} has mode {mode:o}");
        }
        let again = init(&config, None, &Clock::system(), &Random::system());
        assert!(matches!(again, Err(SetupError::AlreadyPrepared(_))));
    }

    #[test]
    fn a_bad_cluster_name_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let refused = init(
            &config,
            Some("No Good"),
            &Clock::system(),
            &Random::system(),
        );
        assert!(matches!(refused, Err(SetupError::ClusterName(_))));
        assert!(!config.data_dir.exists());
    }

    #[tokio::test]
    async fn a_join_that_fails_leaves_nothing_behind() {
        nebula_pki::install_crypto_provider();
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(&dir.path().join("some/where"));
        // A port that was free a moment ago: nobody answers there.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let token = JoinTokenText {
            ca_sha256: [1; 32],
            id: "t".to_owned(),
            secret: [2; 32],
        };
        let random = Random::system();
        let refused = join(&config, &address, &token, &random).await;
        assert!(matches!(refused, Err(SetupError::Join { .. })));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);

        // A folder that was there stays, with what its owner put into it.
        config.data_dir = dir.path().join("own");
        std::fs::create_dir(&config.data_dir).unwrap();
        config.store().unwrap();
        let refused = join(&config, &address, &token, &random).await;
        assert!(matches!(refused, Err(SetupError::Join { .. })));
        let left: Vec<_> = std::fs::read_dir(&config.data_dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["node.toml"]);
    }
}
