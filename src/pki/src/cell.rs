//! The identity in use, which renewal replaces while connections go on.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::{Identity, PkiError};

/// One identity, shared by every TLS configuration made from it. Replacing it takes effect with the
/// next handshake; configurations, sockets and connections stay.
#[derive(Clone)]
pub struct IdentityCell(Arc<RwLock<Arc<Current>>>);

struct Current {
    identity: Arc<Identity>,
    /// The leaf alone: peers of the mesh know the CA.
    leaf: Arc<CertifiedKey>,
    /// Leaf and CA: a joiner that knows only the CA's hash needs to see it.
    chain: Arc<CertifiedKey>,
}

impl Current {
    fn new(identity: Identity) -> Result<Arc<Current>, PkiError> {
        Ok(Arc::new(Current {
            leaf: Arc::new(identity.certified_key(false)?),
            chain: Arc::new(identity.certified_key(true)?),
            identity: Arc::new(identity),
        }))
    }
}

impl std::fmt::Debug for IdentityCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("IdentityCell")
            .field(&self.current())
            .finish()
    }
}

impl IdentityCell {
    pub fn new(identity: Identity) -> Result<IdentityCell, PkiError> {
        Ok(IdentityCell(Arc::new(RwLock::new(Current::new(identity)?))))
    }

    pub fn current(&self) -> Arc<Identity> {
        self.load().identity.clone()
    }

    /// Puts a renewed identity in place. It must be of the same node and the same CA.
    pub fn replace(&self, identity: Identity) -> Result<(), PkiError> {
        let old = self.current();
        if identity.cluster() != old.cluster() || identity.ca() != old.ca() {
            return Err(PkiError::ForeignCluster {
                ours: old.cluster().clone(),
                asked: identity.cluster().clone(),
            });
        }
        if identity.node() != old.node() {
            return Err(PkiError::WrongNode {
                expected: old.node(),
                actual: identity.node(),
                cluster: old.cluster().clone(),
            });
        }
        let next = Current::new(identity)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    fn load(&self) -> Arc<Current> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Presents the cell's certificate in handshakes.
#[derive(Debug)]
pub(crate) struct Presenter {
    pub(crate) cell: IdentityCell,
    pub(crate) with_ca: bool,
}

impl Presenter {
    fn key(&self) -> Arc<CertifiedKey> {
        let current = self.cell.load();
        match self.with_ca {
            true => current.chain.clone(),
            false => current.leaf.clone(),
        }
    }
}

impl ResolvesServerCert for Presenter {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }
}

impl ResolvesClientCert for Presenter {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.key())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
