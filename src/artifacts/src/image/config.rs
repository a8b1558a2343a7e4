//! An image's configuration (OCI image specification 1.1, "Image Configuration"; Docker's is the same).

use std::collections::BTreeMap;

use nebula_domain::image::ImageDigest;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{ImageError, MAX_LAYERS};

/// What of it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// What is run when the deployment gives no command: the entry point and its arguments.
    pub entry: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Where it is run; empty: nowhere in particular.
    pub workdir: String,
    /// Whom it asks to run as; empty: nobody in particular.
    pub user: String,
    /// TCP ports that it says it listens on.
    pub ports: Vec<u16>,
    /// Of each unpacked layer, the lowest first.
    pub layers: Vec<ImageDigest>,
    /// Such as `linux` and `amd64`; empty: it does not say.
    pub os: String,
    pub architecture: String,
}

#[derive(Deserialize)]
struct Whole {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    config: Option<Run>,
    rootfs: Layers,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Run {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    exposed_ports: Option<BTreeMap<String, IgnoredAny>>,
}

#[derive(Deserialize)]
struct Layers {
    diff_ids: Vec<String>,
}

impl ImageConfig {
    pub fn read(bytes: &[u8]) -> Result<ImageConfig, ImageError> {
        let bad = |why: String| ImageError::Json {
            what: "the image's configuration".to_owned(),
            why,
        };
        let whole: Whole = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
        let run = whole.config.unwrap_or_default();
        let digests = whole.rootfs.diff_ids;
        if digests.len() > MAX_LAYERS {
            return Err(ImageError::TooManyLayers {
                actual: digests.len(),
                limit: MAX_LAYERS,
            });
        }
        let layers = digests.iter().map(|text| text.parse());
        let layers: Result<_, nebula_domain::image::ImageError> = layers.collect();
        let mut entry = run.entrypoint.unwrap_or_default();
        entry.extend(run.cmd.unwrap_or_default());
        if entry.iter().any(|word| word.contains('\0')) {
            return Err(bad("its command has a NUL byte".to_owned()));
        }
        let env = run.env.unwrap_or_default();
        let env = env.iter().filter_map(|text| text.split_once('='));
        let env = env.filter(|(name, value)| !name.is_empty() && !value.contains('\0'));
        let ports = run.exposed_ports.unwrap_or_default();
        let ports = ports.keys().filter_map(|text| {
            let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
            number.parse().ok().filter(|_| protocol == "tcp")
        });
        Ok(ImageConfig {
            entry,
            env: env
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            workdir: run.working_dir.unwrap_or_default(),
            user: run.user.unwrap_or_default(),
            ports: ports.collect(),
            layers: layers.map_err(|e| bad(e.to_string()))?,
            os: whole.os,
            architecture: whole.architecture,
        })
    }

    /// Refuses what was built for another machine than this one.
    pub fn check_platform(&self) -> Result<(), ImageError> {
        let (os, machine) = ("linux", architecture());
        let is = |said: &str, wanted: &str| said.is_empty() || said == wanted;
        if is(&self.os, os) && is(&self.architecture, machine) {
            return Ok(());
        }
        Err(ImageError::Platform {
            image: format!("{}/{}", self.os, self.architecture),
            machine: format!("{os}/{machine}"),
        })
    }
}

/// This machine's, by the names that images use (Go's).
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_is_read_and_the_rest_is_not_needed() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let text = format!(
            r#"{{"architecture":"{}","os":"linux","created":"x","history":[{{}}],
            "config":{{"User":"app","Env":["PATH=/bin","A=b=c","=x","none"],"Entrypoint":["/run"],"Cmd":["-v"],
            "WorkingDir":"/srv","ExposedPorts":{{"8080/tcp":{{}},"53/udp":{{}},"9090":{{}}}},"Labels":null}},
            "rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#,
            architecture()
        );
        let config = ImageConfig::read(text.as_bytes()).unwrap();
        assert_eq!(config.entry, ["/run", "-v"]);
        let env = [("A", "b=c"), ("PATH", "/bin")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(config.env, env.into());
        assert_eq!((&*config.workdir, &*config.user), ("/srv", "app"));
        assert_eq!(config.ports, [8080, 9090]);
        assert_eq!(config.layers, [digest.parse().unwrap()]);
        config.check_platform().unwrap();

        let other = text.replace(architecture(), "sparc");
        let error = ImageConfig::read(other.as_bytes())
            .unwrap()
            .check_platform();
        assert!(error.unwrap_err().to_string().contains("linux/sparc"));
        let bare = br#"{"rootfs":{"diff_ids":[]},"config":{"Env":null,"Cmd":null}}"#;
        let bare = ImageConfig::read(bare).unwrap();
        assert!(bare.entry.is_empty() && bare.layers.is_empty());
        bare.check_platform().unwrap();
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let many = vec!["\"sha256:00\""; MAX_LAYERS + 1].join(",");
        for (bad, why) in [
            ("", "cannot be read"),
            ("{}", "rootfs"),
            (r#"{"rootfs":{"diff_ids":["md5:00"]}}"#, "no digest"),
            (
                r#"{"rootfs":{"diff_ids":[]},"config":{"Cmd":"sh"}}"#,
                "cannot be read",
            ),
            (
                r#"{"rootfs":{"diff_ids":[]},"config":{"Cmd":["a\u0000"]}}"#,
                "NUL",
            ),
            (
                &format!(r#"{{"rootfs":{{"diff_ids":[{many}]}}}}"#),
                "image_layers",
            ),
        ] {
            let error = ImageConfig::read(bad.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
