//! Artifacts: asked for by digest, sent as a stream that is never held whole.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::Method;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use nebula_wire::api::ArtifactInfo;

use crate::path::segment;
use crate::send::{Attempt, Call, innermost};
use crate::{Client, ClientError, body, limits};

/// Opens the archive from its beginning; called again for a try at another address.
pub type OpenArtifact = Arc<dyn Fn() -> BoxStream<'static, std::io::Result<Bytes>> + Send + Sync>;

/// An archive to upload.
#[derive(Clone)]
pub struct ArtifactSource {
    /// BLAKE3, hexadecimal.
    pub digest: String,
    pub size_bytes: u64,
    pub open: OpenArtifact,
}

fn path(digest: &str) -> String {
    format!("/v1/artifacts/{}", segment(digest))
}

impl Client {
    /// Whether the cluster holds this artifact already.
    pub async fn has_artifact(&self, digest: &str) -> Result<bool, ClientError> {
        let call = Call {
            method: Method::HEAD,
            ..Call::read(path(digest))
        };
        match self.done(call).await {
            Ok(()) => Ok(true),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Uploads an archive; `progress` hears how many bytes of it have been sent. An upload may take as long as
    /// it moves.
    pub async fn upload_artifact(
        &self,
        source: &ArtifactSource,
        progress: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<ArtifactInfo, ClientError> {
        let call = Call::change(Method::PUT, path(&source.digest));
        let progress: Arc<dyn Fn(u64) + Send + Sync> = Arc::new(progress);
        let never = Instant::now() + Duration::from_secs(365 * 24 * 3600);
        let answer = self
            .in_turn(never, |target, _| {
                let (call, progress) = (&call, progress.clone());
                async move {
                    let sent = Arc::new(AtomicU64::new(0));
                    let failed = Arc::new(Mutex::new(None));
                    let chunks = watched(
                        (source.open)(),
                        sent.clone(),
                        failed.clone(),
                        progress.clone(),
                    );
                    let mut request = self.request_with(call, &target, body::stream(chunks))?;
                    let headers = request.headers_mut();
                    headers.insert(CONTENT_LENGTH, HeaderValue::from(source.size_bytes));
                    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
                    let answer = self.transport.http.request(request);
                    let outcome = tokio::select! {
                        answer = answer => match answer {
                            Ok(response) => Attempt::Answered(response),
                            Err(e) => Attempt::Broken(innermost(&e)),
                        },
                        () = stalled(&sent) => Attempt::Silent(limits::UPLOAD_STALL),
                    };
                    let failed = failed.lock().ok().and_then(|mut f| f.take());
                    Ok(match (failed, outcome) {
                        (Some(reason), Attempt::Broken(_)) => Attempt::Source(reason),
                        (_, outcome) => outcome,
                    })
                }
            })
            .await?;
        self.read_info(answer).await
    }

    async fn read_info(&self, answer: crate::send::Answer) -> Result<ArtifactInfo, ClientError> {
        use http_body_util::{BodyExt, Limited};
        let address = answer.address;
        let bad = |reason: String| ClientError::BadAnswer {
            address: address.clone(),
            reason,
        };
        let whole = Limited::new(answer.response.into_body(), limits::ANSWER_BYTES).collect();
        let bytes = tokio::time::timeout(self.deadline, whole)
            .await
            .map_err(|_| bad("the answer did not end".into()))?
            .map_err(|e| bad(innermost(e.as_ref())))?
            .to_bytes();
        serde_json::from_slice(&bytes).map_err(|e| bad(format!("its JSON does not fit: {e}")))
    }
}

/// The chunks, with a note of how far they got and of why they ended early.
fn watched(
    chunks: BoxStream<'static, std::io::Result<Bytes>>,
    sent: Arc<AtomicU64>,
    failed: Arc<Mutex<Option<String>>>,
    progress: Arc<dyn Fn(u64) + Send + Sync>,
) -> BoxStream<'static, std::io::Result<Bytes>> {
    chunks
        .inspect(move |chunk| match chunk {
            Ok(bytes) => {
                let n = bytes.len() as u64;
                progress(sent.fetch_add(n, Ordering::Relaxed) + n);
            }
            Err(e) => {
                if let Ok(mut failed) = failed.lock() {
                    *failed = Some(e.to_string());
                }
            }
        })
        .boxed()
}

/// Returns once nothing has been sent for [`limits::UPLOAD_STALL`].
async fn stalled(sent: &AtomicU64) {
    let mut seen = sent.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(limits::UPLOAD_STALL).await;
        let now = sent.load(Ordering::Relaxed);
        if now == seen {
            return;
        }
        seen = now;
    }
}
