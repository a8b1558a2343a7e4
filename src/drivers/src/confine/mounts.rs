//! Small steps of mounting (mount(2)), each naming what it was about.

use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::{Failure, Kind};

/// Of everything that an instance sees: no set-user-id programs, no device files.
const NO_TRICKS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
const NONE: Option<&str> = None;

pub(crate) fn failed<E: std::fmt::Display>(
    what: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> Failure {
    Failure::of(Kind::Root, format!("{what} {}", path.display()))
}

/// From here on nothing that is mounted is seen elsewhere, and nothing from elsewhere here.
pub(crate) fn keep_to_ourselves() -> Result<(), Failure> {
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NONE, "/", NONE, flags, NONE).map_err(failed("cannot make private", Path::new("/")))
}

/// In memory, at most `bytes` of it.
pub(crate) fn tmpfs(at: &Path, mode: &str, bytes: u64, files: u32) -> Result<(), Failure> {
    make_dir(at)?;
    let options = format!("mode={mode},size={bytes},nr_inodes={files}");
    mount(
        Some("tmpfs"),
        at,
        Some("tmpfs"),
        NO_TRICKS,
        Some(options.as_str()),
    )
    .map_err(failed("cannot mount", at))
}

/// The processes of the namespace that the caller is in.
pub(crate) fn proc(at: &Path) -> Result<(), Failure> {
    make_dir(at)?;
    let flags = NO_TRICKS | MsFlags::MS_NOEXEC;
    mount(Some("proc"), at, Some("proc"), flags, NONE).map_err(failed("cannot mount", at))
}

/// Terminals of its own.
pub(crate) fn devpts(at: &Path) -> Result<(), Failure> {
    make_dir(at)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let options = Some("newinstance,ptmxmode=0666,mode=0620");
    mount(Some("devpts"), at, Some("devpts"), flags, options).map_err(failed("cannot mount", at))
}

/// `from` is seen at `at` as well, with whatever is mounted below it. A file or a folder.
pub(crate) fn bind(from: &Path, at: &Path) -> Result<(), Failure> {
    let metadata = fs::metadata(from).map_err(failed("cannot read", from))?;
    if metadata.is_dir() {
        make_dir(at)?;
    } else if !at.exists() {
        make_dir(at.parent().unwrap_or(at))?;
        fs::File::create(at).map_err(failed("cannot make", at))?;
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(from), at, NONE, flags, NONE).map_err(failed("cannot show", from))
}

/// Makes every mount at and below `root` what `wish` says; others stay as they are.
pub(crate) fn settle(root: &Path, wish: impl Fn(&Path) -> Wish) -> Result<(), Failure> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read(table).map_err(failed("cannot read", table))?;
    for (at, flags) in parse(&text) {
        let Ok(below) = at.strip_prefix(root) else {
            continue;
        };
        let more = match wish(&Path::new("/").join(below)) {
            Wish::Keep => continue,
            Wish::Writable => NO_TRICKS,
            Wish::ReadOnly => NO_TRICKS | MsFlags::MS_RDONLY,
        };
        // The flags it has are kept: a user namespace may not take any away (mount_namespaces(7)).
        let flags = flags | more | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
        mount(NONE, &at, NONE, flags, NONE).map_err(failed("cannot limit", &at))?;
    }
    Ok(())
}

/// What becomes of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Keep,
    Writable,
    ReadOnly,
}

pub(crate) fn make_dir(at: &Path) -> Result<(), Failure> {
    fs::create_dir_all(at).map_err(failed("cannot make", at))
}

/// Mount points with the flags that a remount would lose (proc_pid_mountinfo(5), fields 5 and 6).
fn parse(text: &[u8]) -> Vec<(PathBuf, MsFlags)> {
    let lines = text.split(|byte| *byte == b'\n');
    let mount = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ').skip(4);
        let at = PathBuf::from(std::ffi::OsString::from_vec(unescaped(fields.next()?)));
        let options = std::str::from_utf8(fields.next()?).ok()?;
        let flags = options.split(',').map(|option| match option {
            "ro" => MsFlags::MS_RDONLY,
            "nosuid" => MsFlags::MS_NOSUID,
            "nodev" => MsFlags::MS_NODEV,
            "noexec" => MsFlags::MS_NOEXEC,
            "noatime" => MsFlags::MS_NOATIME,
            "nodiratime" => MsFlags::MS_NODIRATIME,
            "relatime" => MsFlags::MS_RELATIME,
            _ => MsFlags::empty(),
        });
        Some((at, flags.fold(MsFlags::empty(), MsFlags::union)))
    };
    lines.filter_map(mount).collect()
}

/// Spaces and the like are written as a backslash and three octal digits.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *byte == b'\\');
        let code = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(code);
                rest = &after[3..];
            }
            None => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    out
}

/// The same path below another root.
pub(crate) fn inside(root: &Path, path: &Path) -> PathBuf {
    let below: &[u8] = path.as_os_str().as_bytes();
    let below = below.strip_prefix(b"/").unwrap_or(below);
    root.join(std::ffi::OsStr::from_bytes(below))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_their_flags() {
        let text = b"30 25 0:26 / /a\\040b/c ro,nosuid,relatime shared:9 - ext4 /dev/x rw\n\
            31 25 0:27 / /d rw,noexec - tmpfs none rw\n";
        let expected = [
            (
                PathBuf::from("/a b/c"),
                MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_RELATIME,
            ),
            (PathBuf::from("/d"), MsFlags::MS_NOEXEC),
        ];
        assert_eq!(parse(text), expected);
        assert_eq!(unescaped(b"\\\\134 \\04"), b"\\\\ \\04");
    }

    #[test]
    fn a_path_is_put_below_a_root() {
        let inside = |path: &str| inside(Path::new("/r"), Path::new(path));
        assert_eq!(inside("/a/b"), Path::new("/r/a/b"));
        assert_eq!(inside("/"), Path::new("/r/"));
    }
}
