//! What an instance is given of an artifact: a folder of its own, and the image that it comes from, if it is one.

use std::path::{Path, PathBuf};

use nebula_artifacts::image::{ImageConfig, resolve};
use nebula_domain::port::FixedPort;
use nebula_domain::spec::{Kind, Service};
use nebula_drivers::Image;

/// Where the program of an image that names no work folder finds the one that it may write in.
const WORK: &str = "/nebula";

#[derive(Debug, Clone)]
pub struct Brought {
    pub folder: PathBuf,
    pub image: Option<BroughtImage>,
}

#[derive(Debug, Clone)]
pub struct BroughtImage {
    pub image: Image,
    /// Whom it would rather run as; empty: nobody in particular.
    user: String,
    ports: Vec<u16>,
}

impl Brought {
    pub fn folder(folder: PathBuf) -> Brought {
        Brought {
            folder,
            image: None,
        }
    }
}

impl BroughtImage {
    pub fn new(root: PathBuf, workdir: PathBuf, config: ImageConfig) -> BroughtImage {
        BroughtImage {
            image: Image {
                root,
                workdir,
                entry: config.entry,
                env: config.env,
            },
            user: config.user,
            ports: config.ports,
        }
    }

    /// What is otherwise than the image would have it, a line each.
    pub fn remarks(&self, service: &Service) -> Vec<String> {
        let root = ["", "0", "root", "0:0", "root:root"];
        let user = (!root.contains(&self.user.as_str())).then(|| {
            let user = nebula_domain::excerpt::excerpt(&self.user);
            format!("the image asks for user '{user}'; it runs as the deployment's own user")
        });
        let listens = service.kind == Kind::Server && service.port.is_none();
        let port = self.ports.first().filter(|_| listens).map(|port| {
            match FixedPort::try_from(u32::from(*port)) {
                Ok(_) => format!(
                    "the image exposes port {port}: unless its program reads PORT, deploy it with port = {port}"
                ),
                Err(_) => format!(
                    "the image exposes port {port}, which no deployment can have: its program has to listen on the port in PORT"
                ),
            }
        });
        user.into_iter().chain(port).collect()
    }
}

/// Where an image's program is started, and what the image has there.
pub fn workdir(root: &Path, config: &ImageConfig) -> Result<(PathBuf, Option<PathBuf>), String> {
    let asked = Path::new(&config.workdir);
    let found = resolve(root, asked).ok_or_else(|| {
        let asked = nebula_domain::excerpt::excerpt(&config.workdir);
        format!("the image's work folder '{asked}' is none")
    })?;
    if found == Path::new("") {
        return Ok((WORK.into(), None));
    }
    let inside = root.join(&found);
    Ok((
        Path::new("/").join(found),
        inside.is_dir().then_some(inside),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> ImageConfig {
        let text = format!(r#"{{"rootfs":{{"diff_ids":[]}},"config":{{{text}}}}}"#);
        ImageConfig::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_work_folder_is_where_the_image_s_links_lead() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("srv/app")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        std::os::unix::fs::symlink("/srv", root.join("home")).unwrap();
        std::os::unix::fs::symlink("../../../etc", root.join("srv/out")).unwrap();
        let at = |text: &str| workdir(root, &config(&format!(r#""WorkingDir":"{text}""#)));
        let whole = |path: &str| (Path::new("/").join(path), Some(root.join(path)));
        assert_eq!(at("/srv/app"), Ok(whole("srv/app")));
        assert_eq!(at("/home/app/"), Ok(whole("srv/app")));
        assert_eq!(
            at("/srv/out/x"),
            Ok(("/etc/x".into(), None)),
            "inside still"
        );
        assert_eq!(at("/new"), Ok(("/new".into(), None)));
        for none in ["", "/", "/..", "."] {
            assert_eq!(at(none), Ok((WORK.into(), None)), "{none}");
        }
        assert!(at("/file").is_err() && at("/file/x").is_err());
    }

    #[test]
    fn what_is_otherwise_is_told() {
        let told = |text: &str, service: &Service| {
            BroughtImage::new("/r".into(), "/w".into(), config(text)).remarks(service)
        };
        let mut service = Service::new("");
        assert!(told(r#""User":"root""#, &service).is_empty());
        let both = told(r#""User":"app","ExposedPorts":{"8080/tcp":{}}"#, &service);
        assert!(
            both[0].contains("'app'") && both[1].ends_with("port = 8080"),
            "{both:?}"
        );
        let low = told(r#""ExposedPorts":{"80/tcp":{}}"#, &service);
        assert!(low[0].contains("the port in PORT"), "{low:?}");
        service.port = FixedPort::try_from(8080).ok();
        assert!(told(r#""ExposedPorts":{"8080/tcp":{}}"#, &service).is_empty());
    }
}
