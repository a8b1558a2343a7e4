//! A root folder with an image's files in place of the machine's: read-only, with `/proc`, `/dev`, `/tmp` and `/run` of the
//! instance's own, and with the names and addresses that the machine knows.
//!
//! An image's links may lead anywhere, and until the root is entered "anywhere" is the machine. So nothing is mounted or
//! written at a path of the image before every part of it was looked at ([`point`]).

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use super::mounts::{self, failed, inside, make_dir};
use super::root::{TMP_FILES, View};
use super::{Failure, Kind};

/// What a node gives to every instance; an image's own are not seen.
const OWN: [&str; 5] = ["dev", "proc", "run", "sys", "tmp"];
/// The machine's, as it is when the instance starts.
const OF_THE_MACHINE: [&str; 3] = ["hostname", "hosts", "resolv.conf"];
/// Locks, sockets and numbers of processes; it is memory.
const RUN_BYTES: u64 = 64 << 20;
/// More than any list of users.
const USERS_BYTES: u64 = 1 << 20;
/// Where an image may have the one of its own, which programs write in.
pub(super) const VAR_TMP: &str = "/var/tmp";

/// Everything of it but what is mounted over.
pub(super) fn show(view: &View<'_>, root: &Path) -> Result<(), Failure> {
    for (name, path) in entries(root)? {
        if OWN.iter().any(|own| name == *own) || name == "etc" {
            continue;
        }
        entry(&path, &view.at.join(&name))?;
    }
    etc(view, &root.join("etc"))?;
    mounts::tmpfs(&view.at.join("run"), "1777", RUN_BYTES, TMP_FILES)
}

/// After `/tmp` is there.
pub(super) fn var_tmp(view: &View<'_>) -> Result<(), Failure> {
    let at = inside(view.at, Path::new(VAR_TMP));
    match fs::symlink_metadata(&at) {
        Ok(found) if found.is_dir() => {
            let at = point(view.at, Path::new(VAR_TMP))?;
            mounts::bind(&inside(view.at, Path::new("/tmp")), &at)
        }
        _ => Ok(()),
    }
}

/// A folder to mount on. What is missing of it is made.
///
/// # Errors
/// Something on the way is a link or a file.
pub(super) fn point(at: &Path, path: &Path) -> Result<PathBuf, Failure> {
    let mut whole = at.to_owned();
    for part in path.components() {
        let name = match part {
            Component::RootDir | Component::CurDir => continue,
            Component::Normal(name) => name,
            Component::ParentDir | Component::Prefix(_) => return Err(in_the_way(path, path)),
        };
        whole.push(name);
        match fs::symlink_metadata(&whole) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(in_the_way(path, whole.strip_prefix(at).unwrap_or(path))),
            Err(error) if error.kind() == ErrorKind::NotFound => match fs::create_dir(&whole) {
                // Another instance of the image starts at the same moment.
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(failed("cannot make", &whole)(error));
                }
                _ => {}
            },
            Err(error) => return Err(failed("cannot read", &whole)(error)),
        }
    }
    Ok(whole)
}

/// The same for whatever root is built.
pub(super) fn point_for(view: &View<'_>, path: &Path) -> Result<PathBuf, Failure> {
    match view.image {
        Some(_) => point(view.at, path),
        None => Ok(inside(view.at, path)),
    }
}

fn in_the_way(path: &Path, what: &Path) -> Failure {
    let (path, what) = (path.display(), what.display());
    Failure::new(
        Kind::Root,
        format!("nothing can be mounted at {path}: /{what} is no folder in the image"),
    )
}

fn entries(dir: &Path) -> Result<Vec<(std::ffi::OsString, PathBuf)>, Failure> {
    let entries = fs::read_dir(dir).map_err(failed("cannot read", dir))?;
    let entries = entries.map(|entry| entry.map(|entry| (entry.file_name(), entry.path())));
    let entries: Result<Vec<_>, _> = entries.collect();
    entries.map_err(failed("cannot read", dir))
}

/// One name of the image: a link stays one.
fn entry(from: &Path, to: &Path) -> Result<(), Failure> {
    let found = fs::symlink_metadata(from).map_err(failed("cannot read", from))?;
    if found.is_symlink() {
        let target = fs::read_link(from).map_err(failed("cannot read", from))?;
        return symlink(target, to).map_err(failed("cannot make", to));
    }
    mounts::bind(from, to)
}

/// The image's, with the machine's names and addresses, and the instance's user among the image's.
fn etc(view: &View<'_>, own: &Path) -> Result<(), Failure> {
    let etc = view.at.join("etc");
    make_dir(&etc)?;
    let is_folder = fs::symlink_metadata(own).is_ok_and(|found| found.is_dir());
    if is_folder {
        for (name, path) in entries(own)? {
            let replaced = OF_THE_MACHINE.iter().any(|other| name == *other);
            if !replaced && name != "passwd" && name != "group" {
                entry(&path, &etc.join(&name))?;
            }
        }
    }
    for name in OF_THE_MACHINE {
        // Files that a machine lacks are not needed.
        if let Ok(bytes) = fs::read(Path::new("/etc").join(name)) {
            write(&etc.join(name), &bytes)?;
        }
    }
    let (user, group, name) = (view.user, view.group, view.name);
    let home = view.seen.display();
    // A folder that is a link leads out of the image: nothing is read behind it.
    let of_image = |name: &str, otherwise: &str| match is_folder {
        true => lines(&own.join(name), otherwise),
        false => otherwise.to_owned(),
    };
    let users = of_image("passwd", "root:x:0:0:root:/:/sbin/nologin\n");
    let groups = of_image("group", "root:x:0:\n");
    let (user, group) = match user {
        0 => (String::new(), String::new()),
        _ => (
            format!("{name}:x:{user}:{group}:{name}:{home}:/bin/sh\n"),
            format!("{name}:x:{group}:\n"),
        ),
    };
    write(&etc.join("passwd"), format!("{users}{user}").as_bytes())?;
    write(&etc.join("group"), format!("{groups}{group}").as_bytes())
}

/// A file of the image that is one, ending with a whole line; or something in place of it.
fn lines(path: &Path, otherwise: &str) -> String {
    let found = fs::symlink_metadata(path);
    if !found.is_ok_and(|found| found.is_file() && found.len() <= USERS_BYTES) {
        return otherwise.to_owned();
    }
    match fs::read_to_string(path) {
        Ok(text) if text.is_empty() || text.ends_with('\n') => text,
        Ok(text) => text + "\n",
        Err(_) => otherwise.to_owned(),
    }
}

fn write(to: &Path, bytes: &[u8]) -> Result<(), Failure> {
    fs::write(to, bytes).map_err(failed("cannot write", to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_made_and_never_lie_behind_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("var")).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink(&outside, root.join("link")).unwrap();
        symlink(&outside, root.join("var/link")).unwrap();
        fs::write(root.join("file"), "").unwrap();

        let point = |path: &str| point(&root, Path::new(path));
        assert_eq!(point("/var/lib/db").unwrap(), root.join("var/lib/db"));
        assert_eq!(point("/new/deep/").unwrap(), root.join("new/deep"));
        for bad in [
            "/link",
            "/link/x",
            "/var/link/x",
            "/file",
            "/file/x",
            "/../x",
            "/var/../../x",
        ] {
            let error = point(bad).unwrap_err().to_string();
            assert!(
                error.contains("is no folder in the image"),
                "{bad}: {error}"
            );
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert!(!dir.path().join("x").exists());
    }

    #[test]
    fn lists_of_users_are_read_only_from_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("passwd");
        assert_eq!(lines(&file, "none"), "none");
        fs::write(&file, "app:x:1:1::/:").unwrap();
        assert_eq!(lines(&file, "none"), "app:x:1:1::/:\n");
        let link = dir.path().join("link");
        symlink("/etc/passwd", &link).unwrap();
        assert_eq!(lines(&link, "none"), "none");
    }
}
