//! The mesh's side of [`Local`]: another node asks, this one answers.

use std::sync::Arc;

use async_trait::async_trait;
use nebula_mesh::{Peer, Service, Stream};
use nebula_wire::codec;
use nebula_wire::peer::logs::{Answer, REQUEST_BYTES, Request};
use tokio::sync::{Semaphore, mpsc};

use crate::feed::ANSWER_WITHIN;
use crate::local::{ANSWERS, Local};
use crate::{LogsError, READERS};

pub(crate) struct Serve {
    pub(crate) local: Local,
    pub(crate) readers: Arc<Semaphore>,
}

#[async_trait]
impl Service for Serve {
    async fn serve(&self, peer: Peer, mut stream: Stream) {
        if let Err(error) = self.try_serve(&mut stream).await {
            tracing::debug!(peer = %peer.node, %error, "a log stream ended early");
        }
    }
}

impl Serve {
    async fn try_serve(&self, stream: &mut Stream) -> Result<(), LogsError> {
        let request = tokio::time::timeout(ANSWER_WITHIN, stream.read_frame(REQUEST_BYTES));
        let request = request.await.map_err(|_| LogsError::Timeout)??;
        let request: Request = codec::decode(&request)?;
        let Ok(_reader) = self.readers.try_acquire() else {
            let reason = format!("it has {READERS} log readers already (log_readers)");
            let refused = codec::encode(&Answer::Refused(reason))?;
            stream.write_frame(refused).await?;
            stream.finish().await?;
            return Ok(());
        };
        let (sender, mut answers) = mpsc::channel(ANSWERS);
        let answering = self.local.clone().answer(request, sender);
        tokio::pin!(answering);
        let mut answered = false;
        loop {
            // The asker says nothing more; its side ends when it has gone.
            tokio::select! {
                () = &mut answering, if !answered => answered = true,
                answer = answers.recv() => match answer {
                    Some(answer) => stream.write_frame(codec::encode(&answer)?).await?,
                    None => break,
                },
                _ = stream.next_frame(REQUEST_BYTES) => return Ok(()),
            }
        }
        stream.finish().await?;
        Ok(())
    }
}
