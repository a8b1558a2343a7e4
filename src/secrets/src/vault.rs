//! Opening the secrets of an instance: by the key, if it is here, or by asking a node that has it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use nebula_domain::secret::Sealed;
use nebula_domain::state::Role;
use nebula_domain::{InstanceId, NodeId, SecretName, State, View};
use nebula_mesh::{CallError, Mesh, Peer, Service, Stream};
use nebula_telemetry::Random;
use nebula_wire::codec::{self, CodecError};
use nebula_wire::peer::Protocol;
use nebula_wire::peer::secrets::{Answer, Request, Values};
use tokio::sync::watch;

use crate::seal::{self, Key, SealError};

/// One question to one voter; the next is asked after that.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// An instance's number.
const REQUEST_BYTES: usize = 256;
/// A voter that has not heard of an instance yet is asked again after so long, so often.
const ASK_AGAIN: Duration = Duration::from_millis(200);
const ROUNDS: usize = 5;

/// Why a program cannot have its secrets. Never holds a value.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("this node does not hold the key of secrets")]
    NoKey,
    #[error("the instance is not known here")]
    UnknownInstance,
    #[error("the secret '{0}' is not set")]
    NotSet(SecretName),
    #[error("{0}")]
    Seal(#[from] SealError),
    #[error("no voter gives this node the secrets of the instance: {0}")]
    Voters(String),
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("{0}")]
    Codec(#[from] CodecError),
}

/// Where the key comes from; none while it is not on this node.
pub trait KeySource: Send + Sync + 'static {
    fn key(&self) -> Option<Key>;
}

impl<F: Fn() -> Option<Key> + Send + Sync + 'static> KeySource for F {
    fn key(&self) -> Option<Key> {
        self()
    }
}

/// Seals, opens, and answers other nodes. Cheap to clone.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

struct Inner {
    mesh: Mesh,
    state: watch::Receiver<Arc<State>>,
    view: watch::Receiver<Arc<View>>,
    random: Random,
    key: Arc<dyn KeySource>,
    /// Of instances assigned to this node.
    opened: Mutex<BTreeMap<InstanceId, Values>>,
}

impl Vault {
    /// Begins to answer other nodes.
    pub fn start(
        mesh: Mesh,
        state: watch::Receiver<Arc<State>>,
        view: watch::Receiver<Arc<View>>,
        random: Random,
        key: Arc<dyn KeySource>,
    ) -> Vault {
        let vault = Vault(Arc::new(Inner {
            mesh: mesh.clone(),
            state,
            view,
            random,
            key,
            opened: Mutex::default(),
        }));
        mesh.serve(Protocol::Secrets, Arc::new(Serve(vault.clone())));
        vault
    }

    /// For the registry.
    pub fn seal(&self, name: &SecretName, value: &str) -> Result<Sealed, VaultError> {
        let key = self.0.key.key().ok_or(VaultError::NoKey)?;
        Ok(seal::seal(&key, name, value, &self.0.random)?)
    }

    /// The values of the secrets of an instance on this node, by the variables that they are given in.
    pub async fn of(&self, instance: InstanceId) -> Result<BTreeMap<String, String>, VaultError> {
        let values = match self.kept(instance) {
            Some(values) => values,
            None => self.fetch(instance).await?,
        };
        let state = self.0.state.borrow().clone();
        let variables = variables(&state, instance).ok_or(VaultError::UnknownInstance)?;
        let given = variables.iter().map(|(variable, name)| {
            let value = values.0.get(name);
            let value = value.ok_or_else(|| VaultError::NotSet(name.clone()))?;
            Ok((variable.clone(), value.clone()))
        });
        given.collect()
    }

    /// What was opened before, without what is of instances that are gone.
    fn kept(&self, instance: InstanceId) -> Option<Values> {
        let state = self.0.state.borrow();
        let mut opened = self.lock();
        opened.retain(|id, _| state.instances.contains_key(id));
        opened.get(&instance).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<InstanceId, Values>> {
        self.0.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self, instance: InstanceId) -> Result<Values, VaultError> {
        let state = self.0.state.borrow().clone();
        let values = match self.0.key.key() {
            Some(key) => open(&state, instance, &key)?,
            None => self.ask(&state, instance).await?,
        };
        self.lock().insert(instance, values.clone());
        Ok(values)
    }

    /// Asks the voters, those that are heard first.
    async fn ask(&self, state: &State, instance: InstanceId) -> Result<Values, VaultError> {
        let me = self.0.mesh.me();
        let voters = state.nodes.values().filter(|node| node.role == Role::Voter);
        let mut voters: Vec<NodeId> = voters.map(|node| node.id).collect();
        voters.retain(|id| *id != me);
        {
            let view = self.0.view.borrow();
            voters.sort_by_key(|id| !view.is_alive(*id));
        }
        let mut why = "there is none".to_owned();
        for _ in 0..ROUNDS {
            for voter in &voters {
                why = match self.ask_one(*voter, instance).await {
                    Ok(Answer::Values(values)) => return Ok(values),
                    Ok(Answer::Refused(why)) => return Err(VaultError::Voters(why)),
                    Ok(Answer::NoKey) => format!("node {voter} does not hold the key yet"),
                    Ok(Answer::Unknown) => format!("node {voter} does not know of it yet"),
                    Err(error) => format!("node {voter}: {error}"),
                };
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
        Err(VaultError::Voters(why))
    }

    async fn ask_one(&self, voter: NodeId, instance: InstanceId) -> Result<Answer, AskError> {
        let request = codec::encode(&Request { instance })?;
        let mesh = &self.0.mesh;
        let call = mesh.call(voter, Protocol::Secrets, request.into(), ANSWER_WITHIN);
        Ok(codec::decode(&call.await?)?)
    }

    /// Only the node that runs an instance is told its secrets.
    fn answer(&self, peer: NodeId, instance: InstanceId) -> Answer {
        let state = self.0.state.borrow().clone();
        let Some(key) = self.0.key.key() else {
            return Answer::NoKey;
        };
        let Some(assigned) = state.instances.get(&instance) else {
            return Answer::Unknown;
        };
        if assigned.node != peer {
            return Answer::Refused(format!("instance {instance} is another node's"));
        }
        match open(&state, instance, &key) {
            Ok(values) => Answer::Values(values),
            Err(VaultError::NotSet(_) | VaultError::UnknownInstance) => Answer::Unknown,
            Err(error) => Answer::Refused(error.to_string()),
        }
    }
}

/// The variables of an instance and the secrets that they are given.
fn variables(state: &State, instance: InstanceId) -> Option<&BTreeMap<String, SecretName>> {
    let release = state.release_of(state.instances.get(&instance)?)?;
    release.spec.secrets()
}

fn open(state: &State, instance: InstanceId, key: &Key) -> Result<Values, VaultError> {
    let assigned = state.instances.get(&instance);
    let assigned = assigned.ok_or(VaultError::UnknownInstance)?;
    let mut values = BTreeMap::new();
    for (name, version) in &assigned.secrets {
        let secret = state.secrets.get(name);
        let version = secret.and_then(|secret| secret.versions.get(version));
        let version = version.ok_or_else(|| VaultError::NotSet(name.clone()))?;
        let value = seal::open(key, name, &version.sealed)?;
        values.insert(name.clone(), value.as_str().to_owned());
    }
    Ok(Values(values))
}

struct Serve(Vault);

#[async_trait]
impl Service for Serve {
    async fn serve(&self, peer: Peer, mut stream: Stream) {
        let reading = stream.read_frame(REQUEST_BYTES);
        let Ok(Ok(frame)) = tokio::time::timeout(ANSWER_WITHIN, reading).await else {
            return;
        };
        stream.stop_reading();
        let answer = codec::decode(&frame)
            .map(|request: Request| self.0.answer(peer.node, request.instance))
            .and_then(|answer| codec::encode(&answer));
        match answer {
            Ok(bytes) => {
                // The asker may have gone; it asks again.
                let _ = tokio::time::timeout(ANSWER_WITHIN, stream.write_frame(&bytes)).await;
            }
            Err(error) => {
                tracing::debug!(peer = %peer.node, %error, "another node's question about secrets cannot be answered");
            }
        }
    }
}
