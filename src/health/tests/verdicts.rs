//! Verdicts about real sockets, under a real guardian.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nebula_actors::{Child, Guardian};
use nebula_domain::InstanceId;
use nebula_domain::observed::{GivenUpRun, Health as Verdict, LocalInstance, LocalInstances};
use nebula_domain::probe::Standing;
use nebula_domain::spec::{ProbeKind, ProbeRole, ProbeSpec, Probes};
use nebula_drivers::fake::FakeDriver;
use nebula_drivers::{DriverError, Exec, ExecSpec};
use nebula_health::{Book, Health, PROBES_AT_ONCE, Parts, Verdicts};
use nebula_telemetry::{Clock, Metrics};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);

/// Reports changes, as the membership does; a forgotten verdict is a change when it is said again.
#[derive(Clone)]
struct Record {
    known: Arc<Mutex<BTreeMap<InstanceId, Verdict>>>,
    changes: mpsc::UnboundedSender<(InstanceId, Verdict)>,
    /// Why each is not ready, as it was said last.
    reasons: Arc<Mutex<BTreeMap<InstanceId, String>>>,
    given_up: mpsc::UnboundedSender<(InstanceId, GivenUpRun)>,
}

impl Verdicts for Record {
    fn publish(&self, instance: InstanceId, health: Verdict, reason: &str) {
        let mut reasons = self.reasons.lock().unwrap();
        reasons.insert(instance, reason.to_owned());
        let before = self.known.lock().unwrap().insert(instance, health);
        if before.unwrap_or(Verdict::Unknown) != health {
            let _ = self.changes.send((instance, health));
        }
    }

    fn give_up(&self, instance: InstanceId, run: GivenUpRun) {
        let _ = self.given_up.send((instance, run));
    }

    fn keep(&self, _: &LocalInstances) {}
}

struct Bench {
    guardian: Guardian,
    child: Child,
    locals: watch::Sender<Arc<LocalInstances>>,
    verdicts: mpsc::UnboundedReceiver<(InstanceId, Verdict)>,
    known: Arc<Mutex<BTreeMap<InstanceId, Verdict>>>,
    reasons: Arc<Mutex<BTreeMap<InstanceId, String>>>,
    given_up: mpsc::UnboundedReceiver<(InstanceId, GivenUpRun)>,
    driver: FakeDriver,
    book: Book,
}

impl Bench {
    fn start() -> Bench {
        let driver = FakeDriver::new(Clock::system());
        let exec = Arc::new(driver.clone());
        Bench::start_with(driver, exec)
    }

    fn start_with(driver: FakeDriver, exec: Arc<dyn Exec>) -> Bench {
        let (locals, seen) = watch::channel(Arc::new(LocalInstances::new()));
        let (changes, verdicts) = mpsc::unbounded_channel();
        let (given_up_tx, given_up) = mpsc::unbounded_channel();
        let record = Record {
            known: Arc::default(),
            changes,
            reasons: Arc::default(),
            given_up: given_up_tx,
        };
        let (known, reasons) = (record.known.clone(), record.reasons.clone());
        let book = Book::default();
        let parts = Parts {
            verdicts: record,
            exec,
            book: book.clone(),
            clock: Clock::system(),
        };
        let metrics = Metrics::new();
        let guardian = Guardian::start(&metrics);
        let child = guardian.supervise("health", move || {
            Health::new(seen.clone(), parts.clone(), &metrics)
        });
        Bench {
            guardian,
            child,
            locals,
            verdicts,
            known,
            reasons,
            given_up,
            driver,
            book,
        }
    }

    /// A new run's phase was published: its health begins as unknown.
    fn forget(&self) {
        self.known.lock().unwrap().clear();
    }

    fn set(&self, locals: impl IntoIterator<Item = (u64, LocalInstance)>) {
        let locals: BTreeMap<_, _> = locals
            .into_iter()
            .map(|(id, local)| (InstanceId(id), local))
            .collect();
        self.locals.send_replace(Arc::new(locals));
    }

    async fn verdict(&mut self) -> (InstanceId, Verdict) {
        timeout(DEADLINE, self.verdicts.recv())
            .await
            .unwrap()
            .unwrap()
    }
}

fn quick(path: &str, failure_threshold: u32) -> ProbeSpec {
    ProbeSpec {
        kind: ProbeKind::http(path),
        period: Duration::from_millis(10),
        timeout: Duration::from_secs(5),
        failure_threshold,
        ..ProbeSpec::default()
    }
}

fn with(address: SocketAddr, run: u64, probes: Probes) -> LocalInstance {
    LocalInstance {
        deployment: "api".parse().unwrap(),
        address,
        probes: Arc::new(probes),
        run,
        started_at: Clock::system().now(),
        surroundings: Arc::default(),
    }
}

fn local(address: SocketAddr, run: u64) -> LocalInstance {
    let probes = Probes {
        readiness: quick("/ready", 2),
        ..Probes::default()
    };
    with(address, run, probes)
}

/// Answers every request with the status that is set; counts the requests.
struct Server {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    asked: Arc<AtomicUsize>,
}

async fn server(status: u16) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server {
        address: listener.local_addr().unwrap(),
        status: Arc::new(AtomicU16::new(status)),
        asked: Arc::default(),
    };
    let (status, asked) = (server.status.clone(), server.asked.clone());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            asked.fetch_add(1, Ordering::SeqCst);
            let status = status.load(Ordering::SeqCst);
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    server
}

#[tokio::test]
async fn follows_the_server_and_starts_over_with_a_new_run() {
    let mut bench = Bench::start();
    let server = server(200).await;
    bench.set([(1, local(server.address, 1))]);
    assert_eq!(bench.verdict().await, (InstanceId(1), Verdict::Healthy));

    // Many more good probes say nothing new.
    let asked = server.asked.load(Ordering::SeqCst);
    timeout(DEADLINE, async {
        while server.asked.load(Ordering::SeqCst) < asked + 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert!(bench.verdicts.try_recv().is_err());

    server.status.store(503, Ordering::SeqCst);
    assert_eq!(bench.verdict().await, (InstanceId(1), Verdict::Unhealthy));
    server.status.store(301, Ordering::SeqCst);
    assert_eq!(bench.verdict().await, (InstanceId(1), Verdict::Healthy));

    // The next run begins from nothing: one failure says nothing yet, and neither do a few.
    server.status.store(503, Ordering::SeqCst);
    let asked = server.asked.load(Ordering::SeqCst);
    bench.set([(1, local(server.address, 2))]);
    bench.forget();
    timeout(DEADLINE, async {
        while server.asked.load(Ordering::SeqCst) < asked + 5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert!(bench.verdicts.try_recv().is_err());
    server.status.store(200, Ordering::SeqCst);
    assert_eq!(bench.verdict().await, (InstanceId(1), Verdict::Healthy));

    // The run is published only after its verdict: said again.
    bench.forget();
    assert_eq!(bench.verdict().await, (InstanceId(1), Verdict::Healthy));
    bench.guardian.stop().await;
}

#[tokio::test]
async fn a_killed_one_probes_again_and_a_vanished_instance_is_left_alone() {
    let mut bench = Bench::start();
    let server = server(200).await;
    bench.set([(1, local(server.address, 1))]);
    bench.verdict().await;
    bench.child.kill();
    timeout(DEADLINE, async {
        while bench.child.restarts() < 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    bench.forget();
    assert_eq!(bench.verdict().await, (InstanceId(1), Verdict::Healthy));

    // A second instance settles after the first vanished; the first is asked no more.
    let other = self::server(200).await;
    bench.set([(2, local(other.address, 1))]);
    assert_eq!(bench.verdict().await, (InstanceId(2), Verdict::Healthy));
    let asked = server.asked.load(Ordering::SeqCst);
    let later = other.asked.load(Ordering::SeqCst) + 10;
    timeout(DEADLINE, async {
        while other.asked.load(Ordering::SeqCst) < later {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    // One may have been on its way when the instance vanished.
    assert!(server.asked.load(Ordering::SeqCst) <= asked + 1);
    bench.guardian.stop().await;
}

#[tokio::test]
async fn probes_at_once_are_bounded_and_hanging_ones_hold_up_nobody_for_good() {
    let mut bench = Bench::start();
    // Accepts and never answers; counts the connections it holds.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let open = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (counted, peak) = (open.clone(), most.clone());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let now = counted.fetch_add(1, Ordering::SeqCst) + 1;
            peak.fetch_max(now, Ordering::SeqCst);
            let counted = counted.clone();
            tokio::spawn(async move {
                let mut sink = Vec::new();
                let _ = stream.read_to_end(&mut sink).await;
                counted.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    let good = server(200).await;
    let mut probes = Probes::clone(&local(address, 1).probes);
    probes.readiness.timeout = Duration::from_millis(100);
    let hanging = with(address, 1, probes);
    let count = PROBES_AT_ONCE as u64 * 2;
    bench.set(
        (1..=count)
            .map(|id| (id, hanging.clone()))
            .chain([(count + 1, local(good.address, 1))]),
    );
    assert_eq!(
        bench.verdict().await,
        (InstanceId(count + 1), Verdict::Healthy)
    );
    // Closed connections may be counted a moment late on the server's side; without the bound all
    // of them would be open at once.
    assert!(most.load(Ordering::SeqCst) < PROBES_AT_ONCE * 2);
    bench.guardian.stop().await;
}

#[tokio::test]
async fn a_startup_probe_goes_first_and_a_liveness_probe_gives_the_run_up() {
    let mut bench = Bench::start();
    // Ready and live from the beginning, and nobody asks before the command has succeeded.
    let server = server(200).await;
    let id = InstanceId(1);
    bench.driver.fail_commands(id, Some("the cache is cold"));
    let command = ProbeKind::Exec {
        command: "warm".to_owned(),
    };
    let startup = ProbeSpec {
        kind: command,
        ..quick("", 1_000)
    };
    let liveness = ProbeSpec {
        period: Duration::from_millis(20),
        ..quick("/live", 3)
    };
    let probes = Probes {
        startup: Some(startup),
        liveness: Some(liveness),
        readiness: quick("/ready", 2),
    };
    bench.set([(1, with(server.address, 7, probes))]);
    let reasons = bench.reasons.clone();
    timeout(DEADLINE, async {
        while !reasons.lock().unwrap().contains_key(&id) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(
        reasons.lock().unwrap()[&id],
        "startup probe: command: the cache is cold"
    );
    assert!(bench.verdicts.try_recv().is_err(), "not known yet");
    assert_eq!(server.asked.load(Ordering::SeqCst), 0);
    let told = bench.book.read([id], false).remove(0);
    let standings: Vec<_> = told.probes.iter().map(|p| (p.role, p.standing)).collect();
    let expected = [
        (ProbeRole::Startup, Standing::Pending),
        (ProbeRole::Readiness, Standing::Waiting),
        (ProbeRole::Liveness, Standing::Waiting),
    ];
    assert_eq!(standings, expected);

    bench.driver.fail_commands(id, None);
    assert_eq!(bench.verdict().await, (id, Verdict::Healthy));
    assert_eq!(bench.driver.commands()[0].command, "warm");

    server.status.store(500, Ordering::SeqCst);
    assert_eq!(bench.verdict().await, (id, Verdict::Unhealthy));
    let given_up = timeout(DEADLINE, bench.given_up.recv()).await.unwrap();
    let run = GivenUpRun {
        run: 7,
        reason: "liveness probe failed: GET /live answered 500".to_owned(),
    };
    assert_eq!(given_up, Some((id, run)));
    let history = bench.book.read([id], true).remove(0).history;
    assert_eq!(
        history.last().map(|c| (c.role, c.standing)),
        Some((ProbeRole::Liveness, Standing::Failing)),
        "{history:?}"
    );
    bench.guardian.stop().await;
    assert!(bench.given_up.try_recv().is_err(), "said once");
}

/// Commands that do not end.
struct Stuck;

#[async_trait::async_trait]
impl Exec for Stuck {
    async fn exec(&self, _: ExecSpec) -> Result<(), DriverError> {
        std::future::pending().await
    }
}

fn patient(kind: ProbeKind) -> Probes {
    Probes {
        readiness: ProbeSpec {
            kind,
            timeout: Duration::from_secs(3600),
            ..quick("", 1)
        },
        ..Probes::default()
    }
}

#[tokio::test]
async fn commands_that_wait_for_their_turn_take_none_of_other_probes() {
    let mut bench = Bench::start_with(FakeDriver::new(Clock::system()), Arc::new(Stuck));
    let server = server(200).await;
    let command = "stuck".to_owned();
    let probes = patient(ProbeKind::Exec { command });
    let count = PROBES_AT_ONCE as u64 + 6;
    let stuck = |id: u64| LocalInstance {
        deployment: format!("d{id}").parse().unwrap(),
        ..with(server.address, 1, probes.clone())
    };
    let all = (1..=count).map(|id| (id, stuck(id)));
    bench.set(all.chain([(count + 1, local(server.address, 1))]));
    let good = (InstanceId(count + 1), Verdict::Healthy);
    assert_eq!(bench.verdict().await, good);
    bench.guardian.stop().await;
}

#[tokio::test]
async fn probes_of_one_deployment_that_hang_hold_up_no_other() {
    let mut bench = Bench::start();
    // Accepts and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let hangs = patient(ProbeKind::http("/"));
    let count = PROBES_AT_ONCE as u64 + 6;
    let server = server(200).await;
    let good = LocalInstance {
        deployment: "other".parse().unwrap(),
        ..local(server.address, 1)
    };
    let hanging = (1..=count).map(|id| (id, with(address, 1, hangs.clone())));
    bench.set(hanging.chain([(count + 1, good)]));
    let good = (InstanceId(count + 1), Verdict::Healthy);
    assert_eq!(bench.verdict().await, good);
    bench.guardian.stop().await;
    drop(listener);
}
