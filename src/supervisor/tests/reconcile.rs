//! The supervisor as a node runs it: under its guardian, between the registry's state and a driver.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;

use common::{ONE, PATIENCE, STOP_GRACE, TWO, node, service, site};
use nebula_domain::observed::{Health, Phase};
use nebula_domain::port::FixedPort;
use nebula_domain::spec::{Service, Workload};
use nebula_domain::time::Millis;
use nebula_domain::{DeploymentName, Digest, InstanceId};
use nebula_drivers::{Driver as _, Exit};
use nebula_supervisor::Supplies;

#[tokio::test]
async fn an_assigned_service_is_started_and_made_known() {
    let node = node().await;
    node.assign(ONE, "api", service());
    let facts = node.phase(ONE, Phase::Running).await;
    assert_eq!((facts.health, facts.restarts), (Health::Unknown, 0));
    let starts = node.driver.starts();
    assert_eq!(starts.len(), 1);
    assert_eq!((starts[0].run, starts[0].node.as_str()), (1, "a"));
    assert!(starts[0].workdir.join("index.html").exists());

    let mut locals = node.locals.clone();
    let found = tokio::time::timeout(PATIENCE, locals.wait_for(|l| l.contains_key(&ONE)));
    let local = found.await.unwrap().unwrap()[&ONE].clone();
    assert_eq!((Some(local.address.port()), local.run), (starts[0].port, 1));
    assert!(local.address.ip().is_loopback());
}

#[tokio::test]
async fn a_program_that_ends_comes_back_on_its_port() {
    let node = node().await;
    node.assign(ONE, "api", service());
    node.phase(ONE, Phase::Running).await;
    node.driver.exit(ONE, Exit::Signal(9));
    let facts = node
        .facts(ONE, |f| f.restarts == 1 && f.phase == Phase::Running)
        .await;
    assert_eq!(facts.reason, "killed by SIGKILL");
    let starts = node.driver.starts();
    assert_eq!((starts.len(), starts[1].run), (2, 2));
    assert_eq!(starts[0].port, starts[1].port);
    let notes = node.driver.notes();
    let told = |(id, text): &(_, String)| *id == ONE && text.contains("starting again in");
    assert!(notes.iter().any(told), "{notes:?}");
}

#[tokio::test]
async fn a_program_with_a_port_of_its_own_waits_until_it_is_free() {
    let node = node().await;
    let (busy, port) = own_port();
    let Workload::Service(service) = service() else {
        unreachable!("it is a service");
    };
    let port = Some(FixedPort::try_from(u32::from(port)).unwrap());
    node.assign(ONE, "api", Workload::Service(Service { port, ..service }));
    let facts = node.facts(ONE, |facts| !facts.reason.is_empty()).await;
    assert!(
        facts
            .reason
            .contains("is in use by another program on this machine"),
        "{}",
        facts.reason
    );
    assert!(node.driver.starts().is_empty());
    drop(busy);
    node.phase(ONE, Phase::Running).await;
    assert_eq!(node.driver.starts()[0].port, port.map(FixedPort::get));
}

/// A listener on a port that a deployment may ask for.
fn own_port() -> (TcpListener, u16) {
    let bind = |port| TcpListener::bind(("127.0.0.1", port)).ok();
    let found = (40_000..50_000).find_map(|port| Some((bind(port)?, port)));
    found.unwrap()
}

#[tokio::test]
async fn a_run_that_its_probes_gave_up_is_ended_and_started_again() {
    let node = node().await;
    node.assign(ONE, "api", service());
    node.phase(ONE, Phase::Running).await;
    node.give_up(ONE, 7, "of another run");
    node.driver.ignore_stops(ONE);
    node.give_up(ONE, 1, "liveness probe failed: GET /live answered 500");
    // It is spoken of as ended before it has ended, so that nobody chooses it.
    let facts = node.phase(ONE, Phase::Backoff).await;
    assert_eq!(
        facts.reason,
        "liveness probe failed: GET /live answered 500"
    );
    assert_eq!(node.driver.stops(), [(ONE, STOP_GRACE)]);
    assert_eq!(node.driver.starts().len(), 1);
    node.driver.exit(ONE, Exit::Signal(9));
    let facts = node
        .facts(ONE, |f| f.restarts == 1 && f.phase == Phase::Running)
        .await;
    assert_eq!(
        facts.reason,
        "liveness probe failed: GET /live answered 500"
    );
    assert_eq!(node.driver.starts()[1].run, 2);
    let notes = node.driver.notes();
    let told = |(_, text): &&(_, String)| text.starts_with("liveness probe failed");
    assert_eq!(notes.iter().filter(told).count(), 2, "{notes:?}");
    assert_eq!(node.driver.stops().len(), 1, "the new run is left alone");
}

#[tokio::test]
async fn a_stop_waits_for_the_proxies() {
    let node = node().await;
    node.assign(ONE, "api", service());
    node.phase(ONE, Phase::Running).await;
    node.unassign(ONE);
    node.phase(ONE, Phase::Stopping).await;
    assert!(node.is_local(ONE), "served until every proxy has let go");
    assert!(node.driver.stops().is_empty());
    node.acknowledge();
    node.phase(ONE, Phase::Stopped).await;
    assert_eq!(node.driver.stops(), [(ONE, STOP_GRACE)]);
    assert!(!node.is_local(ONE));
    // Once the registry has dropped it, nobody speaks of it any more.
    node.apply(|state| {
        state.instances.remove(&ONE);
    });
    let mut view = node.membership.view();
    let gone = view.wait_for(|view| view.instance(common::ME, ONE).is_none());
    tokio::time::timeout(PATIENCE, gone).await.unwrap().unwrap();
}

#[tokio::test]
async fn proxies_that_stay_silent_do_not_hold_a_stop_for_ever() {
    let node = node().await;
    node.assign(ONE, "api", service());
    node.phase(ONE, Phase::Running).await;
    node.unassign(ONE);
    node.phase(ONE, Phase::Stopped).await;
}

#[tokio::test]
async fn an_instance_that_ends_slowly_holds_up_no_other() {
    let node = node().await;
    node.driver.ignore_stops(ONE);
    node.assign(ONE, "api", service());
    node.phase(ONE, Phase::Running).await;
    node.unassign(ONE);
    node.acknowledge();
    let mut runs = node.driver.runs();
    node.assign(TWO, "web", service());
    node.phase(TWO, Phase::Running).await;
    assert!(runs.borrow_and_update()[&ONE].is_running());
    node.phase(ONE, Phase::Stopping).await;
    node.driver.exit(ONE, Exit::Signal(9));
    node.phase(ONE, Phase::Stopped).await;
}

#[tokio::test]
async fn a_killed_supervisor_restarts_no_program() {
    let node = node().await;
    node.assign(ONE, "api", service());
    node.phase(ONE, Phase::Running).await;
    node.child.kill();
    // Assigned to the next incarnation: when it runs, the one after the kill has passed.
    node.assign(TWO, "web", service());
    node.phase(TWO, Phase::Running).await;
    node.phase(ONE, Phase::Running).await;
    let of_one = node
        .driver
        .starts()
        .into_iter()
        .filter(|s| s.instance == ONE);
    assert_eq!(of_one.count(), 1);
    assert!(node.driver.stops().is_empty());
    // And it still looks after it.
    node.driver.exit(ONE, Exit::Code(1));
    node.facts(ONE, |f| f.restarts == 1 && f.phase == Phase::Running)
        .await;
    assert_eq!(node.child.restarts(), 1);
}

#[tokio::test]
async fn a_site_is_healthy_once_its_files_are_here() {
    let node = node().await;
    node.assign(ONE, "site", site());
    node.facts(ONE, |f| f.is_ready()).await;
    assert!(node.driver.starts().is_empty() && !node.is_local(ONE));
}

#[tokio::test]
async fn an_artifact_that_nobody_has_is_said_to_be_the_reason() {
    let node = node().await;
    node.assign_with(ONE, "api", service(), Digest([7; 32]));
    let facts = node.facts(ONE, |f| !f.reason.is_empty()).await;
    assert!(facts.reason.contains("artifact"), "{}", facts.reason);
    assert!(node.driver.starts().is_empty());
}

#[tokio::test]
async fn a_driver_that_cannot_start_is_said_to_be_the_reason() {
    let node = node().await;
    node.driver.fail_starts(ONE, Some("no space on the disk"));
    node.assign(ONE, "api", service());
    let facts = node.facts(ONE, |f| !f.reason.is_empty()).await;
    assert!(facts.reason.contains("no space on the disk"), "{facts:?}");
    node.driver.fail_starts(ONE, None);
    node.phase(ONE, Phase::Running).await;
}

#[tokio::test]
async fn files_that_are_deleted_come_back() {
    let node = node().await;
    node.assign(ONE, "site", site());
    node.facts(ONE, |f| f.is_ready()).await;
    let page = node.stored(&format!("trees/{}/index.html", node.artifact));
    std::fs::remove_file(&page).unwrap();
    node.until("the page is back", || page.exists()).await;
    node.facts(ONE, |f| f.is_ready()).await;
    std::fs::remove_dir_all(page.parent().unwrap()).unwrap();
    node.until("the whole site is back", || page.exists()).await;
    node.facts(ONE, |f| f.is_ready()).await;
}

#[tokio::test]
async fn a_site_whose_files_nobody_has_any_more_is_not_healthy() {
    let node = node().await;
    node.assign(ONE, "site", site());
    node.facts(ONE, |f| f.is_ready()).await;
    std::fs::remove_file(node.stored(&format!("blobs/{}.tar", node.artifact))).unwrap();
    std::fs::remove_dir_all(node.stored(&format!("trees/{}", node.artifact))).unwrap();
    let facts = node.facts(ONE, |f| f.health == Health::Unhealthy).await;
    assert!(!facts.is_ready() && !facts.reason.is_empty(), "{facts:?}");
}

#[tokio::test]
async fn an_orderly_end_stops_everything() {
    let node = node().await;
    node.assign(ONE, "api", service());
    node.assign(TWO, "web", service());
    for instance in [ONE, TWO] {
        let facts = node.phase(instance, Phase::Running).await;
        assert_eq!(facts.restarts, 0);
    }
    node.guardian.stop().await;
    assert_eq!(node.handle.stop_all(Millis(100).since(Millis(0))).await, 0);
    assert_eq!(node.driver.stops().len(), 2);
}

/// Gives nobody secrets until it is told to.
struct SilentVoters(tokio::sync::watch::Receiver<bool>);

#[async_trait::async_trait]
impl Supplies for SilentVoters {
    async fn port(&self, to: &DeploymentName) -> Result<u16, String> {
        Err(format!("no way to '{to}'"))
    }

    async fn secrets(&self, _: InstanceId) -> Result<BTreeMap<String, String>, String> {
        let mut speaks = self.0.clone();
        let told = speaks.wait_for(|speaks| *speaks).await;
        told.map_err(|error| error.to_string())?;
        Ok([("KEY".to_owned(), "hush".to_owned())].into())
    }
}

#[tokio::test]
async fn what_waits_for_secrets_holds_up_no_other() {
    let speaks = tokio::sync::watch::Sender::new(false);
    let node = common::supplied(Arc::new(SilentVoters(speaks.subscribe()))).await;
    let Workload::Service(mut secretive) = service() else {
        panic!("a service");
    };
    secretive.secrets = [("KEY".to_owned(), "key".parse().unwrap())].into();
    // More than start at once.
    for number in 10..30 {
        let name = format!("secretive-{number}");
        let workload = Workload::Service(secretive.clone());
        node.assign(InstanceId(number), &name, workload);
    }
    node.assign(ONE, "web", service());
    node.phase(ONE, Phase::Running).await;
    assert_eq!(node.driver.starts().len(), 1);

    speaks.send_replace(true);
    for number in 10..30 {
        node.phase(InstanceId(number), Phase::Running).await;
    }
    let starts = node.driver.starts();
    assert!(starts[1..].iter().all(|s| s.secrets.0["KEY"] == "hush"));
}
