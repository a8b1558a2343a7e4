//! Where things lie in the store's folder.
//!
//! ```text
//! blobs/<digest>.tar         archives, verified and durable; the node's own user only
//! trees/<digest>/            one unpacked
//! trees/<digest>.manifest    JSON: {"files": {"index.html": {"size": 1, "blake3": "…"}}, "links": false}
//! trees/<digest>.packed/     compressed forms of its files, see `compress`; may be missing
//! trees/<digest>.image/      the root folder of the image that the artifact is, once one was asked for
//! trees/<digest>.complete    the boot in which the tree was unpacked; without it there is no tree
//! tmp/                       whatever is unfinished; emptied at start
//! quarantine/<digest>.tar    what no longer was what its name says
//! ```
//!
//! Artifacts may hold secrets. `blobs`, `tmp` and `quarantine` are closed to others; `trees` can be
//! passed through but not listed, so that a program run as another user can work in its folder, whose
//! name is as good as unguessable.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nebula_domain::Digest;

use crate::error::ArtifactError;

#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Makes the folders and clears away what an earlier run left unfinished.
    pub fn open(root: &Path) -> Result<Layout, ArtifactError> {
        let layout = Layout {
            root: root.to_owned(),
        };
        make(root, 0o711)?;
        remove_tree(&layout.tmp())?;
        make(&layout.blobs(), 0o700)?;
        make(&layout.tmp(), 0o700)?;
        make(&layout.quarantine_dir(), 0o700)?;
        make(&layout.trees(), 0o711)?;
        Ok(layout)
    }

    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub fn blob(&self, digest: Digest) -> PathBuf {
        self.blobs().join(format!("{digest}.tar"))
    }

    pub fn trees(&self) -> PathBuf {
        self.root.join("trees")
    }

    pub fn tree(&self, digest: Digest) -> PathBuf {
        self.trees().join(digest.to_string())
    }

    pub fn manifest(&self, digest: Digest) -> PathBuf {
        self.trees().join(format!("{digest}.manifest"))
    }

    pub fn packed(&self, digest: Digest) -> PathBuf {
        self.trees().join(format!("{digest}.packed"))
    }

    pub fn image(&self, digest: Digest) -> PathBuf {
        self.trees().join(format!("{digest}.image"))
    }

    pub fn complete(&self, digest: Digest) -> PathBuf {
        self.trees().join(format!("{digest}.complete"))
    }

    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub fn quarantine_dir(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    pub fn quarantine(&self, digest: Digest) -> PathBuf {
        self.quarantine_dir().join(format!("{digest}.tar"))
    }
}

fn make(dir: &Path, mode: u32) -> Result<(), ArtifactError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .map_err(ArtifactError::disk("create", dir))?;
    // It may have been there, or the umask may have taken bits away.
    fs::set_permissions(dir, Permissions::from_mode(mode))
        .map_err(ArtifactError::disk("set the permissions of", dir))
}

/// Makes renames and removals in a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), ArtifactError> {
    fs::File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(ArtifactError::disk("sync", dir))
}

/// The digest in a file name, if the rest of it is `suffix`.
pub(crate) fn digest_of(name: &std::ffi::OsStr, suffix: &str) -> Option<Digest> {
    name.to_str()?.strip_suffix(suffix)?.parse().ok()
}

pub(crate) fn remove_file(path: &Path) -> Result<(), ArtifactError> {
    absent_is_fine(fs::remove_file(path)).map_err(ArtifactError::disk("remove", path))
}

pub(crate) fn remove_tree(path: &Path) -> Result<(), ArtifactError> {
    absent_is_fine(fs::remove_dir_all(path)).map_err(ArtifactError::disk("remove", path))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
