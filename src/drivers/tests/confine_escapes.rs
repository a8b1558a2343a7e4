//! What an instance may not reach: a program that tries each way out, beside one that it must not get at.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::confined::{possible, text};
use common::{Folder, ONE, PATIENCE, eventually, exit_of, run_of};
use nebula_domain::ids::InstanceId;
use nebula_domain::isolation::{Isolation, Network, Profile};
use nebula_domain::observed::Surroundings;
use nebula_domain::port::PROGRAM_PORTS;
use nebula_drivers::confine::{Kind, Mode, Settings};
use nebula_drivers::{Driver as _, Exec as _, ExecSpec, Exit, StartSpec};

const PYTHON: &str = "/usr/bin/python3";
const NFT: &str = "/usr/sbin/nft";
const TWO: InstanceId = InstanceId(2);
const PROBE: &str = include_str!("programs/escape.py");

/// A neighbour with a file, a process and sockets; and files and a socket of the node.
struct Scene {
    folder: Folder,
    driver: nebula_drivers::process::ProcessDriver,
    spec: StartSpec,
    _sockets: Vec<UnixListener>,
    _port: TcpListener,
}

async fn scene(mode: Mode) -> Scene {
    let folder = Folder::new();
    let root = folder.root.path().to_owned();
    let tools = root.join("tools");
    std::fs::create_dir(&tools).unwrap();
    let id = tools.join("id");
    std::fs::copy("/usr/bin/id", &id).unwrap();
    std::fs::set_permissions(&id, std::fs::Permissions::from_mode(0o4755)).unwrap();

    let settings = Settings {
        mode,
        readable: vec![tools],
        ..Settings::default()
    };
    let driver = folder.confining(settings);
    // Marks its command line and its socket; several of these tests run at once.
    static SCENES: AtomicU32 = AtomicU32::new(1);
    let scene = SCENES.fetch_add(1, Ordering::Relaxed);
    let mark = format!("1000.{}{scene:03}", std::process::id());
    let sleep = format!("echo secret >secret; exec sleep {mark}");
    let neighbour = folder.confined(TWO, "neighbour", &sleep);
    driver.start(neighbour).await.unwrap();
    let theirs = folder.work(TWO);
    // By its mark: the number that it knows itself by may mean another process out here.
    let pid = eventually("the neighbour sleeps", || {
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .find_map(|entry| {
                let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
                let line = std::fs::read(entry.path().join("cmdline")).ok()?;
                let line = String::from_utf8_lossy(&line);
                (line.starts_with("sleep") && line.contains(&mark)).then_some(pid)
            })
    })
    .await;

    let node_file = root.join("node.key");
    std::fs::write(&node_file, "secret").unwrap();
    let open = |path: &Path| {
        let socket = UnixListener::bind(path).unwrap();
        // What protects it is that it cannot be reached, not its mode.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
        socket
    };
    let name = format!("nebula-test-{}-{scene}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let sockets = vec![
        open(&theirs.join("socket")),
        open(&root.join("api.sock")),
        UnixListener::bind_addr(&address).unwrap(),
    ];
    let (port, number) = common::listener(PROGRAM_PORTS);
    std::fs::write(folder.work(ONE).join("escape.py"), PROBE).unwrap();
    let mut spec = folder.confined(ONE, "api", "exec /usr/bin/python3 escape.py");
    let show = |path: &Path| path.display().to_string();
    spec.env = [
        ("NEIGHBOUR_PID", pid.to_string()),
        ("NEIGHBOUR_MARK", mark.clone()),
        ("NEIGHBOUR_FILE", show(&theirs.join("secret"))),
        ("NEIGHBOUR_SOCKET", show(&theirs.join("socket"))),
        ("NODE_FILE", show(&node_file)),
        ("NODE_SOCKET", show(&root.join("api.sock"))),
        ("ABSTRACT_SOCKET", name),
        ("NEIGHBOUR_PORT", number.to_string()),
        ("SET_USER_ID", show(&id)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    Scene {
        folder,
        driver,
        spec,
        _sockets: sockets,
        _port: port,
    }
}

async fn run(scene: &Scene, spec: StartSpec) -> Vec<String> {
    scene.driver.start(spec).await.unwrap();
    let exit = exit_of(&scene.driver, ONE).await;
    let lines = scene.folder.lines(ONE);
    assert_eq!(exit, Exit::Code(0), "{lines:#?}");
    text(&lines).into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn no_way_out_works() {
    if !possible(&[PYTHON, NFT]) {
        return;
    }
    let scene = scene(Mode::Required).await;
    let lines = run(&scene, scene.spec.clone()).await;
    let (last, escaped) = lines.split_last().unwrap();
    assert_eq!(escaped, [] as [&str; 0]);
    let tried: usize = last.strip_prefix("tried ").unwrap().parse().unwrap();
    assert!(tried >= 50, "{tried}");
    println!("{tried} ways, none works");
    let held = run_of(&scene.driver, ONE).unwrap().isolation;
    assert_eq!(held.missing().count(), 0, "{held:?}");
    for kind in [
        Kind::User,
        Kind::Root,
        Kind::Privileges,
        Kind::Seccomp,
        Kind::Landlock,
        Kind::Firewall,
    ] {
        assert!(held.holds(kind), "{kind}");
    }
}

#[tokio::test]
async fn no_way_out_works_for_a_command_beside_the_program() {
    if !possible(&[PYTHON, NFT]) {
        return;
    }
    let scene = scene(Mode::Required).await;
    let env = scene.spec.env.clone();
    let sleeping = StartSpec {
        command: "exec sleep 1000".to_owned(),
        ..scene.spec.clone()
    };
    scene.driver.start(sleeping).await.unwrap();
    let asked = ExecSpec {
        instance: ONE,
        command: "exec /usr/bin/python3 escape.py >told 2>&1".to_owned(),
        surroundings: Arc::new(Surroundings {
            env,
            node: "a".to_owned(),
        }),
        timeout: PATIENCE,
    };
    let ended = scene.driver.exec(asked).await;
    let told = std::fs::read_to_string(scene.folder.work(ONE).join("told")).unwrap();
    assert!(ended.is_ok(), "{ended:?}: {told}");
    let (escaped, last) = told
        .trim_end()
        .rsplit_once('\n')
        .unwrap_or(("", told.trim_end()));
    assert_eq!(escaped, "");
    let tried: usize = last.strip_prefix("tried ").unwrap().parse().unwrap();
    assert!(tried >= 50, "{tried}");
}

/// The ways are ways: where nothing is confined, those that do no harm are taken.
#[tokio::test]
async fn the_same_ways_work_without_confinement() {
    if !possible(&[PYTHON]) {
        return;
    }
    let scene = scene(Mode::Off).await;
    let mut spec = scene.spec.clone();
    spec.command += " --harmless";
    let lines = run(&scene, spec).await;
    let (last, escaped) = lines.split_last().unwrap();
    assert_eq!(*last, format!("tried {}", escaped.len()), "{escaped:?}");
    assert!(escaped.len() >= 7, "{escaped:?}");
}

#[tokio::test]
async fn without_a_network_there_is_only_its_own_loopback() {
    if !possible(&[PYTHON]) {
        return;
    }
    let folder = Folder::new();
    let driver = folder.confining(Settings::default());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let program = format!(
        "import socket
own = socket.create_server((\"127.0.0.1\", 0))
socket.create_connection(own.getsockname(), 5)
print(\"itself\")
try:
    socket.create_connection((\"127.0.0.1\", {port}), 5)
    print(\"the machine\")
except OSError:
    print(\"nobody else\")
print(*sorted(name for _, name in socket.if_nameindex()))"
    );
    std::fs::write(folder.work(ONE).join("talk.py"), program).unwrap();
    let mut spec = folder.confined(ONE, "api", "exec /usr/bin/python3 talk.py");
    spec.isolation.network = Network::None;
    driver.start(spec).await.unwrap();
    exit_of(&driver, ONE).await;
    let lines = folder.lines(ONE);
    assert_eq!(text(&lines), ["itself", "nobody else", "lo"]);
}

#[tokio::test]
async fn what_node_and_deployment_disagree_on_is_refused_in_one_sentence() {
    let folder = Folder::new();
    let with = |profile| Isolation {
        profile,
        ..Isolation::default()
    };
    for (mode, profile) in [
        (Mode::Off, Profile::Strict),
        (Mode::Required, Profile::None),
    ] {
        let driver = folder.confining(Settings {
            mode,
            ..Settings::default()
        });
        let spec = StartSpec {
            isolation: with(profile),
            ..folder.confined(ONE, "api", "true")
        };
        let error = driver.start(spec).await.unwrap_err().to_string();
        assert!(error.contains("instances.isolation"), "{error}");
        assert!(run_of(&driver, ONE).is_none());
    }
}

#[tokio::test]
async fn deployments_have_users_of_their_own_which_stay_theirs() {
    if !possible(&[]) {
        return;
    }
    let folder = Folder::new();
    let settings = Settings {
        uid_first: 210_000,
        uid_count: 2,
        ..Settings::default()
    };
    let mut users = Vec::new();
    for (n, deployment) in [(1, "a"), (2, "b"), (3, "a")] {
        let driver = folder.confining(settings.clone());
        let instance = InstanceId(n);
        let spec = folder.confined(instance, deployment, "id -u; id -un; stat -c %u . made");
        std::fs::write(folder.work(instance).join("made"), "").unwrap();
        driver.start(spec).await.unwrap();
        exit_of(&driver, instance).await;
        users.push(text(&folder.lines(instance)).join(" "));
    }
    let of = |user: u32| format!("{user} instance {user} {user}");
    let (one, other) = (of(210_000), of(210_001));
    let either = [[&one, &other, &one], [&other, &one, &other]];
    assert!(
        either
            .iter()
            .any(|expected| users.iter().eq(expected.iter().copied())),
        "{users:?}"
    );
    let driver = folder.confining(settings);
    let spec = folder.confined(InstanceId(4), "c", "true");
    let error = driver.start(spec).await.unwrap_err().to_string();
    assert!(error.contains("instances.uid_count"), "{error}");
}
