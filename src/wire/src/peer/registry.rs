//! `Protocol::Registry`: one request frame, one answer frame. A follower passes proposals on to the
//! leader, and asks it up to which log entry a linearizable read has to wait.

use std::fmt;

use nebula_domain::{NodeId, Outcome, Rejection};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An accepted request: what it did, and the state's revision after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub outcome: Outcome,
    pub revision: u64,
}

/// What became of one request once the log held it.
pub type Answer = Result<Applied, Rejection>;

/// A bearer token of the API, as the operator sent it. Only ever on the mesh, which is encrypted, and
/// never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorToken(pub String);

impl fmt::Debug for OperatorToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OperatorToken(..)")
    }
}

/// A request on its way to the leader.
#[derive(Debug, Serialize, Deserialize)]
pub struct Proposal {
    /// An encoded `domain::Request`. It may be sent again: its id makes it apply once.
    pub request: Blob,
    /// Whose wish it is, for what the sender may not ask by itself.
    pub operator: Option<OperatorToken>,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum RegistryRequest {
    Propose {
        proposals: Vec<Proposal>,
        deadline_ms: u32,
    },
    /// The log index that a read begun now has to have applied.
    ReadIndex,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum RegistryAnswer {
    /// One answer for each request, in order.
    Proposed(Vec<Answer>),
    ReadIndex(u64),
    NotLeader {
        leader: Option<NodeId>,
    },
    /// This node leads but could not finish in time; nothing is known of the requests.
    Unfinished,
    /// The request was not understood.
    Refused(String),
}

/// Bytes that are encoded as one block and not as a list of numbers.
#[derive(Clone, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Blob, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
            fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_travel_as_one_block() {
        let bytes = crate::codec::encode(&RegistryRequest::Propose {
            proposals: vec![Proposal {
                request: Blob(vec![7; 300]),
                operator: None,
            }],
            deadline_ms: 5,
        })
        .unwrap();
        assert!(bytes.len() < 320, "{}", bytes.len());
        let RegistryRequest::Propose { proposals, .. } = crate::codec::decode(&bytes).unwrap()
        else {
            unreachable!()
        };
        assert_eq!(proposals[0].request, Blob(vec![7; 300]));
    }

    #[test]
    fn a_token_is_not_shown() {
        let proposal = Proposal {
            request: Blob(vec![]),
            operator: Some(OperatorToken("nba1.secret".into())),
        };
        assert!(!format!("{proposal:?}").contains("secret"));
    }
}
