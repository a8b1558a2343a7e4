//! Clients of a simulated cluster: they write and read settings and change deployments, each through
//! whichever node it finds, and ask again elsewhere when they are told nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nebula_domain::spec::{Service, Spec, StaticSite, Workload as Kind};
use nebula_domain::time::Millis;
use nebula_domain::{Command, Digest, Outcome as Told, Request};
use nebula_registry::{Applied, ProposeError};
use nebula_telemetry::Random;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::cluster::Lives;
use super::node::{EPOCH_MS, Life};
use super::oracles::{Once, Outcome, Registers};
use super::trace::Trace;

/// Few, so that operations meet.
const KEYS: u64 = 4;
const DEADLINE: Duration = Duration::from_secs(3);
const TRIES: u32 = 3;
/// Changed by nothing but restarts.
pub const COUNTED: &str = "counted";

/// What the clients did. Clones are the same.
#[derive(Clone)]
pub struct Book(Arc<Mutex<Pages>>);

#[derive(Default)]
pub struct Pages {
    pub registers: Registers,
    pub once: Once,
    pub acknowledged_revision: u64,
}

impl Book {
    pub fn lock(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct Workload {
    pub book: Book,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Clone)]
struct Client {
    number: u64,
    lives: Lives,
    random: Random,
    trace: Trace,
    book: Book,
    stop: watch::Receiver<bool>,
    /// Longest pause between two operations.
    pause_ms: u64,
}

impl Workload {
    pub fn start(lives: &Lives, random: &Random, trace: &Trace) -> Workload {
        let stop = watch::Sender::new(false);
        let book = Book(Arc::default());
        let client = |number| Client {
            number,
            lives: lives.clone(),
            random: Random::seeded(random.u64()),
            trace: trace.clone(),
            book: book.clone(),
            stop: stop.subscribe(),
            pause_ms: 10 + random.below(150),
        };
        let count = 3 + random.below(4);
        let mut tasks: Vec<_> = (1..=count)
            .map(|number| tokio::spawn(client(number).use_settings()))
            .collect();
        tasks.push(tokio::spawn(client(100).change_deployments()));
        tasks.push(tokio::spawn(client(101).restart()));
        Workload { book, stop, tasks }
    }

    /// Returns once every client has finished what it was doing.
    pub async fn stop(self) -> Book {
        self.stop.send_replace(true);
        for task in self.tasks {
            // A client that panicked has said so.
            let _ = task.await;
        }
        self.book
    }
}

pub fn key(number: u64) -> String {
    format!("user.k{number}")
}

pub fn keys() -> impl Iterator<Item = String> {
    (0..KEYS).map(key)
}

impl Client {
    async fn pause(&self) -> bool {
        sleep(Duration::from_millis(1 + self.random.below(self.pause_ms))).await;
        !*self.stop.borrow()
    }

    fn find(&self) -> Option<Life> {
        let lives = self.lives.all();
        let chosen = self.random.below(lives.len() as u64);
        lives.get(usize::try_from(chosen).ok()?).cloned()
    }

    async fn use_settings(self) {
        while self.pause().await {
            let key = key(self.random.below(KEYS));
            if self.random.below(2) == 0 {
                self.write(&key).await;
            } else if let Some(life) = self.find() {
                let invoked = self.book.lock().registers.now();
                let read = life.registry.read(DEADLINE).await;
                // What a dead node would have said is never heard.
                if let (Ok(state), false) = (read, life.is_dead()) {
                    let value = number(state.settings.get(&key));
                    self.book.lock().registers.read(&key, value, invoked);
                    self.trace.note(format_args!(
                        "c{} reads {key} = {value:?} at {}",
                        self.number, life.node
                    ));
                }
            }
        }
    }

    async fn write(&self, key: &str) {
        let (value, invoked) = {
            let registers = &mut self.book.lock().registers;
            (registers.value(), registers.now())
        };
        let command = Command::SetSetting {
            key: key.to_owned(),
            value: value.to_string(),
        };
        self.trace
            .note(format_args!("c{} writes {key} = {value}", self.number));
        let outcome = match self.propose(command).await {
            Ok(_) => Outcome::Done,
            Err(outcome) => outcome,
        };
        self.trace.note(format_args!(
            "c{} wrote {key} = {value}: {outcome:?}",
            self.number
        ));
        self.book
            .lock()
            .registers
            .wrote(key, value, invoked, outcome);
    }

    /// Asks again with the same id, elsewhere, while the outcome is not known.
    async fn propose(&self, command: Command) -> Result<Applied, Outcome> {
        let request = Request {
            id: self.random.request_id(),
            command,
            stamp: Default::default(),
        };
        let mut outcome = Outcome::Failed;
        for _ in 0..1 + self.random.below(u64::from(TRIES)) {
            let Some(life) = self.find() else {
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            let asked = life
                .registry
                .propose_request(request.clone(), DEADLINE)
                .await;
            if life.is_dead() {
                outcome = Outcome::Unknown;
                continue;
            }
            match asked {
                Ok(applied) => {
                    let mut book = self.book.lock();
                    book.acknowledged_revision = book.acknowledged_revision.max(applied.revision);
                    return Ok(applied);
                }
                Err(ProposeError::Rejected(rejection)) => {
                    self.trace
                        .note(format_args!("c{} refused: {rejection}", self.number));
                    return Err(Outcome::Failed);
                }
                Err(ProposeError::TooLarge(_) | ProposeError::Busy { .. }) => {}
                Err(_) => outcome = Outcome::Unknown,
            }
        }
        Err(outcome)
    }

    async fn change_deployments(self) {
        while self.pause().await {
            sleep(Duration::from_millis(self.random.below(1500))).await;
            let number = self.random.below(3);
            let Ok(name) = format!("app{number}").parse() else {
                return;
            };
            let now = Millis(EPOCH_MS + self.random.below(1000));
            let artifact = Digest([number as u8; 32]);
            let command = match self.random.below(8) {
                0..=2 => Command::CreateDeployment {
                    name,
                    spec: spec(number == 2),
                    scale: 1 + self.random.below(3) as u32,
                    artifact,
                    artifact_bytes: 1,
                    origin: Default::default(),
                    now,
                },
                3 => Command::RemoveDeployment { name },
                4 => Command::RestartDeployment { name, now },
                5 => Command::UpdateDeployment {
                    name,
                    based_on: None,
                    spec: None,
                    artifact,
                    artifact_bytes: 1,
                    origin: Default::default(),
                    now,
                },
                _ => Command::ScaleDeployment {
                    name,
                    scale: self.random.below(5) as u32,
                    based_on: None,
                },
            };
            self.trace.note(format_args!("operator: {command:?}"));
            let told = self.propose(command).await;
            let told = told.map(|applied| applied.outcome);
            self.trace.note(format_args!("operator: {told:?}"));
        }
    }

    /// Restarts one deployment again and again; see [`Once`].
    async fn restart(self) {
        let Ok(name) = COUNTED.parse::<nebula_domain::DeploymentName>() else {
            return;
        };
        loop {
            let create = Command::CreateDeployment {
                name: name.clone(),
                spec: spec(false),
                scale: 1,
                artifact: Digest([9; 32]),
                artifact_bytes: 1,
                origin: Default::default(),
                now: Millis(EPOCH_MS),
            };
            // Refused: an earlier try was applied after all.
            if matches!(self.propose(create).await, Ok(_) | Err(Outcome::Failed))
                && self.exists(&name)
            {
                break;
            }
            if !self.pause().await {
                return;
            }
        }
        while self.pause().await {
            sleep(Duration::from_millis(self.random.below(1000))).await;
            let restart = Command::RestartDeployment {
                name: name.clone(),
                now: Millis(EPOCH_MS),
            };
            let told = self.propose(restart).await;
            let mut book = self.book.lock();
            match told.map(|applied| applied.outcome) {
                Ok(Told::Deployed { generation, .. }) => {
                    if let Err(reason) = book.once.acknowledged(generation) {
                        self.trace.violate("once", format_args!("{reason}"));
                    }
                }
                Err(Outcome::Unknown) => book.once.unknown(),
                _ => {}
            }
        }
    }

    fn exists(&self, name: &nebula_domain::DeploymentName) -> bool {
        let lives = self.lives.all();
        lives
            .iter()
            .any(|life| life.registry.state().deployments.contains_key(name))
    }
}

pub fn number(value: Option<&String>) -> Option<u64> {
    value.map(|text| text.parse().unwrap_or(u64::MAX / 2))
}

fn spec(only_files: bool) -> Spec {
    let workload = if only_files {
        Kind::Static(StaticSite::default())
    } else {
        Kind::Service(Service {
            stop_grace: Duration::from_secs(2),
            ..Service::new("serve")
        })
    };
    Spec::new(workload, "example.test".parse().expect("a domain name"))
}
