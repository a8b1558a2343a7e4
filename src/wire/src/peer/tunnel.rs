//! `Protocol::Tunnel`: a stream that becomes an instance's socket.
//!
//! The opener writes one frame with [`Open`]; the answer is one frame with [`Answer`]. After
//! [`Answer::Connected`] the stream carries the bytes of one HTTP/1.1 connection, as they are.

use nebula_domain::{Digest, InstanceId};
use serde::{Deserialize, Serialize};

/// Both frames are a few dozen bytes.
pub const FRAME_BYTES_MAX: usize = 256;

/// Which instance the stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    pub instance: InstanceId,
    /// Set for an instance of a static site: what to serve. The opener says it, so that both ends need
    /// not have routed by the same revision.
    pub site: Option<Site>,
}

/// A static site as a route table names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    pub artifact: Digest,
    /// Unknown paths that look like pages are answered with `/index.html`.
    pub spa: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Connected,
    /// Not on this node, or not running now.
    NoSuchInstance,
    /// It should be here and did not accept, or this node takes no more tunnels.
    ConnectFailed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn frames_fit_their_limit() {
        let open = Open {
            instance: InstanceId(u64::MAX),
            site: Some(Site {
                artifact: Digest([0xff; 32]),
                spa: true,
            }),
        };
        let bytes = codec::encode(&open).unwrap();
        assert!(bytes.len() <= FRAME_BYTES_MAX);
        assert_eq!(codec::decode::<Open>(&bytes).unwrap(), open);
    }
}
