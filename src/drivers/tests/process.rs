//! The process driver with real programs: their surroundings, output, descendants and ends.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use common::{Folder, ONE, PATIENCE, eventually, exit_of, is_alive, is_gone, run_of, signal};
use nebula_domain::ids::InstanceId;
use nebula_drivers::process::{self, ProcessDriver, stop_everything};
use nebula_drivers::{Driver as _, DriverError, Exit, RunStatus, confine};
use nebula_telemetry::{Clock, Random};
use rustix::process::Signal;

#[tokio::test]
async fn a_program_finds_clean_surroundings() {
    let folder = Folder::new();
    let driver = folder.open();
    let mut spec = folder.spec(
        ONE,
        "env | grep -v '^_=' | cut -d= -f1 | sort | tr '\\n' ' '; echo; \
         echo \"$PORT $NEBULA_DEPLOYMENT $NEBULA_INSTANCE $NEBULA_RELEASE $NEBULA_NODE $K\"; \
         pwd; cat; \
         cut -d' ' -f5,6 /proc/$$/stat; grep -E 'Sig(Blk|Ign)' /proc/self/status; echo $$; \
         ls /proc/$$/fd",
    );
    spec.env.insert("K".to_owned(), "a b".to_owned());
    driver.start(spec).await.unwrap();
    assert_eq!(exit_of(&driver, ONE).await, Exit::Code(0));

    let lines = folder.lines(ONE);
    let text: Vec<&str> = lines
        .iter()
        .map(|l| l.strip_prefix("stdout: ").unwrap())
        .collect();
    for name in text[0].split_whitespace() {
        let expected = name.starts_with("NEBULA_")
            || [
                "K", "PATH", "PORT", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ", "TMPDIR",
                "PWD",
            ]
            .contains(&name);
        assert!(expected, "{name} came from outside");
    }
    assert_eq!(text[1], "20001 api i-1 r3 a a b");
    let root = folder.root.path().canonicalize().unwrap();
    assert_eq!(text[2], root.to_str().unwrap());
    // Standard input is at its end, and nothing but the three streams is open. (For a pipe or a redirection the shell
    // would have one more for a moment.)
    assert_eq!(text[7..], ["0", "1", "2"]);
    let pid = text[6];
    assert_eq!(text[3], format!("{pid} {pid}"), "own group and session");
    // grep's own, which it inherits: the shell's are all blocked for a moment while it starts a program.
    for mask in [text[4], text[5]] {
        let bits = u64::from_str_radix(mask.split_whitespace().nth(1).unwrap(), 16).unwrap();
        // 32 and 33 belong to the C library, which lets nobody touch them.
        assert_eq!(bits & !(0b11 << 31), 0, "{mask}");
    }
}

#[tokio::test]
async fn secrets_do_not_stay_on_the_disk() {
    let folder = Folder::new();
    let driver = folder.open();
    let mut spec = folder.spec(ONE, "sleep 1000");
    spec.env.insert("KEY".to_owned(), "hunter2".to_owned());
    assert!(!format!("{spec:?}").contains("hunter2"));
    driver.start(spec).await.unwrap();
    for entry in std::fs::read_dir(folder.dir(ONE)).unwrap() {
        let path = entry.unwrap().path();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", path.display());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("hunter2"), "{}", path.display());
    }
}

#[tokio::test]
async fn both_streams_are_kept_and_unfinished_lines_too() {
    let folder = Folder::new();
    let driver = folder.open();
    let command = "echo out; echo err >&2; sleep 0.1; printf 'a\\377b\\nlast'; exit 3";
    driver.start(folder.spec(ONE, command)).await.unwrap();
    driver.note(ONE, "said by the platform");
    assert_eq!(exit_of(&driver, ONE).await, Exit::Code(3));
    let noted = || {
        let mut lines = folder.lines(ONE);
        (lines.len() == 5).then(|| {
            lines.sort();
            lines
        })
    };
    assert_eq!(
        eventually("the note is written", noted).await,
        [
            "nebula: said by the platform",
            "stderr: err",
            "stdout: a\u{fffd}b",
            "stdout: last",
            "stdout: out",
        ]
    );
}

#[tokio::test]
async fn pipelines_and_lists_work_and_a_missing_command_is_named() {
    let folder = Folder::new();
    let driver = folder.open();
    let command = "A=1; echo one two | tr ' ' '\\n' && echo $A";
    driver.start(folder.spec(ONE, command)).await.unwrap();
    assert_eq!(exit_of(&driver, ONE).await, Exit::Code(0));
    assert_eq!(
        folder.lines(ONE),
        ["stdout: one", "stdout: two", "stdout: 1"]
    );

    let two = InstanceId(2);
    driver
        .start(folder.spec(two, "no-such-program --flag"))
        .await
        .unwrap();
    let exit = exit_of(&driver, two).await;
    assert_eq!(exit.to_string(), "exited with code 127 (command not found)");
}

#[tokio::test]
async fn a_start_that_cannot_be_says_why() {
    let folder = Folder::new();
    let driver = folder.open();
    let mut spec = folder.spec(ONE, "true");
    spec.workdir = "/no/such/folder".into();
    let error = driver.start(spec).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/folder"), "{error}");
    assert!(matches!(error, DriverError::Start(_)));
    driver.start(folder.spec(ONE, "true")).await.unwrap();
    assert_eq!(exit_of(&driver, ONE).await, Exit::Code(0));
}

#[tokio::test]
async fn much_output_is_kept_whole() {
    let folder = Folder::new();
    let driver = folder.open();
    driver.start(folder.spec(ONE, "seq 1 50000")).await.unwrap();
    assert_eq!(exit_of(&driver, ONE).await, Exit::Code(0));
    let lines = folder.lines(ONE);
    assert_eq!(lines.len(), 50_000);
    assert_eq!(lines[49_999], "stdout: 50000");
}

#[tokio::test]
async fn a_new_driver_adopts_what_runs_and_loses_no_output() {
    let folder = Folder::new();
    let driver = folder.open();
    let command =
        "echo $$ > pid; n=0; while [ ! -e end ]; do n=$((n+1)); echo $n; sleep 0.01; done; exit 5";
    driver.start(folder.spec(ONE, command)).await.unwrap();
    let pid = folder.number("pid").await;
    drop(driver);
    let so_far = folder.lines(ONE).len();
    eventually("output goes on without a driver", || {
        (folder.lines(ONE).len() > so_far + 5).then_some(())
    })
    .await;

    let driver = folder.open();
    assert!(run_of(&driver, ONE).unwrap().is_running());
    assert!(is_alive(pid));
    let again = driver.start(folder.spec(ONE, command)).await;
    assert!(matches!(again, Err(DriverError::AlreadyRuns(ONE))));
    std::fs::write(folder.root.path().join("end"), "").unwrap();
    assert_eq!(exit_of(&driver, ONE).await, Exit::Code(5));
    let expected: Vec<String> = (1..=folder.lines(ONE).len())
        .map(|n| format!("stdout: {n}"))
        .collect();
    assert_eq!(folder.lines(ONE), expected);

    // An end that nobody watched is found by the next driver.
    drop(driver);
    assert_eq!(exit_of(&folder.open(), ONE).await, Exit::Code(5));
}

#[tokio::test]
async fn an_adopted_instance_can_be_stopped() {
    let folder = Folder::new();
    let command = "echo $$ > pid; exec sleep 1000";
    folder
        .open()
        .start(folder.spec(ONE, command))
        .await
        .unwrap();
    let pid = folder.number("pid").await;
    let driver = folder.open();
    driver.stop(ONE, PATIENCE).await.unwrap();
    assert_eq!(exit_of(&driver, ONE).await, Exit::Signal(15));
    assert!(!is_alive(pid));
}

/// A grandchild as a daemon makes one: forked twice, in a session of its own, streams closed.
const DAEMONISE: &str = "(setsid sh -c 'trap \"\" TERM; echo $$ > daemon; while :; do sleep 1; done' \
     </dev/null >/dev/null 2>&1 &) ; ";

#[tokio::test]
async fn daemonised_descendants_end_with_the_program() {
    let folder = Folder::new();
    let driver = folder.open();
    let command = format!("{DAEMONISE} while [ ! -s daemon ]; do sleep 0.01; done; exit 0");
    driver.start(folder.spec(ONE, &command)).await.unwrap();
    let daemon = folder.number("daemon").await;
    assert_eq!(exit_of(&driver, ONE).await, Exit::Code(0));
    assert!(!is_alive(daemon), "gone before the end is reported");
}

#[tokio::test]
async fn daemonised_descendants_end_with_a_stop() {
    let folder = Folder::new();
    let driver = folder.open();
    let command = format!("{DAEMONISE} exec sleep 1000");
    driver.start(folder.spec(ONE, &command)).await.unwrap();
    let daemon = folder.number("daemon").await;
    driver.stop(ONE, Duration::from_millis(200)).await.unwrap();
    assert_eq!(exit_of(&driver, ONE).await, Exit::Signal(15));
    assert!(!is_alive(daemon));
}

#[tokio::test]
async fn a_program_that_ends_slowly_has_its_whole_grace() {
    let folder = Folder::new();
    let driver = folder.open();
    let command =
        "trap 'sleep 0.5; echo bye; exit 4' TERM; echo $$ > pid; while :; do sleep 0.02; done";
    driver.start(folder.spec(ONE, command)).await.unwrap();
    folder.number("pid").await;
    driver.stop(ONE, PATIENCE).await.unwrap();
    assert_eq!(exit_of(&driver, ONE).await, Exit::Code(4));
    assert!(folder.lines(ONE).contains(&"stdout: bye".to_owned()));
}

#[tokio::test]
async fn nothing_is_orphaned_when_the_shim_is_killed() {
    let folder = Folder::new();
    let driver = folder.open();
    // One leaves the session, one drops its environment: each is found by the other mark.
    let command = format!(
        "{DAEMONISE} env -i sh -c 'echo $$ > bare; while :; do sleep 1; done' & \
         echo $$ > pid; while :; do sleep 1; done"
    );
    driver.start(folder.spec(ONE, &command)).await.unwrap();
    let pids = [
        folder.number("pid").await,
        folder.number("bare").await,
        folder.number("daemon").await,
    ];
    signal(folder.shim_pid(ONE), Signal::KILL);
    assert_eq!(exit_of(&driver, ONE).await, Exit::Unseen);
    for pid in pids {
        is_gone(pid).await;
    }
}

#[tokio::test]
async fn leftovers_of_a_shim_killed_while_no_daemon_ran_are_found_later() {
    let folder = Folder::new();
    let command = format!("{DAEMONISE} exec sleep 1000");
    folder
        .open()
        .start(folder.spec(ONE, &command))
        .await
        .unwrap();
    let daemon = folder.number("daemon").await;
    let shim = folder.shim_pid(ONE);
    signal(shim, Signal::KILL);
    is_gone(shim).await;
    assert!(is_alive(daemon), "nobody has looked yet");
    let driver = folder.open();
    assert_eq!(exit_of(&driver, ONE).await, Exit::Unseen);
    assert!(!is_alive(daemon));
}

#[tokio::test]
async fn everything_is_stopped_without_a_daemon() {
    let folder = Folder::new();
    for n in 1..=3 {
        let command = format!("trap '' TERM; echo $$ > pid-{n}; while :; do sleep 0.05; done");
        let spec = folder.spec(InstanceId(n), &command);
        folder.open().start(spec).await.unwrap();
    }
    let pids = [
        folder.number("pid-1").await,
        folder.number("pid-2").await,
        folder.number("pid-3").await,
    ];
    let instances = folder.instances();
    let down = tokio::task::spawn_blocking(move || {
        stop_everything(&instances, Duration::from_millis(100)).unwrap()
    })
    .await
    .unwrap();
    assert_eq!((down.stopped, down.killed), (3, 0));
    assert!(pids.into_iter().all(|pid| !is_alive(pid)));
    let none = stop_everything(&folder.instances(), Duration::ZERO).unwrap();
    assert_eq!(none.stopped, 0);
    assert_eq!(exit_of(&folder.open(), ONE).await, Exit::Signal(9));
}

/// What one instance costs beside its program.
#[tokio::test]
async fn a_shim_stays_small() {
    let folder = Folder::new();
    let driver = folder.open();
    driver
        .start(folder.spec(ONE, "seq 1 20000; exec sleep 1000"))
        .await
        .unwrap();
    eventually("the output is written", || {
        (folder.lines(ONE).len() == 20_000).then_some(())
    })
    .await;
    let path = format!("/proc/{}/smaps_rollup", folder.shim_pid(ONE));
    let text = std::fs::read_to_string(path).unwrap();
    let private_kib: u64 = text
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum();
    // Text pages of an executable that only one process uses count as private, and a debug build
    // has many; the writable part is what each further instance costs.
    let dirty_kib: u64 = text
        .lines()
        .find(|line| line.starts_with("Private_Dirty"))
        .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap();
    println!("private {private_kib} KiB, of it written {dirty_kib} KiB");
    assert!(dirty_kib < 1536, "{dirty_kib} KiB");
}

#[tokio::test]
async fn a_folder_without_a_run_stops_nothing_and_can_be_removed() {
    let folder = Folder::new();
    let driver = folder.open();
    driver.start(folder.spec(ONE, "true")).await.unwrap();
    exit_of(&driver, ONE).await;
    drop(driver);
    let [never_began, unreadable] = [InstanceId(5), InstanceId(6)];
    for instance in [never_began, unreadable] {
        std::fs::create_dir(folder.dir(instance)).unwrap();
    }
    std::fs::write(folder.dir(never_began).join("log"), "").unwrap();
    // A file that cannot be read, whoever runs the test.
    std::fs::create_dir(folder.dir(unreadable).join("state.json")).unwrap();

    let driver = folder.open();
    assert!(run_of(&driver, ONE).is_some());
    assert_eq!(driver.leftovers(), [never_began, unreadable]);
    let lock = std::fs::File::create(folder.dir(never_began).join("lock")).unwrap();
    lock.try_lock().unwrap();
    let error = driver.remove(never_began).await.unwrap_err();
    assert!(matches!(error, DriverError::AlreadyRuns(_)), "{error}");
    drop(lock);
    driver.remove(never_began).await.unwrap();
    assert_eq!(driver.leftovers(), [unreadable]);
    assert_eq!(
        stop_everything(&folder.instances(), Duration::ZERO).unwrap(),
        Default::default()
    );
    driver.remove(unreadable).await.unwrap();
    assert!(driver.leftovers().is_empty() && !folder.dir(unreadable).exists());
}

#[tokio::test]
async fn a_start_without_a_shim_leaves_no_secrets_behind() {
    let folder = Folder::new();
    let config = process::Config {
        dir: folder.instances(),
        output: folder.bounds,
        kept_dir: None,
        shim: vec!["/nonexistent/shim".into()],
        confine: confine::Settings::default(),
        report_within: process::REPORT_WITHIN,
        firewall: None,
    };
    let driver = ProcessDriver::open(config, Clock::system(), Random::system()).unwrap();
    driver.start(folder.spec(ONE, "true")).await.unwrap_err();
    assert!(folder.dir(ONE).exists() && !folder.dir(ONE).join("spec.json").exists());
}

#[tokio::test]
async fn a_start_beside_a_shim_leaves_no_secrets_behind() {
    let folder = Folder::new();
    let driver = folder.open();
    // A shim that this driver does not know of has the folder.
    std::fs::create_dir_all(folder.dir(ONE)).unwrap();
    let lock = std::fs::File::create(folder.dir(ONE).join("lock")).unwrap();
    lock.try_lock().unwrap();
    let refused = driver.start(folder.spec(ONE, "true")).await.unwrap_err();
    assert!(
        matches!(refused, DriverError::AlreadyRuns(ONE)),
        "{refused}"
    );
    assert!(!folder.dir(ONE).join("spec.json").exists());
}

/// What a shim would report is not heard: it tells nobody, or the pipe stays open.
async fn a_start_that_nobody_sees(shim: &str) {
    let folder = Folder::new();
    let script = format!("exec 3>&1 >/dev/null; {shim}");
    let config = process::Config {
        dir: folder.instances(),
        output: folder.bounds,
        kept_dir: None,
        shim: vec!["/bin/sh".into(), "-c".into(), script.into(), common::shim()],
        confine: confine::Settings::default(),
        // The program has begun by then.
        report_within: Duration::from_secs(5),
        firewall: None,
    };
    let driver = ProcessDriver::open(config, Clock::system(), Random::system()).unwrap();
    let write = "echo $$ > pid; exec sleep 1000";
    let failed = driver.start(folder.spec(ONE, write)).await;
    assert!(failed.is_err(), "{failed:?}");
    let run = driver.runs().borrow()[&ONE].clone();
    let unseen = matches!(
        run.status,
        RunStatus::Ended {
            exit: Exit::Unheard,
            ..
        }
    );
    assert!(unseen && run.run == 1, "{run:?}");
    // If it began, it is gone.
    if let Ok(pid) = std::fs::read_to_string(folder.root.path().join("pid")) {
        is_gone(pid.trim().parse().unwrap()).await;
    }
    drop(driver);
    // A daemon that comes later is told the same.
    let found = folder.open().runs().borrow()[&ONE].clone();
    assert_eq!(found.status, run.status);
}

#[tokio::test]
async fn a_program_that_may_have_begun_unseen_is_ended_and_listed() {
    a_start_that_nobody_sees(r#"sleep 10 >&3 & exec "$0" "$1" 3>&-"#).await;
}

#[tokio::test]
async fn a_shim_that_goes_without_a_word_has_had_its_run() {
    let until_begun = r#"(until [ -s "$1/../../pid" ]; do sleep 0.02; done) >&3 &"#;
    a_start_that_nobody_sees(&format!(r#"{until_begun} exec "$0" "$1" 3>&-"#)).await;
}
