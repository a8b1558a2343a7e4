//! Keeps the set of certificates as the folder has it, while connections go on.
//!
//! A set is swapped whole, and only for one without fault: of a folder that is wrong nobody knows what was meant, and what was in
//! force until now is known to work.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::certificates::Certificates;
use super::folder::{self, Loaded, Look};
use crate::config::Limits;
use crate::error::ProxyError;
use crate::metrics::ProxyMetrics;

/// Errors of one look that are logged; the number of all is in the metrics.
const SAID_MAX: usize = 5;

pub(crate) struct Keeper {
    folder: PathBuf,
    limits: Limits,
    metrics: ProxyMetrics,
    set: watch::Sender<Arc<Certificates>>,
    /// As the folder was when its certificates were taken.
    taken: Option<Look>,
    /// As it was at the last look. Files that are being written are left alone until they rest.
    seen: Option<Look>,
    /// What was said last, so that it is said once.
    said: String,
}

impl Keeper {
    /// Begins with what can be used of the folder.
    pub(super) fn start(
        folder: PathBuf,
        limits: &Limits,
        metrics: ProxyMetrics,
    ) -> (Keeper, watch::Receiver<Arc<Certificates>>) {
        let (set, receiver) = watch::channel(Arc::default());
        let mut keeper = Keeper {
            folder,
            limits: limits.clone(),
            metrics,
            set,
            taken: None,
            seen: None,
            said: String::new(),
        };
        match folder::look(&keeper.folder, &keeper.limits) {
            Ok(look) => {
                let Loaded {
                    certificates,
                    wrong,
                } = folder::load(&look, &keeper.limits);
                keeper.swap(certificates);
                if wrong.is_empty() {
                    keeper.taken = Some(look);
                }
                keeper.say(&wrong, "some certificates cannot be used");
            }
            Err(error) => keeper.say(&[error], "there are no certificates"),
        }
        (keeper, receiver)
    }

    /// Looks at the folder until nobody uses its certificates any more.
    pub(crate) async fn run(mut self) {
        loop {
            tokio::select! {
                () = self.set.closed() => return,
                () = tokio::time::sleep(self.interval()) => {}
            }
            // Reading a thousand files takes a while.
            match tokio::task::spawn_blocking(move || self.pass()).await {
                Ok(keeper) => self = keeper,
                Err(error) => {
                    tracing::error!(%error, "the folder of certificates is not looked at any more");
                    return;
                }
            }
        }
    }

    fn interval(&self) -> Duration {
        self.limits.certificates_look
    }

    fn pass(mut self) -> Keeper {
        self.look();
        self
    }

    fn look(&mut self) {
        const KEPT: &str = "the certificates in use stay as they are";
        let look = match folder::look(&self.folder, &self.limits) {
            Ok(look) => look,
            Err(error) => return self.say(&[error], KEPT),
        };
        if self.taken.as_ref() == Some(&look) {
            self.seen = None;
            return self.say(&[], KEPT);
        }
        if self.seen.as_ref() != Some(&look) {
            self.seen = Some(look);
            return;
        }
        let Loaded {
            certificates,
            wrong,
        } = folder::load(&look, &self.limits);
        if wrong.is_empty() {
            self.swap(certificates);
            self.taken = Some(look);
            self.seen = None;
        }
        self.say(&wrong, KEPT);
    }

    fn swap(&mut self, certificates: Certificates) {
        let (count, expiry) = (certificates.count, certificates.expiry);
        self.metrics.certificates(count, expiry);
        self.set.send_replace(Arc::new(certificates));
        tracing::info!(count, folder = %self.folder.display(), "certificates are in use");
    }

    fn say(&mut self, wrong: &[ProxyError], effect: &'static str) {
        self.metrics.certificate_errors(wrong.len());
        let text = wrong.iter().take(SAID_MAX).map(chain);
        let text = text.collect::<Vec<_>>().join("; ");
        if text != self.said && !text.is_empty() {
            tracing::error!(count = wrong.len(), reason = text, "{effect}");
        }
        self.said = text;
    }
}

/// An error and what caused it.
fn chain(error: &ProxyError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
