//! Promise: instances reach by network what their deployment depends on, and nothing else of the cluster: no instance and
//! no bridge of others, and no node.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use nebula_cluster_tests::cluster::{DEADLINE, Member};
use nebula_cluster_tests::wait::holds;
use nebula_cluster_tests::{Cluster, binaries, eventually, http};

const REACHED: &str = "reached";
const REFUSED: &str = "connection refused";

fn possible() -> bool {
    let missing = match nix::unistd::geteuid().is_root() {
        false => Some("root is needed to give instances users of their own"),
        true => (!binaries::works("nft", &["--version"])).then_some("nft is not installed"),
    };
    binaries::unless_missing(missing)
}

/// Deploys `name` as its file says, once more or for the first time.
fn apply(cluster: &Cluster, name: &str, depends_on: &[&str]) {
    cluster.keep_folder();
    let file = cluster.scratch("files").join(format!("{name}.toml"));
    let text = format!(
        "name = \"{name}\"
path = \"../keep\"
command = \"exec ./keep-service\"
tld = \"example.test\"
instances = 1
depends_on = {depends_on:?}
"
    );
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let args = ["deploy", "apply", "-f", file, "--timeout", "60s"];
    cluster.nebula(&args).ok();
}

/// What the only instance answers at some edge, once it does.
fn ask(cluster: &Cluster, name: &str, path: &str) -> String {
    let host = format!("{name}.example.test");
    let edge = cluster.members[0].edge;
    eventually(
        DEADLINE,
        &format!("an answer to {path} of {name}"),
        || match http::get(edge, &host, path) {
            Ok(response) if response.status == 200 => Ok(response.text()),
            Ok(response) => Err(format!("{} {}", response.status, response.text())),
            Err(error) => Err(error.to_string()),
        },
    )
}

fn port(cluster: &Cluster, name: &str) -> u16 {
    ask(cluster, name, "/env/PORT").parse().unwrap()
}

/// Of the bridge that this deployment's instance was told.
fn bridge(cluster: &Cluster, name: &str, to: &str) -> u16 {
    let variable = format!("/env/NEBULA_{}_PORT", to.to_ascii_uppercase());
    ask(cluster, name, &variable).parse().unwrap()
}

fn here(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// How it goes when the program on this port tries to reach an address. Asked without a daemon in between.
fn tries(program: u16, address: SocketAddr) -> String {
    let path = format!("/reach/{address}");
    let answer = http::get(here(program), "web.example.test", &path).unwrap();
    answer.text()
}

/// The node that runs the only instance.
fn home(cluster: &Cluster, name: &str) -> usize {
    let status = cluster.status(name);
    let node = status["instances"][0]["node"].as_str().unwrap();
    let mut members = cluster.members.iter();
    members.position(|m| m.name == node).unwrap()
}

/// Of a node: by its folder of instances.
fn table(data_dir: &Path) -> String {
    let about = std::fs::metadata(data_dir.join("instances")).unwrap();
    format!("nebula_{:x}_{:x}", about.dev(), about.ino())
}

fn tables() -> String {
    let listed = Command::new("nft").args(["list", "tables"]).output();
    String::from_utf8(listed.unwrap().stdout).unwrap()
}

fn api(member: &Member) -> SocketAddr {
    let (_, address) = member.api.split_once("://").unwrap();
    address.parse().unwrap()
}

#[test]
fn only_what_is_declared_is_reached() {
    if !possible() {
        return;
    }
    let mut cluster = Cluster::start(3);
    apply(&cluster, "db", &[]);
    apply(&cluster, "other", &[]);
    apply(&cluster, "web", &["db"]);
    apply(&cluster, "client", &["other"]);
    let (web, db) = (port(&cluster, "web"), port(&cluster, "db"));
    let other = port(&cluster, "other");
    let declared = bridge(&cluster, "web", "db");
    let undeclared = bridge(&cluster, "client", "other");
    assert_ne!(declared, undeclared);

    // On one machine all addresses are everybody's: who asks decides.
    let own = here(web);
    let others = [
        (here(db), "an instance of what it depends on"),
        (here(other), "an instance of another"),
        (here(undeclared), "a bridge of another"),
        (SocketAddr::from(([127, 0, 0, 9], db)), "another address"),
    ];
    let apis = cluster.members.iter().map(|member| (api(member), "an API"));
    let others: Vec<_> = others.into_iter().chain(apis).collect();
    let all_refused = |program: u16| {
        for (address, what) in &others {
            assert_eq!(tries(program, *address), REFUSED, "{what} at {address}");
        }
    };
    assert_eq!(tries(web, own), REACHED);
    assert_eq!(tries(web, here(declared)), REACHED);
    assert_eq!(ask(&cluster, "web", "/via/db/"), "here");
    // The edge is for everybody.
    assert_eq!(tries(web, cluster.members[0].edge), REACHED);
    all_refused(web);
    let told = cluster.nebula(&["deploy", "status", "web"]).ok();
    let held = told
        .stdout
        .lines()
        .find(|line| line.starts_with("isolation of"));
    assert!(held.is_some_and(|line| line.contains("firewall")), "{told}");

    // Without its daemon, and with the next one.
    let node = home(&cluster, "web");
    cluster.kill_daemon(node);
    all_refused(web);
    cluster.restart(node);
    cluster.wait_all_alive();
    assert_eq!(port(&cluster, "web"), web, "the same program");
    assert_eq!(ask(&cluster, "web", "/via/db/"), "here");
    all_refused(web);
    assert_eq!(tries(web, here(declared)), REACHED);

    // Somebody flushes the rules: they are made again.
    let flushed = table(&cluster.members[node].data_dir);
    let delete = ["delete", "table", "inet", &flushed];
    let deleted = Command::new("nft").args(delete).status();
    assert!(deleted.is_ok_and(|status| status.success()));
    eventually(DEADLINE, "the rules are there again", || {
        holds(tables().contains(&flushed), tables())
    });
    all_refused(web);
    assert_eq!(tries(web, own), REACHED);

    // Another release, which depends on nothing.
    apply(&cluster, "web", &[]);
    let web = port(&cluster, "web");
    eventually(DEADLINE, "the bridge is refused", || {
        let how = tries(web, here(declared));
        holds(how == REFUSED, how)
    });
    all_refused(web);
    assert_eq!(tries(web, here(web)), REACHED);

    // Nothing of it stays.
    let members = cluster.members.iter();
    let own: Vec<String> = members.map(|m| table(&m.data_dir)).collect();
    drop(cluster);
    let left = tables();
    for table in own {
        assert!(!left.contains(&table), "{left}");
    }
}
