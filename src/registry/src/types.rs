//! The types that openraft is instantiated with. One log entry carries a batch of requests.

use std::io::Cursor;
use std::sync::{Arc, OnceLock};

use nebula_domain::Request;
use nebula_wire::codec::{self, CodecError};
use nebula_wire::peer::registry::{Answer, Blob};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

openraft::declare_raft_types!(
    /// Nodes are plain numbers to Raft; their addresses come from the mesh's directory.
    pub TypeConfig:
        D = Batch,
        R = Vec<Answer>,
        NodeId = u64,
        Node = openraft::EmptyNode,
        SnapshotData = Cursor<Vec<u8>>,
);

pub type Raft = openraft::Raft<TypeConfig>;
pub type Entry = openraft::Entry<TypeConfig>;
pub type LogId = openraft::LogId<u64>;
pub type Vote = openraft::Vote<u64>;
pub type StorageError = openraft::StorageError<u64>;
pub type StoredMembership = openraft::StoredMembership<u64, openraft::EmptyNode>;
pub type SnapshotMeta = openraft::SnapshotMeta<u64, openraft::EmptyNode>;
pub type Snapshot = openraft::Snapshot<TypeConfig>;

/// Requests that share one log entry. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Batch(Arc<Vec<Arc<Item>>>);

/// A request as its proposer encoded it; it is decoded at most once on each node.
#[derive(Debug)]
pub struct Item {
    encoded: Blob,
    decoded: OnceLock<Request>,
}

impl Item {
    pub fn new(request: Request) -> Result<Item, CodecError> {
        let encoded = Blob(codec::encode(&request)?);
        Ok(Item {
            encoded,
            decoded: OnceLock::from(request),
        })
    }

    /// Checks that the bytes are a request, so that nothing else ever enters the log.
    pub fn checked(encoded: Blob) -> Result<Item, CodecError> {
        let item = Item {
            encoded,
            decoded: OnceLock::new(),
        };
        item.request()?;
        Ok(item)
    }

    pub fn request(&self) -> Result<&Request, CodecError> {
        if let Some(request) = self.decoded.get() {
            return Ok(request);
        }
        let request = codec::decode(&self.encoded.0)?;
        Ok(self.decoded.get_or_init(|| request))
    }

    pub fn encoded(&self) -> &Blob {
        &self.encoded
    }

    pub fn len(&self) -> usize {
        self.encoded.0.len()
    }
}

impl Batch {
    pub fn new(items: Vec<Arc<Item>>) -> Batch {
        Batch(Arc::new(items))
    }

    pub fn items(&self) -> &[Arc<Item>] {
        &self.0
    }

    /// Encoded size of the requests.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|item| item.len()).sum()
    }
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|item| &item.encoded))
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Batch, D::Error> {
        let blobs = Vec::<Blob>::deserialize(deserializer)?;
        let item = |encoded| {
            Arc::new(Item {
                encoded,
                decoded: OnceLock::new(),
            })
        };
        Ok(Batch::new(blobs.into_iter().map(item).collect()))
    }
}

/// Approximate size of an entry in memory and on disk.
pub fn entry_bytes(entry: &Entry) -> usize {
    /// Log id, lengths, containers.
    const OVERHEAD: usize = 128;
    match &entry.payload {
        openraft::EntryPayload::Normal(batch) => OVERHEAD + batch.bytes(),
        openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => OVERHEAD,
    }
}
