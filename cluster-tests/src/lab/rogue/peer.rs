//! A peer that speaks QUIC with whatever certificate it has, and writes whatever it likes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use nebula_wire::peer::Protocol;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, TransportConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::time::timeout;

use super::Credentials;

/// One question to a busy node; what takes longer has no answer.
pub const ASK: Duration = Duration::from_secs(10);
/// Answers of the mesh are at most this long.
const MAX_ANSWER: usize = 8 * 1024 * 1024;

pub struct Rogue {
    endpoint: Endpoint,
}

/// A connection that the node has let stand so far.
pub struct Connected(pub Connection);

impl Rogue {
    pub fn new(credentials: &Credentials) -> anyhow::Result<Rogue> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_client_auth_cert(
                vec![credentials.certificate.clone()],
                credentials.key.clone_key(),
            )?;
        tls.alpn_protocols = vec![nebula_pki::MESH_ALPN.to_vec()];
        tls.enable_sni = false;
        tls.resumption = Resumption::disabled();
        let mut transport = TransportConfig::default();
        transport.keep_alive_interval(Some(Duration::from_secs(1)));
        let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        client.transport_config(Arc::new(transport));
        let mut endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        endpoint.set_default_client_config(client);
        Ok(Rogue { endpoint })
    }

    /// The handshake as this end sees it: the node may still refuse the certificate afterwards.
    pub async fn connect(&self, node: SocketAddr) -> anyhow::Result<Connected> {
        let connecting = self.endpoint.connect(node, "nebula")?;
        Ok(Connected(timeout(ASK, connecting).await??))
    }

    /// Begins handshakes and forgets them.
    pub fn begin(&self, node: SocketAddr) -> anyhow::Result<quinn::Connecting> {
        Ok(self.endpoint.connect(node, "nebula")?)
    }

    /// How the node refuses this certificate.
    ///
    /// # Errors
    /// It does not.
    pub async fn refusal(&self, node: SocketAddr) -> anyhow::Result<String> {
        let Ok(Connected(connection)) = self.connect(node).await else {
            return Ok("the handshake".to_owned());
        };
        let closed = timeout(ASK, connection.closed()).await;
        Ok(closed.context("the connection was let stand")?.to_string())
    }
}

impl Connected {
    /// A stream whose first byte says what it is for.
    pub async fn stream(&self, protocol: u8) -> anyhow::Result<(SendStream, RecvStream)> {
        let (mut send, recv) = timeout(ASK, self.0.open_bi()).await??;
        send.write_all(&[protocol]).await?;
        Ok((send, recv))
    }

    /// One frame, and the one that answers it.
    pub async fn ask(&self, protocol: Protocol, frame: &[u8]) -> anyhow::Result<Vec<u8>> {
        let asked = async {
            let (mut send, mut recv) = self.stream(protocol as u8).await?;
            send.write_all(&u32::try_from(frame.len())?.to_be_bytes())
                .await?;
            // The node may have refused it by its length.
            let _ = send.write_all(frame).await;
            let _ = send.finish();
            let answer = recv.read_to_end(MAX_ANSWER + 4).await?;
            match answer.split_first_chunk::<4>() {
                Some((length, rest)) if u32::from_be_bytes(*length) as usize == rest.len() => {
                    Ok(rest.to_vec())
                }
                _ => bail!("no answer but {} bytes", answer.len()),
            }
        };
        timeout(ASK, asked).await?
    }

    /// A message without an answer, as a datagram.
    pub fn datagram(&self, protocol: u8, message: &[u8]) -> anyhow::Result<()> {
        let bytes: Bytes = [&[protocol], message].concat().into();
        Ok(self.0.send_datagram(bytes)?)
    }

    /// The same on a stream of its own.
    pub async fn message(&self, protocol: u8, message: &[u8]) -> anyhow::Result<()> {
        let mut send = timeout(ASK, self.0.open_uni()).await??;
        send.write_all(&[protocol]).await?;
        send.write_all(message).await?;
        Ok(send.finish()?)
    }
}

/// Takes any server for the right one.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("QUIC has no TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
