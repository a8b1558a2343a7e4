//! The `[instances]` table of `node.toml`: how programs are kept apart on this node.

use std::path::{Component, PathBuf};

use nebula_drivers::confine::{
    DEFAULT_CGROUP_PARENT, DEFAULT_UID_COUNT, DEFAULT_UID_FIRST, Mode, Settings,
};
use serde::{Deserialize, Serialize};

/// Below are users of people and of the system (`UID_MIN` of login.defs(5)).
const UID_LEAST: u32 = 1_000;
/// The last two numbers mean "nobody in particular" to the kernel, and those above 2^31 are negative to old programs.
const UID_MOST: u32 = i32::MAX.unsigned_abs();
/// Each is a mount in every instance.
const READABLE_MOST: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InstancesConfig {
    /// `auto`, `required` or `off`.
    pub isolation: Mode,
    /// The first user of a range that nobody else on this machine uses, and how many there are.
    pub uid_first: u32,
    pub uid_count: u32,
    /// Where control groups are made, below the root of their hierarchies.
    pub cgroup_parent: PathBuf,
    /// What instances may read besides the system's programs and libraries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub readable: Vec<PathBuf>,
    /// Whether rules of the machine's network keep instances from what they do not depend on. Under root only.
    pub firewall: bool,
}

impl Default for InstancesConfig {
    fn default() -> Self {
        InstancesConfig {
            isolation: Mode::Auto,
            uid_first: DEFAULT_UID_FIRST,
            uid_count: DEFAULT_UID_COUNT,
            cgroup_parent: DEFAULT_CGROUP_PARENT.into(),
            readable: Vec::new(),
            firewall: true,
        }
    }
}

impl InstancesConfig {
    pub(crate) fn is_default(&self) -> bool {
        *self == InstancesConfig::default()
    }

    /// Why these settings cannot be, in one sentence.
    pub(crate) fn check(&self) -> Result<(), String> {
        let last = u64::from(self.uid_first) + u64::from(self.uid_count);
        if self.uid_first < UID_LEAST || self.uid_count == 0 || last > u64::from(UID_MOST) {
            return Err(format!(
                "instances.uid_first is {} and instances.uid_count {}: users must be at least one, from {UID_LEAST} to {UID_MOST}",
                self.uid_first, self.uid_count
            ));
        }
        if self.isolation == Mode::Required && !self.firewall {
            return Err(
                "instances.firewall is off, which instances.isolation = \"required\" does not allow: switch it on, or ask for 'auto'"
                    .to_owned(),
            );
        }
        let mut parts = self.cgroup_parent.components();
        let is_plain = |part| matches!(part, Component::Normal(_) | Component::RootDir);
        if !parts.all(is_plain) || self.cgroup_parent.file_name().is_none() {
            return Err(format!(
                "instances.cgroup_parent is '{}': give the name of a folder, such as 'nebula'",
                self.cgroup_parent.display()
            ));
        }
        if self.readable.len() > READABLE_MOST {
            return Err(format!(
                "instances.readable has {} entries, over the limit of {READABLE_MOST} (instances_readable)",
                self.readable.len()
            ));
        }
        let relative = self.readable.iter().find(|path| !path.is_absolute());
        if let Some(path) = relative {
            return Err(format!(
                "instances.readable has '{}': paths must begin with '/'",
                path.display()
            ));
        }
        Ok(())
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            mode: self.isolation,
            uid_first: self.uid_first,
            uid_count: self.uid_count,
            cgroup_parent: self.cgroup_parent.clone(),
            readable: self.readable.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_and_what_cannot_be_is_named() {
        let read = |text: &str| toml::from_str::<InstancesConfig>(text);
        assert!(read("").unwrap().is_default());
        let config = read("isolation = \"required\"\nreadable = [\"/opt/tools\"]").unwrap();
        assert_eq!(config.settings().mode, Mode::Required);
        config.check().unwrap();
        assert!(read("isolaton = \"off\"").is_err());
        assert!(read("isolation = \"on\"").is_err());
        for (text, named) in [
            ("uid_first = 0", "uid_first"),
            ("uid_count = 0", "uid_count"),
            ("uid_first = 2147483000", "uid_count"),
            ("cgroup_parent = \"../x\"", "cgroup_parent"),
            ("cgroup_parent = \"\"", "cgroup_parent"),
            ("cgroup_parent = \"/\"", "cgroup_parent"),
            ("readable = [\"opt\"]", "readable"),
            ("isolation = \"required\"\nfirewall = false", "firewall"),
        ] {
            let error = read(text).unwrap().check().unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
