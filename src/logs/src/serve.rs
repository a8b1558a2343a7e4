//! The mesh's side of [`Local`]: another node asks, this one answers. One of an older version asks in its
//! own way ([`Protocol::Logs`](nebula_wire::peer::Protocol::Logs)), without filters.

use std::sync::Arc;

use async_trait::async_trait;
use nebula_mesh::{Peer, Service, Stream};
use nebula_wire::codec;
use nebula_wire::peer::log_search::{Filter, Found, Place, SEARCH_BYTES, Search};
use nebula_wire::peer::logs::{self, Answer, REQUEST_BYTES};
use tokio::sync::{Semaphore, mpsc};

use crate::feed::ANSWER_WITHIN;
use crate::local::{ANSWERS, Local};
use crate::{LogsError, READERS};

pub(crate) struct Serve {
    pub(crate) local: Local,
    pub(crate) readers: Arc<Semaphore>,
    /// Speaks as the version before did.
    pub(crate) plain: bool,
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
        let limit = if self.plain {
            REQUEST_BYTES
        } else {
            SEARCH_BYTES
        };
        let request = tokio::time::timeout(ANSWER_WITHIN, stream.read_frame(limit));
        let request = request.await.map_err(|_| LogsError::Timeout)??;
        let mut after = None;
        let search = if self.plain {
            let request: logs::Request = codec::decode(&request)?;
            after.clone_from(&request.after);
            of_old(request)
        } else {
            codec::decode(&request)?
        };
        let Ok(turn) = self.readers.clone().try_acquire_owned() else {
            let reason = format!("it has {READERS} log readers already (log_readers)");
            if let Some(refused) = self.frame(Found::Refused(reason), &mut after)? {
                stream.write_frame(refused).await?;
            }
            stream.finish().await?;
            return Ok(());
        };
        let (sender, mut answers) = mpsc::channel(ANSWERS);
        let answering = self
            .local
            .clone()
            .answer(search, sender, Some(Arc::new(turn)));
        tokio::pin!(answering);
        let mut answered = false;
        loop {
            // The asker says nothing more; its side ends when it has gone.
            tokio::select! {
                () = &mut answering, if !answered => answered = true,
                answer = answers.recv() => match answer {
                    Some(answer) => {
                        if let Some(frame) = self.frame(answer, &mut after)? {
                            stream.write_frame(frame).await?;
                        }
                    }
                    None => break,
                },
                _ = stream.next_frame(REQUEST_BYTES) => return Ok(()),
            }
        }
        stream.finish().await?;
        Ok(())
    }

    /// The answer in the asker's way of speaking; nothing where that has no word for it. `after`: lines of
    /// the tail have to be later.
    fn frame(
        &self,
        found: Found,
        after: &mut Option<String>,
    ) -> Result<Option<Vec<u8>>, LogsError> {
        if !self.plain {
            return Ok(Some(codec::encode(&found)?));
        }
        let answer = match found {
            Found::Lines(mut lines) => {
                lines.retain(|line| after.as_ref().is_none_or(|after| line.time > *after));
                Answer::Lines(lines)
            }
            Found::Live => {
                *after = None;
                Answer::Live
            }
            Found::Refused(reason) => Answer::Refused(reason),
            Found::Copied { .. } | Found::Searching | Found::Cut => return Ok(None),
        };
        Ok(Some(codec::encode(&answer)?))
    }
}

fn of_old(request: logs::Request) -> Search {
    Search {
        deployment: request.deployment,
        tail: request.tail,
        follow: request.follow,
        place: Place::Own,
        filter: Filter {
            instance: request.instance,
            since: request.after,
            ..Filter::default()
        },
    }
}
