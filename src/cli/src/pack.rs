//! From a folder to an artifact that the cluster holds. The only file that knows how archives are made.
//!
//! The folder is read twice: once to learn its archive's digest, and again, straight into the upload, when the cluster
//! does not hold it yet. That takes no memory and no temporary file; a folder that changes in between is an error.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use nebula_artifacts::archive::{self, ArchiveError, Manifest, Measured};
use nebula_artifacts::{MAX_ARTIFACT_BYTES, image};
use nebula_client::{ArtifactSource, Client};
use nebula_wire::api::{ErrorCode, Image};
use tempfile::TempDir;

use crate::error::{CliError, Outcome};
use crate::output::Output;

/// A folder that may be deployed, and the archive it makes.
#[derive(Debug, Clone)]
pub struct Packed {
    manifest: Manifest,
    measured: Measured,
    image: Option<Unpacked>,
}

/// An image that was read from an archive.
#[derive(Debug, Clone)]
struct Unpacked {
    image: Image,
    /// Holds what is to be sent.
    _folder: Arc<TempDir>,
}

impl Packed {
    pub fn digest(&self) -> String {
        self.measured.digest.to_string()
    }

    /// The image that it is, if it is one.
    pub fn image(&self) -> Option<Image> {
        self.image.as_ref().map(|unpacked| unpacked.image.clone())
    }
}

/// Checks everything in the folder and reads it once. Nothing is sent.
pub async fn pack(dir: &Path) -> Outcome<Packed> {
    pack_without(dir, &[]).await
}

/// As [`pack`], as if these files were not there.
pub async fn pack_without(dir: &Path, left_out: &[PathBuf]) -> Outcome<Packed> {
    let (dir, left_out) = (dir.to_owned(), left_out.to_owned());
    let read = move || {
        let manifest = archive::scan(&dir)?.without(&left_out)?;
        let measured = archive::measure(&manifest)?;
        Ok(Packed {
            manifest,
            measured,
            image: None,
        })
    };
    tokio::task::spawn_blocking(read)
        .await
        .map_err(|e| CliError::failed(format!("packing stopped: {e}"), "try again"))?
        .map_err(|e: ArchiveError| {
            CliError::usage(
                chain(&e),
                "give --path (in nebula.toml: path) a folder with the files to deploy",
            )
        })
}

/// Reads an image's archive into a temporary folder, checks it and packs it. Nothing is sent.
pub async fn pack_image(file: &Path) -> Outcome<Packed> {
    let file = file.to_owned();
    let read = move || {
        let failed = |what: String| CliError::failed(what, "see that there is room in TMPDIR");
        let folder = tempfile::tempdir().map_err(|e| failed(format!("no folder for it: {e}")))?;
        let prepared = image::prepare(&file, folder.path(), MAX_ARTIFACT_BYTES)
            .map_err(|e| CliError::usage(chain(&e), "see docs/images.md"))?;
        let manifest = archive::scan(folder.path()).map_err(|e| failed(chain(&e)))?;
        let measured = archive::measure(&manifest).map_err(|e| failed(chain(&e)))?;
        Ok(Packed {
            manifest,
            measured,
            image: Some(Unpacked {
                image: Image {
                    name: prepared.image.name,
                    digest: prepared.image.digest.to_string(),
                },
                _folder: Arc::new(folder),
            }),
        })
    };
    tokio::task::spawn_blocking(read)
        .await
        .map_err(|e| CliError::failed(format!("reading the image stopped: {e}"), "try again"))?
}

/// Uploads the archive unless the cluster holds it already; says whether it did.
pub async fn upload(client: &Client, packed: &Packed, out: Output) -> Outcome<bool> {
    if client.has_artifact(&packed.digest()).await? {
        return Ok(false);
    }
    let bar = out.bytes_bar("uploading", packed.measured.size_bytes);
    let (manifest, measured) = (packed.manifest.clone(), packed.measured);
    let source = ArtifactSource {
        digest: packed.digest(),
        size_bytes: measured.size_bytes,
        open: Arc::new(move || archive::stream(manifest.clone(), measured).boxed()),
    };
    let moving = bar.clone();
    let uploaded = client
        .upload_artifact(&source, move |sent| moving.set_position(sent))
        .await;
    bar.finish_and_clear();
    uploaded.map_err(|e| {
        let changed = e.code() == Some(ErrorCode::DigestMismatch);
        let mut error = CliError::from(e);
        if changed {
            error.error.hint =
                "files in the folder changed while they were sent: try again when they are still"
                    .to_owned();
        }
        error
    })?;
    Ok(true)
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Transparent wrappers repeat their source word for word.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_folders_with_content_are_packed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let empty = dir.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        for path in [&file, &empty, &dir.path().join("none")] {
            let error = pack(path).await.unwrap_err();
            assert_eq!(error.exit as u8, 2, "{error}");
        }
        let digest = pack(dir.path()).await.unwrap().digest();
        assert_eq!(digest.len(), 64);
        let settings = dir.path().join("settings");
        std::fs::write(&settings, "x").unwrap();
        let outside = dir.path().join("../settings");
        for left_out in [settings.clone(), dir.path().join("empty/../settings")] {
            let packed = pack_without(dir.path(), &[left_out, outside.clone()]).await;
            assert_eq!(packed.unwrap().digest(), digest);
        }
        let error = pack_without(dir.path(), &[settings, file])
            .await
            .unwrap_err();
        assert_eq!(error.exit as u8, 2, "{error}");
    }
}
