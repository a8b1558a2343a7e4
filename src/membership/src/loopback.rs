//! Bytes from chitchat's messages and back.
//!
//! chitchat 0.13 lets others provide a transport but keeps its encoding to itself: only its own UDP
//! socket turns a message into bytes. So one such socket is bound to the loopback interface and
//! talks to nobody but a socket of ours, which is connected to it: a codec with two ends. No
//! message travels to another machine this way, and one from any other socket is ignored.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, bail};
use chitchat::ChitchatEnvelope;
use chitchat::transport::{Socket, Transport, UdpTransport};
use tokio::time::timeout;

use crate::limits::MAX_MESSAGE_BYTES;

/// The loopback interface delivers at once; this much later the datagram is lost.
const DELIVERY: Duration = Duration::from_millis(200);
/// Between two looks, in the rare case that delivery was put off.
const POLL: Duration = Duration::from_millis(1);

pub(crate) struct Loopback {
    chitchat: Box<dyn Socket>,
    ours: UdpSocket,
    ours_addr: SocketAddr,
    buffer: Vec<u8>,
}

impl Loopback {
    pub async fn open() -> anyhow::Result<Loopback> {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let chitchat = UdpTransport.open(any_port).await?;
        let ours = UdpSocket::bind(any_port).context("cannot bind a loopback socket")?;
        ours.connect(chitchat.local_addr()?)
            .context("cannot connect a loopback socket")?;
        ours.set_nonblocking(true)
            .context("cannot set up a loopback socket")?;
        let ours_addr = ours
            .local_addr()
            .context("a loopback socket has no address")?;
        Ok(Loopback {
            chitchat,
            ours,
            ours_addr,
            buffer: vec![0; MAX_MESSAGE_BYTES + 1],
        })
    }

    /// After an error the pair is out of step: drop it and open another.
    pub async fn encode(&mut self, envelope: ChitchatEnvelope) -> anyhow::Result<Vec<u8>> {
        self.chitchat.send(self.ours_addr, envelope).await?;
        let received = timeout(DELIVERY, async {
            loop {
                match self.ours.recv(&mut self.buffer) {
                    Ok(length) => return Ok(length),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        tokio::time::sleep(POLL).await;
                    }
                    Err(error) => return Err(error),
                }
            }
        });
        let length = received.await.context("a loopback datagram was lost")??;
        Ok(self.buffer[..length].to_vec())
    }

    /// After an error the pair is out of step: drop it and open another.
    pub async fn decode(&mut self, bytes: &[u8]) -> anyhow::Result<ChitchatEnvelope> {
        if self.ours.send(bytes)? != bytes.len() {
            bail!("a loopback datagram was cut");
        }
        timeout(DELIVERY, async {
            loop {
                let received = self.chitchat.recv().await?;
                if received.from_addr == self.ours_addr {
                    return Ok(received.envelope);
                }
            }
        })
        .await
        .context("chitchat did not take the message")?
    }
}

#[cfg(test)]
mod tests {
    use chitchat::{ChitchatMessage, ProtocolVersion};

    use super::*;

    fn envelope() -> ChitchatEnvelope {
        ChitchatEnvelope {
            version: ProtocolVersion::V0,
            message: ChitchatMessage::BadCluster,
        }
    }

    #[tokio::test]
    async fn bytes_and_back() {
        let mut codec = Loopback::open().await.unwrap();
        for _ in 0..3 {
            let bytes = codec.encode(envelope()).await.unwrap();
            assert_eq!(codec.decode(&bytes).await.unwrap(), envelope());
        }
    }

    #[tokio::test]
    async fn strangers_are_ignored() {
        let mut codec = Loopback::open().await.unwrap();
        let bytes = codec.encode(envelope()).await.unwrap();
        let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
        let target = codec.chitchat.local_addr().unwrap();
        stranger.send_to(&bytes, target).unwrap();
        stranger.send_to(&bytes, codec.ours_addr).unwrap();
        assert!(
            codec.decode(b"no message").await.is_err(),
            "only the stranger's was valid"
        );
    }
}
