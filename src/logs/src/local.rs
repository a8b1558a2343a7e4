//! This node's answer to a request, whoever asked.

use std::path::PathBuf;
use std::sync::Arc;

use nebula_domain::{NodeId, State};
use nebula_wire::peer::logs::{Answer, BATCH_BYTES, BATCH_LINES, Line, Request};
use tokio::sync::{mpsc, watch};

use crate::LogsError;
use crate::files::{Files, POLL, Releases};
use crate::tail::Timed;

/// Answers that wait for their reader. A full channel stops the reading of files, and the lines
/// wait there.
pub(crate) const ANSWERS: usize = 4;

/// What answering needs; cheap to clone.
#[derive(Clone)]
pub(crate) struct Local {
    pub(crate) me: NodeId,
    pub(crate) instances_dir: PathBuf,
    pub(crate) state: watch::Receiver<Arc<State>>,
}

impl Local {
    /// Sends the tail, [`Answer::Live`], and, when following, what comes, until the reader goes
    /// away. A failure is the last answer.
    pub(crate) async fn answer(self, request: Request, answers: mpsc::Sender<Answer>) {
        if let Err(error) = self.try_answer(request, &answers).await {
            tracing::warn!(%error, "log files cannot be read");
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            let reason = format!("{error}: {}", cause.unwrap_or_default());
            let _ = answers.send(Answer::Refused(reason)).await;
        }
    }

    async fn try_answer(
        mut self,
        request: Request,
        answers: &mpsc::Sender<Answer>,
    ) -> Result<(), LogsError> {
        let mut known = self.known(&request);
        let follow = request.follow;
        let (root, asked, instances) = (self.instances_dir.clone(), request.clone(), known.clone());
        let (tail, mut files) = blocking(move || Files::open(root, &asked, instances)).await?;
        send(answers, tail).await;
        if answers.send(Answer::Live).await.is_err() || !follow {
            return Ok(());
        }
        loop {
            let mut begun = Vec::new();
            if self.state.has_changed().unwrap_or(false) {
                known = self.known(&request);
                let instances = known.clone();
                (begun, files) = blocking(move || Ok((files.add(&instances)?, files))).await?;
            }
            let instances = known.clone();
            let added;
            (added, files) = blocking(move || Ok((files.read(&instances)?, files))).await?;
            let idle = added.is_empty();
            begun.extend(added);
            if !send(answers, begun).await {
                return Ok(());
            }
            if idle {
                tokio::select! {
                    () = answers.closed() => return Ok(()),
                    () = tokio::time::sleep(POLL) => {}
                }
            }
        }
    }

    /// The instances on this node that were asked for and are assigned now.
    fn known(&mut self, request: &Request) -> Releases {
        let state = self.state.borrow_and_update();
        state
            .instances_on(self.me)
            .filter(|instance| instance.deployment == request.deployment)
            .filter(|instance| request.instance.is_none_or(|wanted| wanted == instance.id))
            .map(|instance| (instance.id, instance.release))
            .collect()
    }
}

async fn blocking<T, F>(work: F) -> Result<T, LogsError>
where
    T: Send + 'static,
    F: FnOnce() -> std::io::Result<T> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(LogsError::Read(std::io::Error::other(error))),
    }
}

/// In batches that fit a frame; whether the reader is still there.
async fn send(answers: &mpsc::Sender<Answer>, lines: Vec<Line>) -> bool {
    let mut batch = Vec::new();
    let mut bytes = 0;
    for line in lines {
        if batch.len() == BATCH_LINES || bytes + line.bytes() > BATCH_BYTES {
            bytes = 0;
            let full = std::mem::take(&mut batch);
            if answers.send(Answer::Lines(full)).await.is_err() {
                return false;
            }
        }
        bytes += line.bytes();
        batch.push(line);
    }
    batch.is_empty() || answers.send(Answer::Lines(batch)).await.is_ok()
}
