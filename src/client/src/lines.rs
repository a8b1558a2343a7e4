//! Streams of one JSON object per line, for as long as the caller listens; and the log endpoint's.

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, TryStreamExt};
use http_body_util::BodyExt;
use nebula_wire::api::LogLine;
use serde::de::DeserializeOwned;

use crate::path::segment;
use crate::send::{Answer, Call, innermost};
use crate::{Client, ClientError, limits};

/// Which lines of a deployment's output are wanted. What is none is the node's default.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Go on with new lines as they are written.
    pub follow: bool,
    /// So many of the newest lines.
    pub tail: Option<usize>,
    /// Of this instance only, such as `i-17`.
    pub instance: Option<String>,
    /// Of this level, or a more serious one.
    pub level: Option<String>,
    /// From this time on: RFC 3339, or how long ago, such as `1h`.
    pub since: Option<String>,
    /// Before this time.
    pub until: Option<String>,
    /// In which this regular expression is found.
    pub grep: Option<String>,
    pub release: Option<u32>,
    /// Of this node, by its name.
    pub node: Option<String>,
    /// `stdout`, `stderr` or `nebula`.
    pub stream: Option<String>,
    /// Also of earlier deployments of the same name.
    pub past: bool,
}

impl LogQuery {
    fn path(&self, name: &str) -> String {
        let mut path = format!(
            "/v1/deployments/{}/logs?follow={}",
            segment(name),
            self.follow
        );
        let tail = self.tail.map(|tail| tail.to_string());
        let release = self.release.map(|release| release.to_string());
        // Nodes of an older version do not know it.
        let past = self.past.then(|| "true".to_owned());
        for (key, value) in [
            ("tail", &tail),
            ("instance", &self.instance),
            ("level", &self.level),
            ("since", &self.since),
            ("until", &self.until),
            ("grep", &self.grep),
            ("release", &release),
            ("node", &self.node),
            ("stream", &self.stream),
            ("past", &past),
        ] {
            if let Some(value) = value {
                path.push_str(&format!("&{key}={}", segment(value)));
            }
        }
        path
    }
}

impl Client {
    /// A deployment's output. The first answer is bounded by the deadline, the stream is not.
    pub async fn logs(
        &self,
        name: &str,
        query: &LogQuery,
    ) -> Result<impl Stream<Item = Result<LogLine, ClientError>> + Send + Unpin + use<>, ClientError>
    {
        let call = Call::read(query.path(name));
        let answer = self.send(&call, Instant::now() + self.deadline).await?;
        Ok(json_lines(answer, "log", None))
    }
}

/// The lines of an answer, each as a value. With `silence` an answer that says nothing for so long, not even a blank line,
/// is as good as broken.
pub(crate) fn json_lines<T: DeserializeOwned + Send + 'static>(
    answer: Answer,
    what: &'static str,
    silence: Option<Duration>,
) -> impl Stream<Item = Result<T, ClientError>> + Send + Unpin + use<T> {
    let address = answer.address;
    let broken = address.clone();
    let chunks = answer
        .response
        .into_body()
        .into_data_stream()
        .map_err(move |e| ClientError::BadAnswer {
            address: broken.clone(),
            reason: format!("the {what} stream ended early: {}", innermost(&e)),
        });
    Box::pin(futures::stream::try_unfold(
        (chunks, Lines::default()),
        move |(mut chunks, mut lines)| {
            let address = address.clone();
            async move {
                let bad = |reason| ClientError::BadAnswer {
                    address: address.clone(),
                    reason,
                };
                loop {
                    if let Some(line) = lines.take() {
                        let line = serde_json::from_slice(&line)
                            .map_err(|e| bad(format!("a {what} line does not fit: {e}")))?;
                        return Ok(Some((line, (chunks, lines))));
                    }
                    let chunk = match silence {
                        None => chunks.try_next().await?,
                        Some(silence) => {
                            tokio::time::timeout(silence, chunks.try_next())
                                .await
                                .map_err(|_| bad(format!("silent for {} s", silence.as_secs())))??
                        }
                    };
                    match chunk {
                        Some(chunk) => lines.add(&chunk).map_err(&bad)?,
                        None if lines.finish() => {}
                        None => return Ok(None),
                    }
                }
            }
        },
    ))
}

/// Cuts chunks into lines; blank ones (keep-alives) are skipped.
#[derive(Default)]
struct Lines {
    buffer: BytesMut,
}

impl Lines {
    fn add(&mut self, chunk: &Bytes) -> Result<(), String> {
        self.buffer.extend_from_slice(chunk);
        // Whole lines are taken before the next chunk is added, so that this bounds one line.
        if self.buffer.len() > limits::LOG_LINE_BYTES + chunk.len() {
            return Err(format!(
                "a log line is over {} bytes",
                limits::LOG_LINE_BYTES
            ));
        }
        Ok(())
    }

    fn take(&mut self) -> Option<Bytes> {
        loop {
            let end = self.buffer.iter().position(|b| *b == b'\n')?;
            let line = self.buffer.split_to(end).freeze();
            self.buffer.advance(1);
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Some(line);
            }
        }
    }

    /// Ends a last line that has no newline; false when there is none.
    fn finish(&mut self) -> bool {
        let rest = !self.buffer.is_empty();
        if rest {
            self.buffer.extend_from_slice(b"\n");
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for chunk in ["a", "b\n", "\nc\nd\n\n", "e"] {
            lines.add(&Bytes::from(chunk)).unwrap();
            while let Some(line) = lines.take() {
                seen.push(String::from_utf8(line.to_vec()).unwrap());
            }
        }
        assert!(lines.finish());
        seen.push(String::from_utf8(lines.take().unwrap().to_vec()).unwrap());
        assert!(!lines.finish());
        assert_eq!(seen, ["ab", "c", "d", "e"]);
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        let chunk = Bytes::from(vec![b'x'; limits::LOG_LINE_BYTES]);
        assert!(lines.add(&chunk).is_ok());
        assert!(lines.take().is_none());
        assert!(lines.add(&chunk).is_ok(), "at the limit");
        assert!(lines.take().is_none());
        assert!(lines.add(&chunk).is_err());
    }

    #[test]
    fn the_query_is_in_the_path() {
        let query = LogQuery {
            follow: true,
            tail: Some(5),
            instance: Some("i-1".into()),
            ..LogQuery::default()
        };
        assert_eq!(
            query.path("api"),
            "/v1/deployments/api/logs?follow=true&tail=5&instance=i-1"
        );
        let query = LogQuery {
            grep: Some("a+b&c".into()),
            past: true,
            ..LogQuery::default()
        };
        assert_eq!(
            query.path("api"),
            "/v1/deployments/api/logs?follow=false&grep=a%2Bb%26c&past=true"
        );
    }
}
