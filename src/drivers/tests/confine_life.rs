//! Confined instances are run, stopped, adopted and cleaned up as others are, and can do what programs do.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use common::confined::{one_with, possible, text, with};
use common::{Folder, ONE, PATIENCE, eventually, exit_of, is_gone, run_of, signal};
use nebula_drivers::confine::Settings;
use nebula_drivers::{Driver as _, DriverError, Exit};
use rustix::process::Signal;

const PYTHON: &str = "/usr/bin/python3";

#[tokio::test]
async fn a_program_can_do_what_programs_do() {
    if !possible(&[PYTHON]) {
        return;
    }
    let folder = Folder::new();
    let driver = folder.confining(Settings::default());
    let program = r#"
import ctypes, getpass, multiprocessing, os, pwd, pty, socket, ssl, subprocess, sys, tempfile, threading, time
os.makedirs("data/deep"); open("data/deep/file", "w").write("kept"); os.chmod("data/deep/file", 0o755)
os.rename("data/deep/file", "moved"); os.symlink("moved", "link"); os.link("moved", "hard")
assert open("link").read() == "kept"
with tempfile.TemporaryFile() as f: f.write(b"x")
assert getpass.getuser() == "instance" and os.path.expanduser("~") == os.getcwd()
assert pwd.getpwuid(os.getuid()).pw_name == "instance"
assert socket.getaddrinfo("localhost", 80)
assert ssl.create_default_context()
assert len(os.urandom(8)) == 8 and open("/dev/null", "w").write("x")
t = threading.Thread(target=lambda: None); t.start(); t.join()
m = multiprocessing.Value("i", 3); assert m.value == 3
master, slave = pty.openpty(); os.write(slave, b"hello\n"); assert b"hello" in os.read(master, 100)
assert subprocess.run(["/bin/sh", "-c", "exit 7"]).returncode == 7
u = socket.socket(socket.AF_UNIX); u.bind("own.sock"); u.listen()
c = socket.socket(socket.AF_UNIX); c.connect("own.sock")
a = socket.socket(socket.AF_UNIX); a.bind("\0own"); a.listen()
b = socket.socket(socket.AF_UNIX); b.connect("\0own")
os.kill(os.getpid(), 0); assert os.getpid() < 50 and os.listdir("/proc/self/fd")
time.localtime(); print("err", file=sys.stderr)
s = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
print("listening", flush=True)
connection, _ = s.accept(); connection.sendall(b"hello"); connection.close()
"#;
    std::fs::write(folder.work(ONE).join("all.py"), program).unwrap();
    let mut spec = folder.confined(ONE, "api", "exec /usr/bin/python3 all.py");
    let port = free_port();
    spec.port = Some(port);
    driver.start(spec).await.unwrap();
    eventually("it listens", || {
        let lines = folder.lines(ONE);
        let ended = run_of(&driver, ONE).is_some_and(|run| !run.is_running());
        assert!(!ended, "{lines:#?}");
        lines
            .contains(&"stdout: listening".to_owned())
            .then_some(())
    })
    .await;
    let mut answer = String::new();
    let mut connection = TcpStream::connect(("127.0.0.1", port)).unwrap();
    connection.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "hello");
    assert_eq!(exit_of(&driver, ONE).await, Exit::Code(0));
    assert!(folder.lines(ONE).contains(&"stderr: err".to_owned()));
    assert!(folder.work(ONE).join("moved").exists());
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn answers(port: u16) -> Option<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.contains(" 200 ").then_some(())
}

#[tokio::test]
async fn servers_that_others_wrote_run() {
    let node = "exec /usr/bin/node -e 'require(\"http\").createServer((q,r)=>r.end(\"x\")).listen(process.env.PORT,\"127.0.0.1\")'";
    let nginx = "echo \"pid pid; error_log stderr; daemon off; worker_processes 2; events {} \
        http { access_log off; client_body_temp_path a; proxy_temp_path b; fastcgi_temp_path c; uwsgi_temp_path d; scgi_temp_path e; \
        server { listen 127.0.0.1:$PORT; return 200; } }\" >conf; exec /usr/sbin/nginx -p . -c conf";
    let python = "exec /usr/bin/python3 -m http.server --bind 127.0.0.1 $PORT";
    for (program, command) in [
        ("/usr/bin/node", node),
        ("/usr/sbin/nginx", nginx),
        (PYTHON, python),
    ] {
        if !possible(&[program]) {
            continue;
        }
        let folder = Folder::new();
        let driver = folder.confining(Settings::default());
        let mut spec = folder.confined(ONE, "api", command);
        let port = free_port();
        spec.port = Some(port);
        driver.start(spec).await.unwrap();
        eventually(program, || {
            let ended = run_of(&driver, ONE).is_some_and(|run| !run.is_running());
            assert!(!ended, "{:#?}", folder.lines(ONE));
            answers(port)
        })
        .await;
        driver.stop(ONE, PATIENCE).await.unwrap();
        let exit = exit_of(&driver, ONE).await;
        assert!(matches!(exit, Exit::Code(0) | Exit::Signal(15)), "{exit}");
    }
}

#[tokio::test]
async fn signals_grace_and_ends_are_as_outside() {
    if !possible(&[]) {
        return;
    }
    let folder = Folder::new();
    let driver = folder.confining(Settings::default());
    let polite = "trap 'sleep 0.3; echo bye; exit 4' TERM; echo >up; while :; do sleep 0.02; done";
    driver
        .start(folder.confined(ONE, "api", polite))
        .await
        .unwrap();
    let up = folder.work(ONE).join("up");
    eventually("it is up", || up.exists().then_some(())).await;
    driver.stop(ONE, PATIENCE).await.unwrap();
    assert_eq!(exit_of(&driver, ONE).await, Exit::Code(4));
    // The shell says too that its pause was ended.
    assert!(text(&folder.lines(ONE)).contains(&"bye"));

    for (run, command, grace, expected) in [
        (2, "exec sleep 1000", PATIENCE, Exit::Signal(15)),
        (
            3,
            "trap '' TERM; while :; do sleep 0.02; done",
            Duration::from_millis(200),
            Exit::Signal(9),
        ),
    ] {
        let spec = nebula_drivers::StartSpec {
            run,
            ..folder.confined(ONE, "api", command)
        };
        driver.start(spec).await.unwrap();
        driver.stop(ONE, grace).await.unwrap();
        assert_eq!(exit_of(&driver, ONE).await, expected, "{command}");
    }
    for (run, command, expected) in [
        (4, "exit 3", Exit::Code(3)),
        (5, "kill -KILL $$", Exit::Signal(9)),
        (6, "no-such-program", Exit::Code(127)),
    ] {
        let spec = nebula_drivers::StartSpec {
            run,
            ..folder.confined(ONE, "api", command)
        };
        driver.start(spec).await.unwrap();
        assert_eq!(exit_of(&driver, ONE).await, expected, "{command}");
    }
}

#[tokio::test]
async fn a_start_that_cannot_be_says_why() {
    if !possible(&[]) {
        return;
    }
    let folder = Folder::new();
    let driver = folder.confining(Settings::default());
    let mut spec = folder.confined(ONE, "api", "true");
    spec.workdir = "/no/such/folder".into();
    let error = driver.start(spec).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/folder"), "{error}");
    assert!(matches!(error, DriverError::Start(_)));
    let spec = folder.confined(ONE, "api", "true");
    driver.start(spec).await.unwrap();
    assert_eq!(exit_of(&driver, ONE).await, Exit::Code(0));
}

/// A grandchild as a daemon makes one, and a program that goes on.
fn daemonised(mark: &str, then: &str) -> String {
    format!(
        "(setsid sh -c 'trap \"\" TERM; while :; do sleep {mark}; done' </dev/null >/dev/null 2>&1 &); {then}"
    )
}

#[tokio::test]
async fn what_a_program_leaves_behind_ends_with_it() {
    if !possible(&[]) {
        return;
    }
    let folder = Folder::new();
    let driver = folder.confining(Settings::default());
    let command = daemonised("0.5101", "sleep 0.3; exit 6");
    driver
        .start(folder.confined(ONE, "api", &command))
        .await
        .unwrap();
    one_with("0.5101").await;
    assert_eq!(exit_of(&driver, ONE).await, Exit::Code(6));
    assert_eq!(with("0.5101"), [] as [i32; 0]);
}

#[tokio::test]
async fn an_instance_is_adopted_and_loses_no_output() {
    if !possible(&[]) {
        return;
    }
    let folder = Folder::new();
    let driver = folder.confining(Settings::default());
    let command = "n=0; while [ ! -e end ]; do n=$((n+1)); echo $n; sleep 0.01; done; exit 5";
    driver
        .start(folder.confined(ONE, "api", command))
        .await
        .unwrap();
    let held = run_of(&driver, ONE).unwrap().isolation;
    let shim = folder.shim_pid(ONE);
    drop(driver);
    let so_far = folder.lines(ONE).len();
    eventually("output goes on without a driver", || {
        (folder.lines(ONE).len() > so_far + 5).then_some(())
    })
    .await;
    let driver = folder.confining(Settings::default());
    let run = run_of(&driver, ONE).unwrap();
    assert!(run.is_running() && run.isolation == held && folder.shim_pid(ONE) == shim);
    std::fs::write(folder.work(ONE).join("end"), "").unwrap();
    assert_eq!(exit_of(&driver, ONE).await, Exit::Code(5));
    let lines = folder.lines(ONE);
    let expected: Vec<String> = (1..=lines.len()).map(|n| format!("stdout: {n}")).collect();
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn nothing_survives_its_shim() {
    if !possible(&[]) {
        return;
    }
    let folder = Folder::new();
    let driver = folder.confining(Settings::default());
    let command = daemonised("0.5202", "env -i sh -c 'while :; do sleep 0.5202; done'");
    driver
        .start(folder.confined(ONE, "api", &command))
        .await
        .unwrap();
    eventually("all of it runs", || {
        (with("0.5202").len() >= 2).then_some(())
    })
    .await;
    let pids = with("0.5202");
    signal(folder.shim_pid(ONE), Signal::KILL);
    assert_eq!(exit_of(&driver, ONE).await, Exit::Unseen);
    for pid in pids {
        is_gone(pid).await;
    }
    assert_eq!(with("0.5202"), [] as [i32; 0]);
}
