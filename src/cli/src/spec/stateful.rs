//! The flags about what a deployment keeps, what it waits for and what it is given.

use clap::Args;
use nebula_wire::api::{DeploymentSpec, SecretRef, Volume};

#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct StatefulFlags {
    /// Folder that outlives instances and releases, and where the program finds it; may be repeated
    #[arg(long = "volume", value_name = "NAME:PATH", value_parser = volume, help_heading = "State")]
    volumes: Vec<Volume>,
    /// Deployment that has to be ready first and whose address the program is told; may be repeated
    #[arg(long = "depends-on", value_name = "NAME", help_heading = "State")]
    depends_on: Vec<String>,
    /// Secret that the program is given, in the variable of its name or in another; may be repeated
    #[arg(long = "secret", value_name = "[VARIABLE=]NAME", value_parser = secret, help_heading = "State")]
    secrets: Vec<SecretRef>,
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
            (!self.secrets.is_empty(), "--secret"),
        ]
    }

    /// Puts what these flags say in place of what the spec says; the rest stays.
    pub fn onto(&self, spec: &mut DeploymentSpec) {
        for volume in &self.volumes {
            spec.volumes.retain(|known| known.name != volume.name);
            spec.volumes.push(volume.clone());
        }
        for given in &self.secrets {
            spec.secrets.retain(|known| known.env != given.env);
            spec.secrets.push(given.clone());
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

/// `DB_PASSWORD`, or `PGPASSWORD=DB_PASSWORD`.
fn secret(text: &str) -> Result<SecretRef, String> {
    let (env, secret) = text.split_once('=').unwrap_or((text, text));
    if env.is_empty() || secret.is_empty() {
        return Err("name a secret, such as DB_PASSWORD or PGPASSWORD=DB_PASSWORD".to_owned());
    }
    Ok(SecretRef {
        env: env.to_owned(),
        secret: secret.to_owned(),
    })
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
        let given = |text: &str| secret(text).unwrap();
        assert_eq!(given("KEY").env, "KEY");
        assert_eq!(
            (given("A=KEY").env, given("A=KEY").secret),
            ("A".into(), "KEY".into())
        );
        assert!(secret("=KEY").is_err() && secret("A=").is_err());
        for bad in ["data", "data:", ":/data", ""] {
            assert!(volume(bad).is_err(), "{bad}");
        }
    }
}
