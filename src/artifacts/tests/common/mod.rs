//! Images as other tools would write them, made of nothing but bytes.
#![allow(dead_code)] // Each test binary uses its own part.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

/// An entry of a layer.
pub enum Entry<'a> {
    Folder,
    File(u32, &'a [u8]),
    Link(&'a str),
    Same(&'a str),
    Special(EntryType),
}

pub fn layer(entries: &[(&str, Entry<'_>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, entry) in entries {
        let (kind, mode, content): (_, _, &[u8]) = match entry {
            Entry::Folder => (EntryType::Directory, 0o700, b""),
            Entry::File(mode, content) => (EntryType::Regular, *mode, content),
            Entry::Link(_) => (EntryType::Symlink, 0o777, b""),
            Entry::Same(_) => (EntryType::Link, 0o644, b""),
            Entry::Special(kind) => (*kind, 0o666, b""),
        };
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(1);
        match entry {
            Entry::Link(target) | Entry::Same(target) => {
                builder.append_link(&mut header, path, target).unwrap();
            }
            _ => builder.append_data(&mut header, path, content).unwrap(),
        }
    }
    builder.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 1).unwrap()
}

pub fn sha256(bytes: &[u8]) -> String {
    let digits = Sha256::digest(bytes);
    digits.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Layers as they are kept, with what they are unpacked; and a configuration.
pub struct Image {
    pub layers: Vec<(Vec<u8>, Vec<u8>)>,
    /// What is within `"config"`.
    pub run: String,
}

impl Image {
    pub fn new(layers: Vec<Vec<u8>>) -> Image {
        Image {
            layers: layers.into_iter().map(|l| (l.clone(), l)).collect(),
            run: r#""Cmd":["/run"]"#.to_owned(),
        }
    }

    pub fn config(&self) -> String {
        let ids = self
            .layers
            .iter()
            .map(|(_, plain)| format!("\"sha256:{}\"", sha256(plain)));
        let ids = ids.collect::<Vec<_>>().join(",");
        let run = &self.run;
        format!(r#"{{"config":{{{run}}},"rootfs":{{"type":"layers","diff_ids":[{ids}]}}}}"#)
    }

    /// `docker save`, of a version that keeps each layer in a folder of its own.
    pub fn saved(&self, name: &str) -> Vec<u8> {
        let config = self.config();
        let config_name = format!("{}.json", sha256(config.as_bytes()));
        let names: Vec<String> = (0..self.layers.len())
            .map(|n| format!("{n}/layer.tar"))
            .collect();
        let list: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        let list = list.join(",");
        let manifest =
            format!(r#"[{{"Config":"{config_name}","RepoTags":["{name}"],"Layers":[{list}]}}]"#);
        let mut entries = vec![
            (config_name.as_str(), Entry::File(0o644, config.as_bytes())),
            ("manifest.json", Entry::File(0o644, manifest.as_bytes())),
        ];
        for (name, (packed, _)) in names.iter().zip(&self.layers) {
            entries.push((name, Entry::File(0o644, packed)));
        }
        layer(&entries)
    }

    /// An OCI layout with an index in its index, and somebody's notes beside the image.
    pub fn layout(&self, name: &str) -> Vec<u8> {
        let mut blobs: Vec<(String, Vec<u8>)> = Vec::new();
        let mut keep = |bytes: &[u8], kind: &str| {
            let digest = sha256(bytes);
            blobs.push((format!("blobs/sha256/{digest}"), bytes.to_vec()));
            let size = bytes.len();
            format!(
                r#""mediaType":"application/vnd.oci.image.{kind}","digest":"sha256:{digest}","size":{size}"#
            )
        };
        let config = keep(self.config().as_bytes(), "config.v1+json");
        let layers: Vec<String> = self
            .layers
            .iter()
            .map(|(packed, _)| format!("{{{}}}", keep(packed, "layer.v1.tar")))
            .collect();
        let layers = layers.join(",");
        let manifest =
            format!(r#"{{"schemaVersion":2,"config":{{{config}}},"layers":[{layers}]}}"#);
        let manifest = keep(manifest.as_bytes(), "manifest.v1+json");
        let notes = keep(b"{}", "manifest.v1+json");
        let index = format!(
            r#"{{"manifests":[{{{manifest}}},{{{notes},"platform":{{"os":"unknown","architecture":"unknown"}}}}]}}"#
        );
        let index = keep(index.as_bytes(), "index.v1+json");
        let top = format!(
            r#"{{"manifests":[{{{index},"annotations":{{"io.containerd.image.name":"{name}"}}}}]}}"#
        );
        let mut entries = vec![
            (
                "oci-layout",
                Entry::File(0o644, &br#"{"imageLayoutVersion":"1.0.0"}"#[..]),
            ),
            ("index.json", Entry::File(0o644, top.as_bytes())),
            ("blobs", Entry::Folder),
        ];
        for (path, bytes) in &blobs {
            entries.push((path, Entry::File(0o644, bytes)));
        }
        layer(&entries)
    }
}

pub fn write(dir: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let path = dir.join(name);
    fs::write(&path, bytes).unwrap();
    path
}
