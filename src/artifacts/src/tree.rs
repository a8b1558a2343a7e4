//! Unpacked artifacts.
//!
//! A tree's files are not synced one by one: the blob is durable, and the tree can be made again from
//! it. What says that a tree is whole is a marker written last, which names the boot of the machine. After
//! a power cut the boot is another one, whatever of the tree reached the disk is thrown away, and the
//! tree is unpacked again when it is next needed; so a torn file is never served. A crash of the daemon alone
//! loses nothing the kernel was given.

use std::fs::{self, File};
use std::io::{self, BufReader};

use nebula_domain::Digest;
use nebula_domain::image::ImageDigest;

use crate::archive;
use crate::error::ArtifactError;
use crate::image::{self, ImageConfig};
use crate::layout::{self, Layout};
use crate::space::Space;
use crate::store::Hashing;

/// Names the machine's present boot (proc(5)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Debug, Clone)]
pub(crate) struct Trees {
    layout: Layout,
    boot: String,
    max_bytes: u64,
    space: Space,
}

/// What came of unpacking.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// The blob is not what its name says.
    Corrupt,
}

impl Trees {
    /// Removes what is not whole, or is of another boot. No program of this boot runs in those.
    pub fn open(layout: &Layout, max_bytes: u64, space: Space) -> Result<Trees, ArtifactError> {
        let boot = match fs::read_to_string(BOOT_ID) {
            Ok(text) => text.trim().to_owned(),
            // Not to know is to trust nothing: a name nobody has used.
            Err(_) => format!(
                "process {} {:?}",
                std::process::id(),
                std::time::SystemTime::now()
            ),
        };
        let trees = Trees {
            layout: layout.clone(),
            boot,
            max_bytes,
            space,
        };
        let dir = layout.trees();
        let listed = fs::read_dir(&dir).map_err(ArtifactError::disk("list", &dir))?;
        for found in listed {
            let found = found.map_err(ArtifactError::disk("list", &dir))?;
            let name = found.file_name();
            let digest = ["", ".manifest", ".packed", ".image", ".complete"]
                .iter()
                .find_map(|suffix| layout::digest_of(&name, suffix));
            if let Some(digest) = digest
                && !trees.is_complete(digest)
            {
                trees.remove(digest)?;
            }
        }
        Ok(trees)
    }

    pub fn is_complete(&self, digest: Digest) -> bool {
        fs::read_to_string(self.layout.complete(digest)).is_ok_and(|boot| boot == self.boot)
            && self.layout.tree(digest).is_dir()
            && self.layout.manifest(digest).is_file()
    }

    /// What was unpacked; `None` if there is no list of it, or not a whole one.
    pub fn manifest(&self, digest: Digest) -> Result<Option<archive::Unpacked>, ArtifactError> {
        let path = self.layout.manifest(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ArtifactError::disk("read", &path)(error)),
        };
        Ok(serde_json::from_reader(BufReader::new(file)).ok())
    }

    /// Looks for each file that the manifest names, by its name and size.
    pub fn has_all_files(&self, digest: Digest) -> Result<bool, ArtifactError> {
        let tree = self.layout.tree(digest);
        let Some(unpacked) = self.manifest(digest)? else {
            return Ok(false);
        };
        for (name, info) in &unpacked.files {
            match fs::symlink_metadata(tree.join(name)) {
                Ok(found) if found.is_file() && found.len() == info.size => {}
                Ok(_) => return Ok(false),
                Err(error) => match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => return Ok(false),
                    _ => return Err(ArtifactError::disk("look at", &tree.join(name))(error)),
                },
            }
        }
        Ok(true)
    }

    /// From now on the tree does not count; its files stay until it is unpacked again.
    pub fn mark_incomplete(&self, digest: Digest) -> Result<(), ArtifactError> {
        layout::remove_file(&self.layout.complete(digest))
    }

    /// The marker goes first, so that a half-removed tree is not taken for a whole one.
    pub fn remove(&self, digest: Digest) -> Result<(), ArtifactError> {
        layout::remove_file(&self.layout.complete(digest))?;
        layout::remove_file(&self.layout.manifest(digest))?;
        layout::remove_tree(&self.layout.packed(digest))?;
        layout::remove_tree(&self.layout.image(digest))?;
        layout::remove_tree(&self.layout.tree(digest))
    }

    /// Unpacks the blob, checking its digest on the way. Only one at a time for a digest.
    pub fn unpack(&self, digest: Digest) -> Result<Outcome, ArtifactError> {
        let blob = self.layout.blob(digest);
        let file = File::open(&blob).map_err(ArtifactError::disk("read", &blob))?;
        let size = file.metadata().map_or(0, |found| found.len());
        self.space.check(size)?;
        let tmp = self.layout.tmp();
        // Removed with everything in it unless it was renamed away.
        let work = tempfile::tempdir_in(&tmp).map_err(ArtifactError::disk("write in", &tmp))?;
        let unpacking = work.path().join("tree");
        let mut reader = Hashing::new(BufReader::with_capacity(256 * 1024, file));
        let result = archive::unpack(&mut reader, &unpacking, self.max_bytes);
        let actual = reader
            .digest()
            .map_err(ArtifactError::disk("read", &blob))?;
        if actual != digest {
            return Ok(Outcome::Corrupt);
        }
        let unpacked = match result {
            Ok(unpacked) => unpacked,
            Err(archive::ArchiveError::Write { path, source }) => {
                return Err(ArtifactError::disk("write", &unpacking.join(path))(source));
            }
            Err(error) => return Err(ArtifactError::BadArchive(error)),
        };
        self.remove(digest)?;
        self.put(&self.layout.manifest(digest), |file| {
            serde_json::to_writer(io::BufWriter::new(file), &unpacked).map_err(io::Error::from)
        })?;
        let tree = self.layout.tree(digest);
        fs::rename(&unpacking, &tree).map_err(ArtifactError::disk("create", &tree))?;
        self.put(&self.layout.complete(digest), |mut file| {
            io::Write::write_all(&mut file, self.boot.as_bytes())
        })?;
        Ok(Outcome::Done)
    }

    /// Unpacks the image that the tree is, unless it was. The tree is whole; only one at a time for a digest.
    pub fn image(&self, digest: Digest, image: ImageDigest) -> Result<ImageConfig, ArtifactError> {
        let (tree, root) = (self.layout.tree(digest), self.layout.image(digest));
        let config = image::configuration(&tree, image).map_err(ArtifactError::BadImage)?;
        config.check_platform().map_err(ArtifactError::BadImage)?;
        // It was renamed to its place when it was whole, in this boot.
        if root.is_dir() {
            return Ok(config);
        }
        let tmp = self.layout.tmp();
        let work = tempfile::tempdir_in(&tmp).map_err(ArtifactError::disk("write in", &tmp))?;
        let unpacking = work.path().join("root");
        let room = |bytes| self.space.check(bytes).map_err(|error| error.to_string());
        image::unpack(&tree, &unpacking, image, self.max_bytes, &room)
            .map_err(ArtifactError::BadImage)?;
        fs::rename(&unpacking, &root).map_err(ArtifactError::disk("create", &root))?;
        Ok(config)
    }

    fn put(
        &self,
        path: &std::path::Path,
        write: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<(), ArtifactError> {
        let tmp = self.layout.tmp();
        let file =
            tempfile::NamedTempFile::new_in(&tmp).map_err(ArtifactError::disk("write in", &tmp))?;
        write(file.as_file()).map_err(ArtifactError::disk("write", path))?;
        file.persist(path)
            .map_err(|error| ArtifactError::disk("create", path)(error.error))?;
        Ok(())
    }
}
