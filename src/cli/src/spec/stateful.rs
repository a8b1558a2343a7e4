//! The flags about what a deployment keeps and what it waits for.

use clap::Args;
use nebula_wire::api::{DeploymentSpec, Volume};

#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct StatefulFlags {
    /// Folder that outlives instances and releases, and where the program finds it; may be repeated
    #[arg(long = "volume", value_name = "NAME:PATH", value_parser = volume, help_heading = "State")]
    volumes: Vec<Volume>,
    /// Deployment that has to be ready first and whose address the program is told; may be repeated
    #[arg(long = "depends-on", value_name = "NAME", help_heading = "State")]
    depends_on: Vec<String>,
}

impl StatefulFlags {
    pub fn is_empty(&self) -> bool {
        *self == StatefulFlags::default()
    }

    /// The flags, all of which only a program can have, and whether they are given.
    pub fn of_programs(&self) -> Vec<(bool, &'static str)> {
        vec![
            (!self.volumes.is_empty(), "--volume"),
            (!self.depends_on.is_empty(), "--depends-on"),
        ]
    }

    /// Puts what these flags say in place of what the spec says; the rest stays.
    pub fn onto(&self, spec: &mut DeploymentSpec) {
        for volume in &self.volumes {
            spec.volumes.retain(|known| known.name != volume.name);
            spec.volumes.push(volume.clone());
        }
        for name in &self.depends_on {
            if !spec.depends_on.contains(name) {
                spec.depends_on.push(name.clone());
            }
        }
    }
}

/// `data:/data`.
fn volume(text: &str) -> Result<Volume, String> {
    match text.split_once(':') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok(Volume {
            name: name.to_owned(),
            path: path.to_owned(),
        }),
        _ => Err("write a name and a path, such as data:/data".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_replaces_the_one_of_its_name() {
        let flags = |texts: &[&str]| StatefulFlags {
            volumes: texts.iter().map(|text| volume(text).unwrap()).collect(),
            ..StatefulFlags::default()
        };
        let mut spec = DeploymentSpec::default();
        flags(&["data:/data", "wal:/wal"]).onto(&mut spec);
        flags(&["data:/srv/data"]).onto(&mut spec);
        let paths: Vec<_> = spec.volumes.iter().map(|v| v.path.as_str()).collect();
        assert_eq!(paths, ["/wal", "/srv/data"]);
        for bad in ["data", "data:", ":/data", ""] {
            assert!(volume(bad).is_err(), "{bad}");
        }
    }
}
