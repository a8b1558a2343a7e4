//! What a supervisor needs of gossip and of the artifact store, so that its tests need neither.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use nebula_artifacts::Artifacts;
use nebula_domain::observed::{Health, View};
use nebula_domain::{Digest, InstanceId, NodeId};
use nebula_membership::{Membership, PhaseFacts};
use tokio::sync::watch;

/// Where phases are told, and where it shows by which revision other nodes route.
pub trait Observed: Clone + Send + Sync + 'static {
    fn view(&self) -> watch::Receiver<Arc<View>>;
    fn publish_phase(&self, instance: InstanceId, facts: Option<PhaseFacts>);
    fn publish_health(&self, instance: InstanceId, health: Health);
}

impl Observed for Membership {
    fn view(&self) -> watch::Receiver<Arc<View>> {
        Membership::view(self)
    }

    fn publish_phase(&self, instance: InstanceId, facts: Option<PhaseFacts>) {
        Membership::publish_phase(self, instance, facts);
    }

    fn publish_health(&self, instance: InstanceId, health: Health) {
        Membership::publish_health(self, instance, health);
    }
}

/// Where unpacked artifacts come from. An error is one line for people.
pub trait Trees: Clone + Send + Sync + 'static {
    fn ensure(
        &self,
        digest: Digest,
        sources: Vec<NodeId>,
    ) -> impl Future<Output = Result<PathBuf, String>> + Send;
}

impl Trees for Artifacts {
    async fn ensure(&self, digest: Digest, sources: Vec<NodeId>) -> Result<PathBuf, String> {
        Artifacts::ensure(self, digest, &sources)
            .await
            .map_err(|error| with_sources(&error))
    }
}

/// An error and what caused it, in one line.
pub(crate) fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
