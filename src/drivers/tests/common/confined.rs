//! Instances that are confined, and whether this machine can do that.

use std::path::PathBuf;

use nebula_domain::ids::InstanceId;
use nebula_domain::isolation::Isolation;
use nebula_drivers::process::{self, ProcessDriver};
use nebula_drivers::{StartSpec, confine, firewall};
use nebula_telemetry::{Clock, Random};

use super::{Folder, spec};

/// Whether a test can run here: says `skipped` and why when something is missing, which is a failure when
/// `NEBULA_TESTS_REQUIRE_TOOLS` is set, as it is in CI.
pub fn possible(programs: &[&str]) -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    let lacking = programs.iter().find(|p| !std::path::Path::new(p).exists());
    let missing = match (is_root, lacking) {
        (false, _) => Some("root is needed to give instances users of their own".to_owned()),
        (true, Some(program)) => Some(format!("{program} is not installed")),
        (true, None) => None,
    };
    if let Some(reason) = &missing {
        assert!(
            std::env::var_os("NEBULA_TESTS_REQUIRE_TOOLS").is_none(),
            "cannot run: {reason}"
        );
        eprintln!("skipped: {reason}");
    }
    missing.is_none()
}

/// Processes that run a command with this in it, by their numbers out here.
pub fn with(mark: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let found = entries.filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        String::from_utf8_lossy(&line).contains(mark).then_some(pid)
    });
    found.filter(|pid| super::is_alive(*pid)).collect()
}

pub async fn one_with(mark: &str) -> i32 {
    super::eventually(mark, || with(mark).first().copied()).await
}

/// A line of output without what it came by.
pub fn text(lines: &[String]) -> Vec<&str> {
    lines
        .iter()
        .map(|line| {
            line.split_once(": ")
                .map_or(line.as_str(), |(_, text)| text)
        })
        .collect()
}

impl Folder {
    /// A daemon that confines, on the same folder.
    pub fn confining(&self, settings: confine::Settings) -> ProcessDriver {
        let config = process::Config {
            dir: self.instances(),
            shim: vec![super::shim()],
            output: self.bounds,
            kept_dir: Some(self.kept()),
            confine: settings,
            report_within: process::REPORT_WITHIN,
            firewall: Some(firewall::Config::default()),
        };
        ProcessDriver::open(config, Clock::system(), Random::system()).unwrap()
    }

    /// The work folder of an instance: beside those of others, in a folder that only the node's user may enter.
    pub fn work(&self, instance: InstanceId) -> PathBuf {
        let work = self.root.path().join("work").join(instance.to_string());
        std::fs::create_dir_all(&work).unwrap();
        work
    }

    pub fn confined(&self, instance: InstanceId, deployment: &str, command: &str) -> StartSpec {
        StartSpec {
            deployment: deployment.parse().unwrap(),
            isolation: Isolation::default(),
            ..spec(instance, command, &self.work(instance))
        }
    }
}
