//! What a reader tells: lines, and in lines of the platform's own what is missing and why.

use nebula_domain::NodeId;
use nebula_domain::loglevel::{self, plain};
use nebula_drivers::logfile;
use nebula_wire::api::LogLine;
use nebula_wire::peer::logs::Source;

use super::{Gone, Reader};
use crate::LogsError;
use crate::files::{SEARCH_BYTES, SEARCH_WITHIN};
use crate::placed::Placed;
use crate::tail::{MAX_TAIL, TAIL_BYTES};

impl Reader {
    pub(super) async fn emit(&self, Placed { node, name, line }: Placed) -> Result<(), Gone> {
        let level = match line.source {
            Source::Nebula => None,
            Source::Stdout | Source::Stderr => loglevel::of(&plain(&line.text)),
        };
        let line = LogLine {
            time: line.time,
            instance: line.instance.to_string(),
            node: name.unwrap_or_else(|| self.name(node)),
            release: line.release.0,
            stream: line.source.as_str().to_owned(),
            level: level.map(|level| level.to_string()),
            line: line.text,
        };
        self.out.send(line).await.map_err(|_| Gone)
    }

    /// `copied`: the time of the last line of a copy that is shown instead.
    pub(super) async fn say_missing(
        &self,
        node: NodeId,
        error: &LogsError,
        copied: Option<&String>,
    ) -> Result<(), Gone> {
        let lines = match copied {
            Some(until) => format!("its lines until {until} are from copies on other nodes"),
            None => "its lines are missing".to_owned(),
        };
        self.say_lost(node, error, &lines).await
    }

    /// `lines`: what becomes of the node's lines.
    pub(super) async fn say_lost(
        &self,
        node: NodeId,
        error: &LogsError,
        lines: &str,
    ) -> Result<(), Gone> {
        let name = self.name(node);
        let believed = if self.logs.view.borrow().is_alive(node) {
            ""
        } else {
            " (it is down)"
        };
        let text = match error {
            LogsError::Refused(reason) => {
                format!("node {name} did not send its lines: {reason}")
            }
            LogsError::Lost => format!("node {name} was lost{believed}; {lines}"),
            _ => format!("node {name} did not answer{believed}; {lines}"),
        };
        self.say(Some(node), text).await
    }

    pub(super) async fn say_cut(&self, node: NodeId) -> Result<(), Gone> {
        let text = format!(
            "node {} has more output than is looked at for one answer ({} MiB and {} s searched, {MAX_TAIL} lines and {} MiB told; log_search): older lines are missing; ask for one instance, or for less time",
            self.name(node),
            SEARCH_BYTES >> 20,
            SEARCH_WITHIN.as_secs(),
            TAIL_BYTES >> 20
        );
        self.say(Some(node), text).await
    }

    /// A line of the platform's own, about no instance.
    pub(super) async fn say(&self, node: Option<NodeId>, line: String) -> Result<(), Gone> {
        let line = LogLine {
            time: logfile::time_text(self.logs.clock.now()),
            instance: String::new(),
            node: self.name(node.unwrap_or(self.logs.local.me)),
            release: 0,
            stream: Source::Nebula.as_str().to_owned(),
            level: None,
            line,
        };
        self.out.send(line).await.map_err(|_| Gone)
    }

    fn name(&self, node: NodeId) -> String {
        let state = self.logs.local.state.borrow();
        match state.nodes.get(&node) {
            Some(member) => member.name.to_string(),
            None => node.to_string(),
        }
    }
}
