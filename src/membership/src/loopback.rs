//! Bytes from chitchat's messages and back.
//!
//! chitchat 0.13 lets others provide a transport but keeps its encoding to itself: only its own UDP
//! socket turns a message into bytes. So one such socket is bound to the loopback interface and
//! talks to nobody but a socket of ours, which is connected to it: a codec with two ends. No
//! message travels to another machine this way, and one from any other socket is ignored.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
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

/// The codec thread stands for no time in its callers' eyes, so that only a fault makes it wait so long.
const THREAD_DELIVERY: Duration = Duration::from_secs(20);

/// How chitchat's messages become bytes.
#[derive(Clone, Default)]
pub enum Codec {
    /// On sockets of the present runtime.
    #[default]
    Sockets,
    /// On a thread with sockets of its own, while the caller stands still: for simulations, in which
    /// no task may wait for the kernel.
    Thread(CodecThread),
}

/// A codec in use, made anew after an error.
pub(crate) enum Coder {
    Sockets(Option<Loopback>),
    Thread(CodecThread),
}

impl Coder {
    pub fn new(codec: &Codec) -> Coder {
        match codec {
            Codec::Sockets => Coder::Sockets(None),
            Codec::Thread(thread) => Coder::Thread(thread.clone()),
        }
    }

    pub async fn encode(&mut self, envelope: ChitchatEnvelope) -> anyhow::Result<Vec<u8>> {
        match self {
            Coder::Thread(thread) => thread.ask(|answer| Job::Encode(envelope, answer)),
            Coder::Sockets(ready) => {
                let mut open = take_or_open(ready).await?;
                let bytes = open.encode(envelope).await?;
                *ready = Some(open);
                Ok(bytes)
            }
        }
    }

    pub async fn decode(&mut self, bytes: &[u8]) -> anyhow::Result<ChitchatEnvelope> {
        match self {
            Coder::Thread(thread) => thread.ask(|answer| Job::Decode(bytes.to_vec(), answer)),
            Coder::Sockets(ready) => {
                let mut open = take_or_open(ready).await?;
                let envelope = open.decode(bytes).await?;
                *ready = Some(open);
                Ok(envelope)
            }
        }
    }
}

async fn take_or_open(ready: &mut Option<Loopback>) -> anyhow::Result<Loopback> {
    match ready.take() {
        Some(open) => Ok(open),
        None => Loopback::open(DELIVERY).await,
    }
}

type Answer<T> = SyncSender<anyhow::Result<T>>;

enum Job {
    Encode(ChitchatEnvelope, Answer<Vec<u8>>),
    Decode(Vec<u8>, Answer<ChitchatEnvelope>),
}

/// Clones share the thread, which ends with the last of them.
#[derive(Clone)]
pub struct CodecThread(Arc<Mutex<Sender<Job>>>);

impl CodecThread {
    pub fn start() -> std::io::Result<CodecThread> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (jobs, queue) = channel();
        std::thread::Builder::new()
            .name("gossip-codec".to_owned())
            .spawn(move || {
                let mut ready = None;
                while let Ok(job) = queue.recv() {
                    runtime.block_on(carry_out(job, &mut ready));
                }
            })?;
        Ok(CodecThread(Arc::new(Mutex::new(jobs))))
    }

    /// Blocks.
    fn ask<T>(&self, job: impl FnOnce(Answer<T>) -> Job) -> anyhow::Result<T> {
        let (answer, answered) = sync_channel(1);
        let jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.send(job(answer))
            .ok()
            .context("the codec thread has ended")?;
        answered.recv().context("the codec thread has ended")?
    }
}

async fn carry_out(job: Job, ready: &mut Option<Loopback>) {
    let open = match ready.take() {
        Some(open) => Ok(open),
        None => Loopback::open(THREAD_DELIVERY).await,
    };
    // Whoever asked waits for the answer.
    match (job, open) {
        (Job::Encode(envelope, answer), Ok(mut open)) => {
            let result = open.encode(envelope).await;
            *ready = result.is_ok().then_some(open);
            let _ = answer.send(result);
        }
        (Job::Decode(bytes, answer), Ok(mut open)) => {
            let result = open.decode(&bytes).await;
            *ready = result.is_ok().then_some(open);
            let _ = answer.send(result);
        }
        (Job::Encode(_, answer), Err(error)) => drop(answer.send(Err(error))),
        (Job::Decode(_, answer), Err(error)) => drop(answer.send(Err(error))),
    }
}

pub(crate) struct Loopback {
    delivery: Duration,
    chitchat: Box<dyn Socket>,
    ours: UdpSocket,
    ours_addr: SocketAddr,
    buffer: Vec<u8>,
}

impl Loopback {
    /// A datagram counts as lost after `delivery`.
    pub async fn open(delivery: Duration) -> anyhow::Result<Loopback> {
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
            delivery,
            chitchat,
            ours,
            ours_addr,
            buffer: vec![0; MAX_MESSAGE_BYTES + 1],
        })
    }

    /// After an error the pair is out of step: drop it and open another.
    pub async fn encode(&mut self, envelope: ChitchatEnvelope) -> anyhow::Result<Vec<u8>> {
        self.chitchat.send(self.ours_addr, envelope).await?;
        let received = timeout(self.delivery, async {
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
        timeout(self.delivery, async {
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
        let thread = Codec::Thread(CodecThread::start().unwrap());
        for codec in [Codec::Sockets, thread] {
            let mut coder = Coder::new(&codec);
            for _ in 0..3 {
                let bytes = coder.encode(envelope()).await.unwrap();
                assert_eq!(coder.decode(&bytes).await.unwrap(), envelope());
            }
        }
    }

    #[tokio::test]
    async fn strangers_are_ignored() {
        let mut codec = Loopback::open(DELIVERY).await.unwrap();
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
