//! A small cluster's worth of certificates, and TLS handshakes in memory.

#![allow(dead_code, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use nebula_domain::time::Millis;
use nebula_domain::{ClusterId, NodeId};
use nebula_pki::{Authority, Identity, NodeKey};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

pub fn now() -> Millis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Millis(now.as_millis() as u64)
}

pub fn cluster(name: &str) -> ClusterId {
    ClusterId(name.to_owned())
}

pub fn authority(name: &str) -> Authority {
    Authority::create(&cluster(name), now()).unwrap()
}

pub fn identity_at(authority: &Authority, node: u64, at: Millis) -> Identity {
    let key = NodeKey::generate().unwrap();
    let certificate = authority
        .sign(&key.csr().unwrap(), authority.cluster(), NodeId(node), at)
        .unwrap();
    Identity::new(key, &certificate, &authority.ca_pem()).unwrap()
}

pub fn identity(authority: &Authority, node: u64) -> Identity {
    identity_at(authority, node, now())
}

/// What came of a handshake in which the client sends `secret` as soon as it may.
pub struct Outcome {
    pub client: Result<(), rustls::Error>,
    pub server: Result<(), rustls::Error>,
    /// Application bytes that reached the server.
    pub received: Vec<u8>,
    /// Application bytes that the client was told.
    pub answered: Vec<u8>,
    /// The leaf that the client was shown.
    pub leaf: Option<Vec<u8>>,
}

impl Outcome {
    pub fn refused_by_client(&self) -> String {
        assert!(
            self.received.is_empty(),
            "the client sent data to a server it refuses"
        );
        self.client.as_ref().unwrap_err().to_string()
    }
}

pub fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Outcome {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let (mut client_result, mut server_result) = (Ok(()), Ok(()));
    let (mut received, mut answered) = (Vec::new(), Vec::new());
    let mut sent = false;
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() && server_result.is_ok() {
            server.read_tls(&mut wire).unwrap();
            server_result = server.process_new_packets().map(drop);
        }
        let _ = std::io::Read::read_to_end(&mut server.reader(), &mut received);
        if !received.is_empty() && answered.is_empty() {
            let _ = std::io::Write::write_all(&mut server.writer(), b"answer");
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() && client_result.is_ok() {
            client.read_tls(&mut wire).unwrap();
            client_result = client.process_new_packets().map(drop);
        }
        let _ = std::io::Read::read_to_end(&mut client.reader(), &mut answered);
        if !client.is_handshaking() && client_result.is_ok() && !sent {
            sent = true;
            std::io::Write::write_all(&mut client.writer(), b"secret").unwrap();
        }
    }
    let leaf = client
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|der| der.to_vec());
    Outcome {
        client: client_result,
        server: server_result,
        received,
        answered,
        leaf,
    }
}
