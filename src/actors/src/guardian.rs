//! The supervisor of a node's reconcilers: an actor that receives their exits and decides.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nebula_telemetry::{Counter, Family, Metrics};
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::reconciler::{ReconcilerActor, Running};
use crate::{BoxError, Reconciler};

/// How long [`Guardian::stop`] waits for passes under way before it cuts them off.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

type RestartLabels = [(&'static str, &'static str); 1];
type Factory = Box<dyn FnMut() -> Box<dyn Reconciler> + Send>;

/// Runs reconcilers and makes failed ones anew. Cheap to clone. When the last clone is dropped
/// without [`Guardian::stop`], its reconcilers are ended without waiting for them.
#[derive(Clone)]
pub struct Guardian {
    handle: Arc<Handle>,
}

struct Handle {
    actor: ActorRef<Message>,
    stopping: watch::Sender<bool>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Ends the guardian, and with it (ractor's supervision tree) every reconciler.
        self.actor.stop(None);
    }
}

/// A supervised reconciler, whichever incarnation of it runs at the moment.
#[derive(Clone)]
pub struct Child {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    restarts: AtomicU64,
    current: Mutex<Option<ActorCell>>,
}

impl Shared {
    fn set_current(&self, cell: Option<ActorCell>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = cell;
    }

    fn current(&self) -> Option<ActorCell> {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Child {
    /// The name it was supervised under.
    pub fn name(&self) -> &'static str {
        self.shared.name
    }

    /// Ends the running incarnation abruptly, in the middle of whatever it does: a fault for
    /// tests. Does nothing while none runs (the pause before a restart).
    pub fn kill(&self) {
        if let Some(cell) = self.shared.current() {
            cell.kill();
        }
    }

    /// How often it was made anew.
    pub fn restarts(&self) -> u64 {
        self.shared.restarts.load(Ordering::Relaxed)
    }
}

impl Guardian {
    /// Starts a guardian without reconcilers.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(metrics: &Metrics) -> Guardian {
        let (stopping, stop_seen) = watch::channel(false);
        let state = GuardianState {
            slots: Vec::new(),
            running: HashMap::new(),
            restarts: metrics.counters::<RestartLabels>(
                "reconciler_restarts",
                "Reconcilers made anew after an error, a panic or a kill",
            ),
            stopping: stop_seen,
            ending: false,
        };
        // The task only reports whether `pre_start` failed, which here does nothing but return.
        let (actor, _startup) = ractor::ActorRuntime::spawn_instant(None, GuardianActor, state)
            .expect("an unnamed actor cannot clash with another name");
        Guardian {
            handle: Arc::new(Handle { actor, stopping }),
        }
    }

    /// Runs the reconciler that `factory` makes, and another of it whenever one fails. The
    /// factory must give one that finds its way from what it reads; it is called for each start.
    ///
    /// After [`Guardian::stop`] nothing is started.
    pub fn supervise<R, F>(&self, name: &'static str, mut factory: F) -> Child
    where
        R: Reconciler,
        F: FnMut() -> R + Send + 'static,
    {
        let shared = Arc::new(Shared {
            name,
            restarts: AtomicU64::new(0),
            current: Mutex::new(None),
        });
        let message = Message::Supervise(Slot {
            shared: shared.clone(),
            factory: Box::new(move || Box::new(factory())),
            backoff: Backoff::default(),
            started: Instant::now(),
        });
        if self.handle.actor.cast(message).is_err() {
            tracing::warn!(reconciler = name, "not started: the guardian has stopped");
        }
        Child { shared }
    }

    /// Ends all reconcilers and waits for them: one that waits ends at once, one in a pass is
    /// given [`STOP_GRACE`] to finish it.
    pub async fn stop(&self) {
        self.handle.stopping.send_replace(true);
        if self.handle.actor.cast(Message::Stop).is_ok()
            && let Err(error) = self.handle.actor.wait(None).await
        {
            tracing::debug!(%error, "waiting for the guardian");
        }
    }
}

/// One `Supervise` per reconciler, one `Restart` per failed one (it is not running, so it cannot
/// fail again before), one `Stop` per caller: few by construction, so the mailbox stays small.
enum Message {
    Supervise(Slot),
    Restart(usize),
    Stop,
    CutOff,
}

struct Slot {
    shared: Arc<Shared>,
    factory: Factory,
    backoff: Backoff,
    started: Instant,
}

struct GuardianActor;

struct GuardianState {
    slots: Vec<Slot>,
    running: HashMap<ActorId, usize>,
    restarts: Family<RestartLabels, Counter>,
    stopping: watch::Receiver<bool>,
    ending: bool,
}

impl Actor for GuardianActor {
    type Msg = Message;
    type State = GuardianState;
    type Arguments = GuardianState;

    async fn pre_start(
        &self,
        _myself: ActorRef<Message>,
        state: GuardianState,
    ) -> Result<GuardianState, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut GuardianState,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Supervise(slot) => {
                state.slots.push(slot);
                state.start(state.slots.len() - 1, &myself).await;
            }
            Message::Restart(index) => {
                let slot = &state.slots[index];
                slot.shared.restarts.fetch_add(1, Ordering::Relaxed);
                state
                    .restarts
                    .get_or_create(&[("reconciler", slot.shared.name)])
                    .inc();
                state.start(index, &myself).await;
            }
            Message::Stop => {
                state.ending = true;
                if state.running.is_empty() {
                    myself.stop(None);
                } else {
                    myself.send_after(STOP_GRACE, || Message::CutOff);
                }
            }
            Message::CutOff => {
                for index in state.running.values() {
                    let shared = &state.slots[*index].shared;
                    tracing::warn!(
                        reconciler = shared.name,
                        "cut off: its last pass did not end within {} s",
                        STOP_GRACE.as_secs()
                    );
                    if let Some(cell) = shared.current() {
                        cell.kill();
                    }
                }
            }
        }
        Ok(())
    }

    /// Replaces ractor's default, which would end the guardian with its first child.
    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut GuardianState,
    ) -> Result<(), ActorProcessingErr> {
        let (cell, reason) = match event {
            SupervisionEvent::ActorFailed(cell, error) => (cell, describe(error.as_ref())),
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                (cell, reason.unwrap_or_else(|| "stopped".to_owned()))
            }
            _ => return Ok(()),
        };
        let Some(index) = state.running.remove(&cell.get_id()) else {
            return Ok(());
        };
        state.slots[index].shared.set_current(None);
        if state.ending {
            if state.running.is_empty() {
                myself.stop(None);
            }
            return Ok(());
        }
        if !*state.stopping.borrow() {
            state.restart_later(index, &reason, &myself);
        }
        Ok(())
    }
}

impl GuardianState {
    async fn start(&mut self, index: usize, myself: &ActorRef<Message>) {
        if self.ending || *self.stopping.borrow() {
            return;
        }
        let slot = &mut self.slots[index];
        slot.started = Instant::now();
        // A factory that panics is a failure of its reconciler, not of the guardian.
        let started = match catch_unwind(AssertUnwindSafe(&mut slot.factory)) {
            Ok(reconciler) => {
                let running = Running {
                    reconciler,
                    stopping: self.stopping.clone(),
                };
                Actor::spawn_linked(None, ReconcilerActor, running, myself.get_cell())
                    .await
                    .map_err(|error| describe(&error))
            }
            Err(_) => Err("its factory panicked".to_owned()),
        };
        match started {
            Ok((actor, _)) => {
                let cell = actor.get_cell();
                self.running.insert(cell.get_id(), index);
                self.slots[index].shared.set_current(Some(cell));
            }
            Err(reason) => self.restart_later(index, &reason, myself),
        }
    }

    fn restart_later(&mut self, index: usize, reason: &str, myself: &ActorRef<Message>) {
        let slot = &mut self.slots[index];
        let pause = slot.backoff.after_run(slot.started.elapsed());
        tracing::error!(
            reconciler = slot.shared.name,
            reason,
            pause_ms = pause.as_millis() as u64,
            "a reconciler ended; it is made anew after a pause"
        );
        myself.send_after(pause, move || Message::Restart(index));
    }
}

/// An error with its sources: `Display` never repeats a source, so the chain is written out.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

// The trait object of `BoxError` and ractor's error are the same type; were they to part, a
// reconciler's error would lose its sources on the way.
const _: fn(BoxError) -> ActorProcessingErr = |error| error;
