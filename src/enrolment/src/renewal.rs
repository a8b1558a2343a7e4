//! The loop that keeps a node's certificate young and brings the CA key to voters.

use std::sync::Arc;
use std::time::Duration;

use nebula_actors::{BoxError, Reconciler};
use nebula_domain::State;
use nebula_domain::state::Role;
use nebula_pki::{Authority, Identity, SealingKey};
use nebula_wire::peer::identity::{IdentityAnswer, IdentityRequest};
use tokio::sync::watch;

use crate::Enrolment;
use crate::error::EnrolError;

/// Certificates live for a day and are renewed at half-life: a minute either way does not matter.
const PERIOD: Duration = Duration::from_secs(60);
/// After a failure, and while a voter still lacks the CA key.
const RETRY: Duration = Duration::from_secs(2);

/// Renews and fetches; see [`Enrolment::renewal`].
pub struct Renewal {
    enrolment: Enrolment,
    state: watch::Receiver<Arc<State>>,
    pause: Duration,
}

#[async_trait::async_trait]
impl Reconciler for Renewal {
    async fn wake(&mut self) {
        let member = self.role().is_some();
        tokio::select! {
            () = tokio::time::sleep(self.pause) => {}
            // Until this node finds itself registered, every change may be the one.
            changed = self.state.changed(), if !member => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        let renewed = self.enrolment.renew_if_due().await;
        let fetched = self.fetch_authority_if_due().await;
        self.pause = PERIOD;
        for failed in [renewed, fetched].into_iter().filter_map(Result::err) {
            tracing::warn!(error = %failed, "cannot renew this node's identity now, trying again");
            self.pause = RETRY;
        }
        if self.role().is_none() {
            self.pause = RETRY;
        }
        Ok(())
    }
}

impl Renewal {
    pub(crate) fn new(enrolment: Enrolment) -> Renewal {
        let state = enrolment.shared.registry.watch_plan();
        Renewal {
            enrolment,
            state,
            pause: Duration::ZERO,
        }
    }

    fn role(&self) -> Option<Role> {
        self.state
            .borrow()
            .nodes
            .get(&self.enrolment.shared.mesh.me())
            .map(|n| n.role)
    }

    async fn fetch_authority_if_due(&self) -> Result<(), EnrolError> {
        if self.role() != Some(Role::Voter) || self.enrolment.can_sign() {
            return Ok(());
        }
        self.enrolment.fetch_authority().await
    }
}

impl Enrolment {
    async fn renew_if_due(&self) -> Result<(), EnrolError> {
        let identity = self.identity();
        let now = self.shared.clock.now();
        // One from the future was signed while a clock was ahead; nobody accepts it before its time.
        if !identity.half_life(now).is_zero() && identity.not_before() <= now {
            return Ok(());
        }
        let key = nebula_pki::NodeKey::generate()?;
        let certificate = match self.authority() {
            Some(authority) => {
                authority.sign(&key.csr()?, identity.cluster(), identity.node(), now)?
            }
            None => match self
                .ask(&IdentityRequest::Renew { csr: key.csr()? })
                .await?
            {
                IdentityAnswer::Renewed { certificate } => certificate,
                _ => return Err(EnrolError::BadAnswer),
            },
        };
        let renewed = Identity::new(key, &certificate, &identity.ca_pem())?;
        // The signer's clock may be far off: the present certificate is good for longer than this one.
        if renewed.not_before() > now || renewed.is_expired(now) {
            return Err(EnrolError::Clock);
        }
        renewed.store(&self.shared.data_dir)?;
        self.shared.mesh.replace_identity(renewed)?;
        tracing::info!("renewed this node's certificate");
        Ok(())
    }

    async fn fetch_authority(&self) -> Result<(), EnrolError> {
        let key = SealingKey::generate();
        let answer = self
            .ask(&IdentityRequest::FetchAuthority {
                public_key: key.public(),
            })
            .await?;
        let IdentityAnswer::Authority { sealed } = answer else {
            return Err(EnrolError::BadAnswer);
        };
        let authority = Authority::unseal(key, &sealed, &self.identity().ca_pem())?;
        authority.store(&self.shared.data_dir)?;
        let mut held = self
            .shared
            .authority
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *held = Some(Arc::new(authority));
        tracing::info!("received the CA key: this voter can sign certificates");
        Ok(())
    }
}
