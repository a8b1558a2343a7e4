//! What the instances of this node use, and how their programs end: measured for people and for metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nebula_actors::{BoxError, Reconciler};
use nebula_domain::InstanceId;
use nebula_drivers::{Driver, Exit, Run, RunStatus, Runs};
use nebula_health::Usages;
use nebula_telemetry::{Counter, Family, Gauge, Metrics};
use nebula_wire::peer::health::Usage;
use tokio::sync::watch;
use tokio::time::Instant;

/// Between two measurements: a node full of instances reads some hundred small files for each.
const PERIOD: Duration = Duration::from_secs(5);
/// Instances with series of their own, those with the lowest numbers; the totals count all.
pub(crate) const METERED_SERIES: usize = 100;

type OfInstance = [(&'static str, String); 2];
type OfHow = [(&'static str, String); 1];

pub(crate) struct Meter {
    driver: Arc<dyn Driver>,
    runs: watch::Receiver<Arc<Runs>>,
    usages: Usages,
    metrics: MeterMetrics,
    /// Processor time at the latest measurement of each run.
    before: BTreeMap<InstanceId, Sample>,
    /// The latest run of each instance, and whether its end was counted.
    counted: Option<BTreeMap<InstanceId, (u64, bool)>>,
    next: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Sample {
    run: u64,
    at: Instant,
    cpu: Duration,
}

impl Meter {
    pub(crate) fn new(driver: Arc<dyn Driver>, usages: Usages, metrics: &Metrics) -> Meter {
        Meter {
            runs: driver.runs(),
            driver,
            usages,
            metrics: MeterMetrics::new(metrics),
            before: BTreeMap::new(),
            counted: None,
            next: None,
        }
    }

    /// Ends and starts since the last look. What ended before the first one was counted by an earlier daemon.
    fn count(&mut self, runs: &Runs) {
        let now = runs
            .iter()
            .map(|(id, run)| (*id, (run.run, !run.is_running())));
        let now: BTreeMap<InstanceId, (u64, bool)> = now.collect();
        if let Some(before) = self.counted.replace(now) {
            for (id, run) in runs {
                let known = before.get(id);
                if known.is_some_and(|(number, _)| *number < run.run) {
                    self.metrics.restarts.inc();
                }
                if let RunStatus::Ended { exit, .. } = run.status
                    && known != Some(&(run.run, true))
                {
                    let how = [("how", how(exit).to_owned())];
                    self.metrics.ends.get_or_create(&how).inc();
                }
            }
        }
    }

    /// Thousandths of a core since the last measurement.
    fn rate(
        &mut self,
        id: InstanceId,
        run: u64,
        cpu: Option<Duration>,
        at: Instant,
    ) -> Option<u64> {
        let sample = Sample { run, at, cpu: cpu? };
        let before = self.before.insert(id, sample);
        let before = before.filter(|before| before.run == run && before.at < at)?;
        let used = sample.cpu.saturating_sub(before.cpu).as_micros();
        let millis = used * 1000 / (at - before.at).as_micros().max(1);
        u64::try_from(millis).ok()
    }
}

#[async_trait::async_trait]
impl Reconciler for Meter {
    async fn wake(&mut self) {
        let Some(next) = self.next else {
            return;
        };
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            changed = self.runs.changed() => {
                if changed.is_err() {
                    // The node is stopping.
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    async fn pass(&mut self) -> Result<(), BoxError> {
        let runs = self.runs.borrow_and_update().clone();
        self.count(&runs);
        let at = Instant::now();
        if self.next.is_some_and(|next| at < next) {
            return Ok(());
        }
        self.next = Some(at + PERIOD);
        let running: Vec<InstanceId> = runs
            .iter()
            .filter(|(_, run)| run.is_running())
            .map(|(id, _)| *id)
            .collect();
        self.before
            .retain(|id, _| runs.get(id).is_some_and(Run::is_running));
        if running.is_empty() {
            self.usages.replace(BTreeMap::new());
            self.metrics.clear();
            return Ok(());
        }
        let driver = self.driver.clone();
        let measured = tokio::task::spawn_blocking(move || {
            let measured = running.into_iter().map(|id| (id, driver.usage(id)));
            measured.collect::<Vec<_>>()
        });
        let mut usages = BTreeMap::new();
        for (id, usage) in measured.await? {
            let (Some(usage), Some(run)) = (usage, runs.get(&id)) else {
                continue;
            };
            let cpu_millis = self.rate(id, run.run, usage.cpu, at);
            let usage = Usage {
                memory_bytes: usage.memory_bytes,
                cpu_millis,
                pids: usage.pids,
                memory_kills: usage.memory_kills,
            };
            usages.insert(id, usage);
        }
        self.metrics.set(&runs, &usages);
        self.usages.replace(usages);
        Ok(())
    }
}

fn how(exit: Exit) -> &'static str {
    match exit {
        Exit::Code(0) => "success",
        Exit::Code(_) => "failure",
        Exit::Signal(_) => "signal",
        Exit::OutOfMemory { .. } => "out_of_memory",
        Exit::OutOfDisk { .. } => "out_of_disk",
        Exit::Unseen => "unseen",
        Exit::Reboot => "reboot",
        Exit::Unheard => "unheard",
    }
}

struct MeterMetrics {
    memory: Family<OfInstance, Gauge>,
    cpu: Family<OfInstance, Gauge>,
    pids: Family<OfInstance, Gauge>,
    restarts_of: Family<OfInstance, Gauge>,
    memory_all: Gauge,
    ends: Family<OfHow, Counter>,
    restarts: Counter,
}

impl MeterMetrics {
    fn new(metrics: &Metrics) -> MeterMetrics {
        MeterMetrics {
            memory: metrics.gauges(
                "instance_memory_bytes",
                "Memory that an instance of this node uses, its page cache included (the first 100)",
            ),
            cpu: metrics.gauges(
                "instance_cpu_millis",
                "Thousandths of a core that an instance of this node used lately (the first 100)",
            ),
            pids: metrics.gauges(
                "instance_pids",
                "Processes and threads of an instance of this node (the first 100)",
            ),
            restarts_of: metrics.gauges(
                "instance_restarts",
                "Times that the program of an instance of this node was started again (the first 100)",
            ),
            memory_all: metrics.gauge(
                "instances_memory_bytes",
                "Memory that all instances of this node use",
            ),
            ends: metrics.counters(
                "instance_ends",
                "Programs of this node's instances that ended, by how; those that were told to are among them",
            ),
            restarts: metrics.counter(
                "instance_restarts_all",
                "Programs of this node's instances that were started again",
            ),
        }
    }

    fn clear(&self) {
        for family in [&self.memory, &self.cpu, &self.pids, &self.restarts_of] {
            family.clear();
        }
        self.memory_all.set(0);
    }

    fn set(&self, runs: &Runs, usages: &BTreeMap<InstanceId, Usage>) {
        self.clear();
        let gauge =
            |family: &Family<OfInstance, Gauge>, labels: &OfInstance, value: Option<u64>| {
                if let Some(value) = value {
                    let value = i64::try_from(value).unwrap_or(i64::MAX);
                    family.get_or_create(labels).set(value);
                }
            };
        for (id, usage) in usages.iter().take(METERED_SERIES) {
            let Some(run) = runs.get(id) else { continue };
            let labels = [
                ("deployment", run.deployment.to_string()),
                ("instance", id.to_string()),
            ];
            gauge(&self.memory, &labels, usage.memory_bytes);
            gauge(&self.cpu, &labels, usage.cpu_millis);
            gauge(&self.pids, &labels, usage.pids);
            gauge(&self.restarts_of, &labels, Some(run.run.saturating_sub(1)));
        }
        let all: u64 = usages.values().filter_map(|usage| usage.memory_bytes).sum();
        self.memory_all.set(i64::try_from(all).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use nebula_drivers::fake::FakeDriver;

    use super::*;

    fn meter(metrics: &Metrics) -> Meter {
        Meter::new(
            Arc::new(FakeDriver::new(nebula_telemetry::Clock::system())),
            Usages::default(),
            metrics,
        )
    }

    fn run(number: u64, status: RunStatus) -> Run {
        Run {
            run: number,
            deployment: "api".parse().unwrap(),
            release: nebula_domain::ReleaseNumber(1),
            port: Some(1),
            started_at: nebula_domain::time::Millis(0),
            status,
            isolation: Default::default(),
        }
    }

    fn ended(exit: Exit) -> RunStatus {
        RunStatus::Ended {
            exit,
            at: nebula_domain::time::Millis(1),
        }
    }

    #[tokio::test]
    async fn each_end_and_each_start_again_is_counted_once() {
        let metrics = Metrics::new();
        let mut meter = meter(&metrics);
        let runs = |number, status| Runs::from([(InstanceId(1), run(number, status))]);
        let oom = Exit::OutOfMemory { limit: None };
        // Before this daemon.
        meter.count(&runs(1, ended(Exit::Code(1))));
        meter.count(&runs(2, RunStatus::Running));
        for _ in 0..3 {
            meter.count(&runs(2, ended(oom)));
        }
        meter.count(&runs(3, RunStatus::Running));
        meter.count(&runs(3, ended(Exit::Code(0))));
        let text = metrics.encode();
        assert!(
            text.contains("instance_ends_total{how=\"out_of_memory\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("instance_ends_total{how=\"success\"} 1"),
            "{text}"
        );
        assert!(!text.contains("how=\"failure\""), "{text}");
        assert!(text.contains("instance_restarts_all_total 2"), "{text}");
    }

    #[tokio::test]
    async fn series_are_bounded_and_go_with_their_instances() {
        let metrics = Metrics::new();
        let meter = meter(&metrics);
        let all: Runs = (0..2 * METERED_SERIES as u64)
            .map(|n| (InstanceId(n), run(1, RunStatus::Running)))
            .collect();
        let usage = Usage {
            memory_bytes: Some(10),
            ..Usage::default()
        };
        let usages = all.keys().map(|id| (*id, usage)).collect();
        meter.metrics.set(&all, &usages);
        let count = |text: &str| text.matches("instance_memory_bytes{").count();
        assert_eq!(count(&metrics.encode()), METERED_SERIES);
        let all_bytes = 2 * METERED_SERIES * 10;
        let total = format!("nebula_instances_memory_bytes {all_bytes}");
        assert!(metrics.encode().contains(&total));
        meter.metrics.clear();
        assert_eq!(count(&metrics.encode()), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn processor_time_is_told_as_a_rate_of_one_run() {
        let mut meter = meter(&Metrics::new());
        let (id, begun) = (InstanceId(1), Instant::now());
        let cpu = |millis| Some(Duration::from_millis(millis));
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(
            meter.rate(id, 1, cpu(500), at(0)),
            None,
            "nothing to compare with"
        );
        assert_eq!(meter.rate(id, 1, cpu(3000), at(5)), Some(500));
        assert_eq!(meter.rate(id, 2, cpu(10), at(10)), None, "another run");
        assert_eq!(meter.rate(id, 2, None, at(15)), None);
    }
}
