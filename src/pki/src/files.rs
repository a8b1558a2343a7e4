//! Small files that must never be half written, and secret ones that must never be readable by
//! anyone else, not even for an instant.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::PkiError;

/// Keys: the owner only.
pub(crate) const SECRET: u32 = 0o600;
/// Certificates are public.
pub(crate) const PUBLIC: u32 = 0o644;
const DIRECTORY: u32 = 0o700;

/// A key or certificate is under 2 KiB; anything much larger is another file.
const MAX_BYTES: u64 = 64 * 1024;

/// Makes the folder if needed, and closes it to everyone else.
pub(crate) fn prepare(dir: &Path) -> Result<(), PkiError> {
    let failed = |action| move |source| file_error(action, dir, source);
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY)
        .create(dir)
        .map_err(failed("create"))?;
    fs::set_permissions(dir, Permissions::from_mode(DIRECTORY)).map_err(failed("close"))
}

/// Replaces `dir/name` at once and durably: a reader, or a crash, sees the old bytes or the new.
pub(crate) fn write(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<(), PkiError> {
    let path = dir.join(name);
    let temporary = dir.join(format!(".{name}.{:016x}", rand::random::<u64>()));
    let result = write_new(&temporary, bytes, mode)
        .and_then(|()| fs::rename(&temporary, &path))
        .and_then(|()| sync_dir(dir));
    if result.is_err() {
        // The rename did not happen or its durability is unknown; either way the name is not ours to keep.
        let _ = fs::remove_file(&temporary);
    }
    result.map_err(|source| file_error("write", &path, source))
}

/// Renames durably within `dir`.
pub(crate) fn rename(dir: &Path, from: &str, to: &str) -> Result<(), PkiError> {
    fs::rename(dir.join(from), dir.join(to))
        .and_then(|()| sync_dir(dir))
        .map_err(|source| file_error("write", &dir.join(to), source))
}

/// The text of `dir/name`, or `None` when there is no such file.
pub(crate) fn read(dir: &Path, name: &str) -> Result<Option<Zeroizing<String>>, PkiError> {
    let path = dir.join(name);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error("read", &path, error)),
    };
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|source| file_error("read", &path, source))?;
    Ok(Some(text))
}

/// As [`read`], for a key: one that others may read is closed again, and said.
pub(crate) fn read_secret(dir: &Path, name: &str) -> Result<Option<Zeroizing<String>>, PkiError> {
    let path = dir.join(name);
    if let Ok(metadata) = fs::metadata(&path)
        && metadata.permissions().mode() & 0o077 != 0
    {
        tracing::warn!(path = %path.display(), "a private key was readable by others; its mode is set to 0600");
        fs::set_permissions(&path, Permissions::from_mode(SECRET))
            .map_err(|source| file_error("close", &path, source))?;
    }
    read(dir, name)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn file_error(action: &'static str, path: &Path, source: io::Error) -> PkiError {
    PkiError::File {
        action,
        path: path.to_owned(),
        source,
    }
}
