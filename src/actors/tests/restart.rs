//! A reconciler that errs, panics or is killed runs again; its sibling notices nothing.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nebula_actors::{BACKOFF_FIRST, BACKOFF_MAX, BoxError, CALM, Child, Guardian, Reconciler};
use nebula_telemetry::Metrics;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout};

/// Far beyond any pause of these tests; the clock is paused, so it costs nothing.
const DEADLINE: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Pass,
    Fail,
    Panic,
    Hang,
}

/// Does what it is ordered; each made one and each pass is reported with the time.
struct Puppet {
    orders: watch::Receiver<(u64, Order)>,
    reports: mpsc::UnboundedSender<Report>,
    _alive: Arc<()>,
}

#[derive(Debug, PartialEq)]
enum Report {
    Made(Instant),
    Passed,
}

#[async_trait]
impl Reconciler for Puppet {
    async fn wake(&mut self) {
        if self.orders.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        let order = self.orders.borrow_and_update().1;
        match order {
            Order::Pass => {
                let _ = self.reports.send(Report::Passed);
                Ok(())
            }
            Order::Fail => Err("ordered to fail".into()),
            Order::Panic => panic!("ordered to panic"),
            Order::Hang => {
                let _ = self.reports.send(Report::Passed);
                std::future::pending().await
            }
        }
    }
}

struct Hand {
    orders: watch::Sender<(u64, Order)>,
    reports: mpsc::UnboundedReceiver<Report>,
    alive: Arc<()>,
    child: Child,
}

impl Hand {
    fn supervise(guardian: &Guardian, name: &'static str) -> Hand {
        let (orders, seen) = watch::channel((0, Order::Pass));
        let (report, reports) = mpsc::unbounded_channel();
        let alive = Arc::new(());
        let held = alive.clone();
        let child = guardian.supervise(name, move || {
            let _ = report.send(Report::Made(Instant::now()));
            let mut orders = seen.clone();
            orders.mark_unchanged();
            Puppet {
                orders,
                reports: report.clone(),
                _alive: held.clone(),
            }
        });
        Hand {
            orders,
            reports,
            alive,
            child,
        }
    }

    fn order(&self, order: Order) {
        self.orders
            .send_modify(|(count, current)| (*count, *current) = (*count + 1, order));
    }

    async fn report(&mut self) -> Report {
        timeout(DEADLINE, self.reports.recv())
            .await
            .unwrap()
            .unwrap()
    }

    async fn made(&mut self) -> Instant {
        match self.report().await {
            Report::Made(at) => at,
            other => panic!("expected a new reconciler, got {other:?}"),
        }
    }

    async fn passes(&mut self) {
        self.order(Order::Pass);
        assert_eq!(self.report().await, Report::Passed);
    }
}

#[tokio::test(start_paused = true)]
async fn error_panic_and_kill_each_lead_to_a_new_one_and_leave_the_sibling_alone() {
    let metrics = Metrics::new();
    let guardian = Guardian::start(&metrics);
    let mut victim = Hand::supervise(&guardian, "victim");
    let mut sibling = Hand::supervise(&guardian, "sibling");
    victim.made().await;
    sibling.made().await;
    sibling.passes().await;

    for (restarts, fault) in [Order::Fail, Order::Panic].into_iter().enumerate() {
        victim.order(fault);
        victim.made().await;
        victim.passes().await;
        assert_eq!(victim.child.restarts(), restarts as u64 + 1);
    }
    // Killed while it waits.
    victim.child.kill();
    victim.made().await;
    victim.passes().await;
    // Killed in the middle of a pass that would never end.
    victim.order(Order::Hang);
    assert_eq!(victim.report().await, Report::Passed);
    victim.child.kill();
    victim.made().await;
    victim.passes().await;
    assert_eq!(victim.child.restarts(), 4);

    sibling.passes().await;
    assert_eq!(sibling.child.restarts(), 0);
    assert!(sibling.reports.try_recv().is_err());
    let text = metrics.encode();
    assert!(
        text.contains("nebula_reconciler_restarts_total{reconciler=\"victim\"} 4"),
        "{text}"
    );
    guardian.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_pause_doubles_to_its_maximum_and_is_short_again_after_calm() {
    let guardian = Guardian::start(&Metrics::new());
    let mut hand = Hand::supervise(&guardian, "victim");
    hand.made().await;
    let mut expected = BACKOFF_FIRST;
    for _ in 0..9 {
        let failed = Instant::now();
        hand.order(Order::Fail);
        let pause = hand.made().await - failed;
        // tokio's timer rounds up to the millisecond.
        assert!(
            pause >= expected && pause <= expected + Duration::from_millis(2),
            "{pause:?} instead of {expected:?}"
        );
        expected = (expected * 2).min(BACKOFF_MAX);
    }
    tokio::time::advance(CALM).await;
    let failed = Instant::now();
    hand.order(Order::Panic);
    assert!(hand.made().await - failed <= BACKOFF_FIRST + Duration::from_millis(2));
    guardian.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_factory_that_panics_is_tried_again() {
    let guardian = Guardian::start(&Metrics::new());
    let mut attempts = 0;
    let (made, mut seen) = mpsc::unbounded_channel();
    let child = guardian.supervise("unready", move || {
        attempts += 1;
        assert!(attempts > 2, "not yet");
        let _ = made.send(());
        let (report, _) = mpsc::unbounded_channel();
        Puppet {
            orders: watch::channel((0, Order::Pass)).1,
            reports: report,
            _alive: Arc::new(()),
        }
    });
    timeout(DEADLINE, seen.recv()).await.unwrap().unwrap();
    assert_eq!(child.restarts(), 2);
    guardian.stop().await;
}

#[tokio::test(start_paused = true)]
async fn stop_ends_all_waits_for_a_pass_and_starts_nothing_again() {
    let guardian = Guardian::start(&Metrics::new());
    let mut waiting = Hand::supervise(&guardian, "waiting");
    let mut hanging = Hand::supervise(&guardian, "hanging");
    let mut failing = Hand::supervise(&guardian, "failing");
    waiting.made().await;
    hanging.made().await;
    failing.made().await;
    failing.order(Order::Fail);
    hanging.order(Order::Hang);
    assert_eq!(hanging.report().await, Report::Passed);

    timeout(DEADLINE, guardian.stop()).await.unwrap();
    for hand in [&mut waiting, &mut hanging, &mut failing] {
        assert!(hand.reports.try_recv().is_err(), "made anew after the stop");
        // One is ours; the other is in the factory, if that still exists.
        assert!(Arc::strong_count(&hand.alive) <= 2, "still holds its state");
    }
    // Nothing starts afterwards, and a second stop returns at once.
    let mut late = Hand::supervise(&guardian, "late");
    timeout(DEADLINE, guardian.stop()).await.unwrap();
    assert!(late.reports.recv().await.is_none());
}

struct Slow {
    begun: Arc<Notify>,
    done: Arc<Notify>,
    finished: mpsc::UnboundedSender<()>,
}

#[async_trait]
impl Reconciler for Slow {
    async fn wake(&mut self) {}

    async fn pass(&mut self) -> Result<(), BoxError> {
        self.begun.notify_one();
        self.done.notified().await;
        let _ = self.finished.send(());
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn stop_lets_a_pass_under_way_finish() {
    let guardian = Guardian::start(&Metrics::new());
    let (begun, done) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (finished, mut seen) = mpsc::unbounded_channel();
    let (b, d) = (begun.clone(), done.clone());
    guardian.supervise("slow", move || Slow {
        begun: b.clone(),
        done: d.clone(),
        finished: finished.clone(),
    });
    begun.notified().await;
    let stop = tokio::spawn({
        let guardian = guardian.clone();
        async move { guardian.stop().await }
    });
    tokio::task::yield_now().await;
    assert!(!stop.is_finished());
    done.notify_one();
    timeout(DEADLINE, stop).await.unwrap().unwrap();
    assert_eq!(seen.recv().await, Some(()));
    assert_eq!(seen.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_its_reconcilers() {
    let guardian = Guardian::start(&Metrics::new());
    let mut hand = Hand::supervise(&guardian, "orphan");
    hand.made().await;
    drop(guardian);
    assert_eq!(
        timeout(DEADLINE, hand.reports.recv()).await.unwrap(),
        None,
        "the factory and its reconciler are gone"
    );
}
