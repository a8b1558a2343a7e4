//! One node's lines, as the asking node receives them: its own directly, another's over the mesh.

use std::sync::Arc;
use std::time::Duration;

use nebula_domain::{NodeId, State};
use nebula_mesh::Mesh;
use nebula_wire::codec;
use nebula_wire::peer::Protocol;
use nebula_wire::peer::logs::{Answer, FRAME_BYTES, Line, Request};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::LogsError;
use crate::local::{ANSWERS, Local};
use crate::tail::MAX_TAIL;

/// A node that says nothing for this long while its tail is awaited is reported as missing.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// A follower asks a lost node again this often.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What a feed reports.
pub(crate) enum Event {
    Lines(Vec<Line>),
    /// The tail is complete.
    Live,
    /// No lines until further notice. The last event, unless the request follows.
    Missing(LogsError),
}

/// Reports the lines of this node.
pub(crate) async fn own(local: Local, request: Request, events: mpsc::Sender<Event>) {
    let (sender, mut answers) = mpsc::channel(ANSWERS);
    let forward = async {
        while let Some(answer) = answers.recv().await {
            let event = match answer {
                Answer::Lines(lines) => Event::Lines(lines),
                Answer::Live => Event::Live,
                Answer::Refused(reason) => Event::Missing(LogsError::Refused(reason)),
            };
            if events.send(event).await.is_err() {
                // Dropping the receiver ends the answer.
                answers.close();
                return;
            }
        }
    };
    tokio::join!(local.answer(request, sender), forward);
}

/// Reports the lines of another node. When following, a lost node is asked again, from the last
/// line it sent (or from `begun`, when it never sent one), until it is no longer a member. Lines of
/// the very millisecond of the last one are not sent again.
pub(crate) async fn other(
    mesh: Mesh,
    node: NodeId,
    mut request: Request,
    begun: String,
    mut state: watch::Receiver<Arc<State>>,
    events: mpsc::Sender<Event>,
) {
    let mut missing = false;
    loop {
        let mut lively = false;
        let ended = ask(&mesh, node, &mut request, &events, &mut lively).await;
        missing &= !lively;
        match ended {
            Ok(Ended::Reader) => return,
            Ok(Ended::Answer) if !request.follow => return,
            ended => {
                let error = ended.err().unwrap_or(LogsError::Lost);
                tracing::debug!(%node, %error, "a node's log lines are missing");
                // Said once, however often it is asked again.
                if !std::mem::replace(&mut missing, true)
                    && events.send(Event::Missing(error)).await.is_err()
                {
                    return;
                }
            }
        }
        if !request.follow {
            return;
        }
        // Everything since the last line is wanted now, not only the latest.
        request.tail = u32::try_from(MAX_TAIL).unwrap_or(u32::MAX);
        request.after.get_or_insert_with(|| begun.clone());
        tokio::select! {
            () = tokio::time::sleep(RETRY_AFTER) => {}
            () = events.closed() => return,
        }
        if !state.borrow_and_update().nodes.contains_key(&node) {
            return;
        }
    }
}

enum Ended {
    /// The one who reads the events has gone.
    Reader,
    /// The node has said all it had to say.
    Answer,
}

async fn ask(
    mesh: &Mesh,
    node: NodeId,
    request: &mut Request,
    events: &mpsc::Sender<Event>,
    lively: &mut bool,
) -> Result<Ended, LogsError> {
    let mut stream = mesh.open(node, Protocol::Logs, ANSWER_WITHIN).await?;
    stream.write_frame(codec::encode(&*request)?).await?;
    let mut live = false;
    loop {
        let frame = if live {
            tokio::select! {
                frame = stream.next_frame(FRAME_BYTES) => frame.map_err(|_| LogsError::Lost)?,
                () = events.closed() => return Ok(Ended::Reader),
            }
        } else {
            let frame = timeout(ANSWER_WITHIN, stream.next_frame(FRAME_BYTES));
            frame.await.map_err(|_| LogsError::Timeout)??
        };
        let Some(frame) = frame else {
            return if live {
                Ok(Ended::Answer)
            } else {
                Err(LogsError::Lost)
            };
        };
        *lively = true;
        let event = match codec::decode(&frame)? {
            Answer::Lines(lines) => {
                let latest = lines.iter().map(|line| &line.time).max();
                if latest > request.after.as_ref() {
                    request.after = latest.cloned();
                }
                Event::Lines(lines)
            }
            Answer::Live => {
                live = true;
                Event::Live
            }
            Answer::Refused(reason) => return Err(LogsError::Refused(reason)),
        };
        if events.send(event).await.is_err() {
            return Ok(Ended::Reader);
        }
    }
}
