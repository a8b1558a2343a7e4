//! The folder tree that an instance sees: the system's programs and libraries, read-only; a few files of `/etc`; its own
//! `/proc`, `/dev` and `/tmp`; and its work folder, at its own path. Nothing else of the machine is in it: not the
//! node's data, not other instances, not the sockets in `/run`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use nix::unistd::{chdir, pivot_root};

use super::mounts::{self, Wish, failed, inside, make_dir};
use super::{Controls, Failure, Kind, image};
use crate::volume::Mount;

/// Programs and libraries. Links among them (`/bin` to `usr/bin`) are links in there too.
const SYSTEM: [&str; 7] = [
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32",
];
/// What programs look up before they do anything: names, time, libraries. Copied, since most of them are replaced rather
/// than changed, and a mounted file would stay the old one all the same.
const FILES: [&str; 17] = [
    "/etc/ca-certificates.conf",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/localtime",
    "/etc/magic",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/timezone",
    "/etc/inputrc",
];
/// Folders of `/etc` that programs and libraries are set up by. None holds secrets that everybody may read.
const FOLDERS: [&str; 8] = [
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/fonts",
    "/etc/ld.so.conf.d",
    "/etc/perl",
    "/etc/pki",
    "/etc/ssl",
];
/// The same, of languages whose folders carry a version.
const FOLDERS_OF: [&str; 3] = ["java-", "python", "openssl"];
/// Device files that every program may count on. They are the machine's own: a normal user may make none.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Of the kernel, writable for root only: read-only for everybody, whoever the program is.
const KERNEL: [&str; 5] = [
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/irq",
    "/proc/bus",
    "/proc/fs",
];

/// The files of `/etc`: names and addresses, a few hundred KiB on a machine with many libraries.
const ROOT_BYTES: u64 = 8 << 20;
/// `/tmp` is for what is soon forgotten; it is memory, and counts against the memory limit where there is one.
pub(crate) const TMP_BYTES: u64 = 256 << 20;
/// As much as Docker gives (`--shm-size`).
const SHM_BYTES: u64 = 64 << 20;
/// Files in each of them: with none of a size, they would take memory without end.
pub(super) const TMP_FILES: u32 = 65_536;

/// What of a root folder depends on the run.
pub(crate) struct View<'a> {
    /// An empty folder to build it at.
    pub at: &'a Path,
    pub workdir: &'a Path,
    /// Where the program finds that.
    pub seen: &'a Path,
    /// The root folder of its image, which takes the place of the system's own folders.
    pub image: Option<&'a Path>,
    pub readable: &'a [PathBuf],
    pub volumes: &'a [Mount],
    /// The program's user and group, and the name that it goes by.
    pub user: u32,
    pub group: u32,
    pub name: &'a str,
}

/// Folders and files that may be read besides the root's own, whether or not there is a root of its own.
pub(crate) fn readable(more: &[PathBuf]) -> impl Iterator<Item = PathBuf> {
    let system = SYSTEM.iter().map(PathBuf::from);
    system.chain(more.iter().cloned())
}

/// Builds it and makes it the calling process's root. The caller is in namespaces of its own for mounts and processes.
pub(crate) fn enter(view: &View<'_>, controls: &mut Controls) -> Result<(), Failure> {
    mounts::keep_to_ourselves()?;
    mounts::tmpfs(view.at, "0755", ROOT_BYTES, TMP_FILES)?;
    match view.image {
        None => {
            system(view)?;
            etc(view)?;
        }
        Some(root) => image::show(view, root)?,
    }
    mounts::proc(&inside(view.at, Path::new("/proc")))?;
    dev(view)?;
    mounts::tmpfs(
        &inside(view.at, Path::new("/tmp")),
        "1777",
        TMP_BYTES,
        TMP_FILES,
    )?;
    if view.image.is_some() {
        image::var_tmp(view)?;
    } else {
        for (link, target) in [(image::VAR_TMP, "../tmp"), ("/var/run", "../run")] {
            link_to(view, link, target)?;
        }
        make_dir(&inside(view.at, Path::new("/run")))?;
    }
    // Those that lie in the work folder of an image are seen in it.
    let (before, after) = view
        .volumes
        .iter()
        .partition(|volume: &&Mount| view.image.is_none() || !volume.path.starts_with(view.seen));
    mount_volumes(view, before)?;
    // Last: they may lie below /tmp.
    for path in view.readable {
        mounts::bind(path, &inside(view.at, path))?;
    }
    mounts::bind(view.workdir, &image::point_for(view, view.seen)?)?;
    mount_volumes(view, after)?;
    for path in KERNEL {
        let path = inside(view.at, Path::new(path));
        if path.exists() {
            mounts::bind(&path, &path)?;
        }
    }
    mounts::settle(view.at, |path| {
        let volume = view.volumes.iter().any(|volume| path == volume.path);
        match volume {
            true => Wish::Writable,
            false => wish(path, view.seen, view.image.is_some()),
        }
    })?;
    leave_the_old(view.at)?;
    mounts::settle(Path::new("/"), |path| match path.parent() {
        None => Wish::ReadOnly,
        Some(_) => Wish::Keep,
    })?;
    controls.held(
        Kind::Root,
        format!(
            "{} read-only, {} writable",
            match view.image {
                None => "programs and libraries",
                Some(_) => "the image's files",
            },
            view.seen.display()
        ),
    );
    Ok(())
}

fn mount_volumes(view: &View<'_>, volumes: Vec<&Mount>) -> Result<(), Failure> {
    volumes
        .into_iter()
        .try_for_each(|volume| mount_volume(view, volume))
}

/// Nothing else is mounted in a volume or around it: making its mount point would change what lies there.
fn mount_volume(view: &View<'_>, volume: &Mount) -> Result<(), Failure> {
    let (name, path) = (&volume.name, &volume.path);
    let readable = view.readable.iter().map(PathBuf::as_path);
    let mut others = readable.chain([view.seen]);
    // The work folder of an image is this instance's own copy of what lies there.
    let meets = |other: &&Path| {
        other.starts_with(path) || (path.starts_with(other) && view.image.is_none())
    };
    if let Some(other) = others.find(meets) {
        let (path, other) = (path.display(), other.display());
        return Err(Failure::new(
            Kind::Root,
            format!(
                "the volume '{name}' cannot be at {path} on this node, which has {other} there"
            ),
        ));
    }
    mounts::bind(&volume.data(), &image::point_for(view, path)?)
}

/// `path` is a mount point as seen from inside. The root itself is closed when it is done.
fn wish(path: &Path, workdir: &Path, of_image: bool) -> Wish {
    let own = ["/", "/proc", "/tmp", "/dev/pts", "/dev/shm"];
    let in_images = ["/run", image::VAR_TMP];
    if path == workdir {
        Wish::Writable
    } else if of_image && in_images.iter().any(|own| path == Path::new(own)) {
        Wish::Keep
    } else if own.iter().any(|own| path == Path::new(own)) || path.starts_with("/dev") {
        // As they were mounted; device files are no use without devices.
        Wish::Keep
    } else {
        Wish::ReadOnly
    }
}

fn system(view: &View<'_>) -> Result<(), Failure> {
    for name in SYSTEM {
        let path = Path::new(name);
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_symlink() => {
                let target = fs::read_link(path).map_err(failed("cannot read", path))?;
                let link = inside(view.at, path);
                symlink(target, &link).map_err(failed("cannot make", &link))?;
            }
            Ok(_) => mounts::bind(path, &inside(view.at, path))?,
            // Not every machine has all of them.
            Err(_) => {}
        }
    }
    Ok(())
}

fn etc(view: &View<'_>) -> Result<(), Failure> {
    let etc = inside(view.at, Path::new("/etc"));
    make_dir(&etc)?;
    for path in FILES.map(Path::new) {
        // A link is followed: what it leads to may not be there. Files that a machine lacks are not needed.
        if let Ok(bytes) = fs::read(path) {
            let to = inside(view.at, path);
            fs::write(&to, bytes).map_err(failed("cannot write", &to))?;
        }
    }
    let entries = fs::read_dir("/etc").into_iter().flatten().flatten();
    let of_languages = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let known = FOLDERS_OF.iter().any(|begin| name.starts_with(begin));
        known.then(|| entry.path())
    });
    for path in FOLDERS.map(PathBuf::from).into_iter().chain(of_languages) {
        if path.is_dir() {
            mounts::bind(&path, &inside(view.at, &path))?;
        }
    }
    let (user, group, name) = (view.user, view.group, view.name);
    let home = view.workdir.display();
    let mut users = String::from("root:x:0:0:root:/:/usr/sbin/nologin\n");
    let mut groups = String::from("root:x:0:\n");
    if user != 0 {
        users += &format!("{name}:x:{user}:{group}:{name}:{home}:/bin/sh\n");
        groups += &format!("{name}:x:{group}:\n");
    }
    users += "nobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n";
    groups += "nogroup:x:65534:\n";
    for (file, text) in [("passwd", users), ("group", groups)] {
        let to = etc.join(file);
        fs::write(&to, text).map_err(failed("cannot write", &to))?;
    }
    Ok(())
}

fn dev(view: &View<'_>) -> Result<(), Failure> {
    let dev = inside(view.at, Path::new("/dev"));
    make_dir(&dev)?;
    for name in DEVICES {
        mounts::bind(&Path::new("/dev").join(name), &dev.join(name))?;
    }
    mounts::devpts(&dev.join("pts"))?;
    mounts::tmpfs(&dev.join("shm"), "1777", SHM_BYTES, TMP_FILES)?;
    for (link, target) in [
        ("/dev/ptmx", "pts/ptmx"),
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        link_to(view, link, target)?;
    }
    Ok(())
}

fn link_to(view: &View<'_>, link: &str, target: &str) -> Result<(), Failure> {
    let link = inside(view.at, Path::new(link));
    make_dir(link.parent().unwrap_or(&link))?;
    symlink(target, &link).map_err(failed("cannot make", &link))
}

/// pivot_root(2), "pivot_root(".", ".")": the old root comes to lie on the new one, and is taken away from there.
fn leave_the_old(new: &Path) -> Result<(), Failure> {
    let bad = |what| failed(what, new);
    chdir(new).map_err(bad("cannot enter"))?;
    pivot_root(".", ".").map_err(bad("cannot make the root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(bad("cannot leave the old root for"))?;
    chdir("/").map_err(bad("cannot enter"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_instances_own_can_be_written() {
        let workdir = Path::new("/tmp/work/i-1");
        let wish = |path: &str| wish(Path::new(path), workdir, false);
        assert_eq!(wish("/tmp/work/i-1"), Wish::Writable);
        for own in ["/", "/proc", "/tmp", "/dev/null", "/dev/shm"] {
            assert_eq!(wish(own), Wish::Keep, "{own}");
        }
        for shared in [
            "/usr",
            "/usr/share/x",
            "/etc/ssl",
            "/proc/sys",
            "/opt/tools",
        ] {
            assert_eq!(wish(shared), Wish::ReadOnly, "{shared}");
        }
    }
}
