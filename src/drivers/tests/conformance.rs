//! What every driver does, checked for each kind with the same tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Folder, ONE, PATIENCE, eventually, exit_of, run_of, spec};
use nebula_drivers::fake::FakeDriver;
use nebula_drivers::{Driver, DriverError, Exit, RunStatus, StartSpec};
use nebula_telemetry::Clock;

/// One kind of driver, and how its programs are made to end by themselves.
trait Kind {
    fn driver(&self) -> &dyn Driver;
    /// A program that ends when [`Kind::end`] says so, and on SIGTERM unless it is `stubborn`.
    fn program(&self, instance: u64, stubborn: bool) -> StartSpec;
    /// The program has come to the point where it minds SIGTERM, or does not.
    fn is_ready(&self, instance: u64) -> bool;
    fn end(&self, instance: u64, code: i32);
    /// The grace of a stubborn program is over. Real ones notice by themselves.
    fn end_of_grace(&self, instance: u64);
}

struct Fake(FakeDriver);

impl Kind for Fake {
    fn driver(&self) -> &dyn Driver {
        &self.0
    }
    fn program(&self, instance: u64, stubborn: bool) -> StartSpec {
        if stubborn {
            self.0.ignore_stops(id(instance));
        }
        spec(id(instance), "", "/".as_ref())
    }
    fn is_ready(&self, _: u64) -> bool {
        true
    }
    fn end(&self, instance: u64, code: i32) {
        self.0.exit(id(instance), Exit::Code(code));
    }
    fn end_of_grace(&self, instance: u64) {
        self.0.exit(id(instance), Exit::Signal(9));
    }
}

struct Real(Folder, nebula_drivers::process::ProcessDriver);

impl Kind for Real {
    fn driver(&self) -> &dyn Driver {
        &self.1
    }
    fn program(&self, instance: u64, stubborn: bool) -> StartSpec {
        let trap = if stubborn { "trap '' TERM;" } else { "" };
        let wait = format!(
            "{trap} echo $$ > pid-{instance}; while [ ! -s end-{instance} ]; do sleep 0.02; done; exit $(cat end-{instance})"
        );
        self.0.spec(id(instance), &wait)
    }
    fn is_ready(&self, instance: u64) -> bool {
        let path = self.0.root.path().join(format!("pid-{instance}"));
        path.exists()
    }
    fn end(&self, instance: u64, code: i32) {
        let path = self.0.root.path().join(format!("end-{instance}"));
        std::fs::write(path, code.to_string()).unwrap();
    }
    fn end_of_grace(&self, _: u64) {}
}

fn id(n: u64) -> nebula_domain::InstanceId {
    nebula_domain::InstanceId(n)
}

async fn conforms(kind: impl Kind) {
    let driver = kind.driver();
    starts_once_and_shows_it(&kind).await;
    ends_by_itself_and_starts_again(&kind).await;
    stops(&kind).await;
    kills_after_the_grace(&kind).await;

    // Nothing is wrong with what is not there.
    driver.stop(id(99), Duration::ZERO).await.unwrap();
    driver.remove(id(99)).await.unwrap();
    driver.note(id(99), "nobody listens");
    assert!(driver.runs().borrow().is_empty());
}

async fn starts_once_and_shows_it(kind: &impl Kind) {
    let driver = kind.driver();
    assert!(driver.runs().borrow().is_empty());
    driver.start(kind.program(1, false)).await.unwrap();
    let run = run_of(driver, ONE).unwrap();
    assert_eq!(run.status, RunStatus::Running);
    assert_eq!((run.run, run.port, run.release.0), (1, Some(20_001), 3));
    assert_eq!(run.deployment.as_str(), "api");

    let again = driver.start(kind.program(1, false)).await;
    assert!(matches!(again, Err(DriverError::AlreadyRuns(ONE))));
    let removed = driver.remove(ONE).await;
    assert!(matches!(removed, Err(DriverError::AlreadyRuns(ONE))));
}

async fn ends_by_itself_and_starts_again(kind: &impl Kind) {
    let driver = kind.driver();
    kind.end(1, 7);
    assert_eq!(exit_of(driver, ONE).await, Exit::Code(7));
    let next = StartSpec {
        run: 2,
        ..kind.program(2, false)
    };
    driver.start(next).await.unwrap();
    assert_eq!(run_of(driver, id(2)).unwrap().run, 2);
    // The ended one is remembered until it is removed.
    assert_eq!(exit_of(driver, ONE).await, Exit::Code(7));
    driver.remove(ONE).await.unwrap();
    assert!(run_of(driver, ONE).is_none());
}

async fn stops(kind: &impl Kind) {
    let driver = kind.driver();
    driver.stop(id(2), PATIENCE).await.unwrap();
    assert_eq!(exit_of(driver, id(2)).await, Exit::Signal(15));
    driver.stop(id(2), PATIENCE).await.unwrap();
    driver.remove(id(2)).await.unwrap();
}

async fn kills_after_the_grace(kind: &impl Kind) {
    let driver = kind.driver();
    driver.start(kind.program(3, true)).await.unwrap();
    eventually("the program ignores SIGTERM", || {
        kind.is_ready(3).then_some(())
    })
    .await;
    driver.stop(id(3), PATIENCE * 100).await.unwrap();
    // Asked again, the shorter grace counts.
    driver
        .stop(id(3), Duration::from_millis(100))
        .await
        .unwrap();
    kind.end_of_grace(3);
    assert_eq!(exit_of(driver, id(3)).await, Exit::Signal(9));
    driver.remove(id(3)).await.unwrap();
}

#[tokio::test]
async fn the_fake_driver_conforms() {
    conforms(Fake(FakeDriver::new(Clock::system()))).await;
}

#[tokio::test]
async fn the_process_driver_conforms() {
    let folder = Folder::new();
    let driver = folder.open();
    conforms(Real(folder, driver)).await;
}
