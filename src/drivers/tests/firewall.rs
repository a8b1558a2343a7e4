//! Network rules: what an instance reaches on this machine, and what becomes of it where there are none.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::{TcpListener, UdpSocket};
use std::process::Command;
use std::sync::Arc;

use common::confined::{possible, text};
use common::{Folder, ONE, PATIENCE, exit_of, listener, run_of};
use nebula_domain::ids::InstanceId;
use nebula_domain::isolation::{Isolation, Network, Profile};
use nebula_domain::observed::Surroundings;
use nebula_domain::port::{BRIDGE_PORTS, PROGRAM_PORTS};
use nebula_drivers::confine::{Control, Kind, Settings};
use nebula_drivers::firewall::{self, Cluster};
use nebula_drivers::process::{self, ProcessDriver};
use nebula_drivers::{Driver as _, Exec as _, ExecSpec, StartSpec};
use nebula_telemetry::{Clock, Random};

const PYTHON: &str = "/usr/bin/python3";
const NFT: &str = "/usr/sbin/nft";
const PROGRAM: &str = include_str!("programs/reach.py");
const TWO: InstanceId = InstanceId(2);

fn opened(folder: &Folder, firewall: Option<firewall::Config>) -> ProcessDriver {
    let config = process::Config {
        dir: folder.instances(),
        shim: vec![common::shim()],
        output: folder.bounds,
        kept_dir: Some(folder.kept()),
        confine: Settings::default(),
        report_within: process::REPORT_WITHIN,
        firewall,
    };
    ProcessDriver::open(config, Clock::system(), Random::system()).unwrap()
}

/// An instance that sleeps, so that commands can be run beside it.
fn sleeping(folder: &Folder, port: u16, reach: &[u16]) -> StartSpec {
    std::fs::write(folder.work(ONE).join("reach.py"), PROGRAM).unwrap();
    StartSpec {
        port: Some(port),
        reach: reach.to_vec(),
        ..folder.confined(ONE, "web", "exec sleep 1000")
    }
}

/// How it goes when a command beside the program tries to reach these.
async fn tried(folder: &Folder, driver: &ProcessDriver, targets: &[String]) -> Vec<String> {
    let asked = ExecSpec {
        instance: ONE,
        command: format!("exec {PYTHON} reach.py {} >told 2>&1", targets.join(" ")),
        surroundings: Arc::new(Surroundings::default()),
        timeout: PATIENCE,
    };
    let ended = driver.exec(asked).await;
    let told = std::fs::read_to_string(folder.work(ONE).join("told")).unwrap();
    assert!(ended.is_ok(), "{ended:?}: {told}");
    told.lines().map(str::to_owned).collect()
}

fn firewall_of(driver: &ProcessDriver, instance: InstanceId) -> Control {
    let controls = run_of(driver, instance).unwrap().isolation.0;
    let mut of_kind = controls.iter().filter(|c| c.kind == Kind::Firewall);
    let control = of_kind.next().unwrap().clone();
    assert_eq!(of_kind.next(), None);
    control
}

#[tokio::test]
async fn an_instance_reaches_its_own_ports_and_its_bridges_and_what_is_not_nebulas() {
    if !possible(&[PYTHON, NFT]) {
        return;
    }
    let folder = Folder::new();
    let (_own, own) = listener(PROGRAM_PORTS);
    let (_other, other) = listener(PROGRAM_PORTS);
    let (_bridge, bridge) = listener(BRIDGE_PORTS);
    let (_undeclared, undeclared) = listener(BRIDGE_PORTS);
    let api = TcpListener::bind("127.0.0.1:0").unwrap();
    let strange = TcpListener::bind("127.0.0.1:0").unwrap();
    let _datagrams = UdpSocket::bind(("127.0.0.1", other)).unwrap();
    let cluster = Cluster {
        listeners: [api.local_addr().unwrap()].into(),
        ..Cluster::default()
    };
    let config = firewall::Config {
        cluster: cluster.clone(),
        ..firewall::Config::default()
    };
    let driver = opened(&folder, Some(config.clone()));
    let spec = sleeping(&folder, own, &[bridge]);
    driver.start(spec).await.unwrap();
    assert!(firewall_of(&driver, ONE).held);

    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let expected = |bridge_is: &str| {
        [
            (format!("tcp/127.0.0.1/{own}"), "reached"),
            (format!("tcp/127.0.0.1/{bridge}"), bridge_is),
            (format!("tcp/127.0.0.1/{}", port(&strange)), "reached"),
            (format!("tcp/127.0.0.1/{other}"), "ECONNREFUSED"),
            (format!("tcp/127.0.0.9/{other}"), "ECONNREFUSED"),
            (format!("tcp/::1/{other}"), "ECONNREFUSED"),
            (format!("tcp/::ffff:127.0.0.1/{other}"), "ECONNREFUSED"),
            (format!("tcp/127.0.0.1/{undeclared}"), "ECONNREFUSED"),
            (format!("tcp/127.0.0.1/{}", port(&api)), "ECONNREFUSED"),
            (format!("udp/127.0.0.1/{other}"), "EPERM"),
        ]
        .map(|(target, how)| (target, how.to_owned()))
    };
    let targets = expected("").map(|(target, _)| target);
    let lines = |bridge_is| expected(bridge_is).map(|(target, how)| format!("{target} {how}"));
    assert_eq!(tried(&folder, &driver, &targets).await, lines("reached"));

    // The next daemon finds the rules, and makes the same.
    drop(driver);
    let driver = opened(&folder, Some(config));
    assert!(firewall_of(&driver, ONE).held);
    assert_eq!(tried(&folder, &driver, &targets).await, lines("reached"));
    driver.keep_firewall(cluster.clone()).await;
    assert_eq!(tried(&folder, &driver, &targets).await, lines("reached"));

    // A run that depends on nothing any more.
    driver.stop(ONE, PATIENCE).await.unwrap();
    exit_of(&driver, ONE).await;
    let next = StartSpec {
        run: 2,
        ..sleeping(&folder, own, &[])
    };
    driver.start(next).await.unwrap();
    assert_eq!(
        tried(&folder, &driver, &targets).await,
        lines("ECONNREFUSED")
    );
    driver.stop(ONE, PATIENCE).await.unwrap();
    exit_of(&driver, ONE).await;

    let tables = || {
        let listed = Command::new(NFT).args(["list", "tables"]).output().unwrap();
        String::from_utf8(listed.stdout).unwrap()
    };
    let table = firewall_table(&folder);
    assert!(tables().contains(&table));
    // Switched off, and on again.
    drop(driver);
    drop(opened(&folder, None));
    assert!(!tables().contains(&table));
    let driver = opened(&folder, Some(firewall::Config::default()));
    driver.keep_firewall(cluster).await;
    assert!(tables().contains(&table));
    driver.remove_firewall().await;
    assert!(!tables().contains(&table));
}

/// As the driver names it: by what no other folder has.
fn firewall_table(folder: &Folder) -> String {
    use std::os::unix::fs::MetadataExt as _;
    let about = std::fs::metadata(folder.instances()).unwrap();
    format!("nebula_{:x}_{:x}\n", about.dev(), about.ino())
}

#[tokio::test]
async fn without_rules_an_instance_runs_and_says_so_unless_it_is_strict() {
    if !possible(&[]) {
        return;
    }
    let broken = firewall::Config {
        nft: Some("/nonexistent/nft".into()),
        ..firewall::Config::default()
    };
    for (firewall, why) in [
        (Some(broken), "nft cannot be run"),
        (None, "instances.firewall is off"),
    ] {
        let folder = Folder::new();
        let driver = opened(&folder, firewall);
        let program = folder.confined(ONE, "web", "exec sleep 1000");
        driver.start(program).await.unwrap();
        let told = firewall_of(&driver, ONE);
        assert!(!told.held && told.detail.contains(why), "{told:?}");

        let with = |network| StartSpec {
            isolation: Isolation {
                profile: Profile::Strict,
                network,
            },
            ..folder.confined(TWO, "strict", "exec sleep 1000")
        };
        let refused = driver.start(with(Network::Host)).await.unwrap_err();
        let refused = refused.to_string();
        let sentence = "this machine does not give the firewall: ";
        assert!(refused.starts_with(sentence), "{refused}");
        assert!(refused.contains(why), "{refused}");
        // It needs none.
        driver.start(with(Network::None)).await.unwrap();
        let told = firewall_of(&driver, TWO);
        assert!(told.held && told.detail.contains("no network"), "{told:?}");
    }
}

#[tokio::test]
async fn rules_that_hold_again_are_told_by_what_runs() {
    if !possible(&[NFT]) {
        return;
    }
    let folder = Folder::new();
    let nft = folder.root.path().join("nft");
    let config = firewall::Config {
        nft: Some(nft.clone()),
        ..firewall::Config::default()
    };
    let driver = opened(&folder, Some(config));
    let program = folder.confined(ONE, "web", "exec sleep 1000");
    driver.start(program).await.unwrap();
    assert!(!firewall_of(&driver, ONE).held);
    std::os::unix::fs::symlink(NFT, nft).unwrap();
    driver.keep_firewall(Cluster::default()).await;
    let told = firewall_of(&driver, ONE);
    assert!(told.held, "{told:?}");
}

/// Two nodes of one machine: each judges the users that it gave, and neither those of the other.
#[tokio::test]
async fn nodes_beside_each_other_give_different_users() {
    if !possible(&[NFT]) {
        return;
    }
    let settings = Settings {
        uid_first: 220_000,
        uid_count: 2,
        ..Settings::default()
    };
    let folders = [Folder::new(), Folder::new()];
    let mut users = Vec::new();
    let mut drivers = Vec::new();
    for folder in &folders {
        let driver = folder.confining(settings.clone());
        let spec = folder.confined(ONE, "web", "id -u");
        driver.start(spec).await.unwrap();
        exit_of(&driver, ONE).await;
        users.push(text(&folder.lines(ONE)).join(" "));
        drivers.push(driver);
    }
    users.sort();
    assert_eq!(users, ["220000", "220001"]);
}
