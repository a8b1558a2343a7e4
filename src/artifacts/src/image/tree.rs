//! How layers lie over each other (OCI image specification 1.1, "Image Layer Filesystem Changeset"): a root folder on paper.
//! Pure: names, targets and numbers of contents, no files.
//!
//! Links are resolved here, within the root, and never by the kernel: what comes of it has folders and files at paths on
//! which no link lies, so that whoever writes it can be led nowhere.

use std::collections::{BTreeMap, VecDeque};

use super::ImageError;
use crate::archive::{MAX_DEPTH, MAX_ENTRIES, MAX_LINK_BYTES, MAX_NAME_BYTES, MAX_PATH_BYTES};

/// As many as Linux follows (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// Names that the links of all lookups together lead through: a few for each entry that there may be.
const MAX_LINK_NAMES: usize = 20 * MAX_ENTRIES;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

pub(super) type Folder = BTreeMap<Vec<u8>, Item>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub node: Node,
    /// The layer that said so last.
    layer: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Folder(Folder),
    /// One content may be at several paths: hard links.
    File(u64),
    Link(Vec<u8>),
}

/// An entry of a layer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Entry<'a> {
    Folder,
    File(u64),
    Link(&'a [u8]),
    /// Another path of what lies there.
    Same(&'a [u8]),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Root {
    top: Folder,
    layer: u32,
    /// That were ever added: what is hidden again took its time and room too.
    entries: usize,
    /// Names that links have led through.
    followed: usize,
}

impl Root {
    /// What is added from now on lies over what is there.
    pub fn begin_layer(&mut self) {
        self.layer += 1;
    }

    pub fn top(&self) -> &Folder {
        &self.top
    }

    pub fn add(&mut self, path: &[u8], entry: Entry<'_>) -> Result<(), ImageError> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(ImageError::TooMany { limit: MAX_ENTRIES });
        }
        let names = names(path)?;
        let Some((name, parents)) = names.split_last() else {
            // The root itself, as many tools write it.
            return match entry {
                Entry::Folder => Ok(()),
                _ => Err(ImageError::entry(path, "the root can only be a folder")),
            };
        };
        let parents = self.follow(parents, path)?;
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.hide(&parents, name, hidden, path);
        }
        let node = match entry {
            Entry::Folder => Node::Folder(Folder::new()),
            Entry::File(content) => Node::File(content),
            Entry::Link(target) => Node::Link(link(path, target)?),
            Entry::Same(target) => self.same(target, path)?,
        };
        let layer = self.layer;
        let folder = self.make(&parents, path)?;
        match (folder.get_mut(*name), node) {
            // What lower layers have in it stays.
            (Some(known), Node::Folder(_)) if matches!(known.node, Node::Folder(_)) => {
                known.layer = layer;
            }
            (_, node) => drop(folder.insert(name.to_vec(), Item { node, layer })),
        }
        Ok(())
    }

    /// Takes away what lower layers have: one name, or everything in the folder.
    fn hide(
        &mut self,
        parents: &[Vec<u8>],
        name: &[u8],
        hidden: &[u8],
        path: &[u8],
    ) -> Result<(), ImageError> {
        let layer = self.layer;
        let Some(folder) = self.folder_mut(parents) else {
            return Ok(());
        };
        if name == OPAQUE {
            folder.retain(|_, item| item.outlives(layer));
        } else if hidden.starts_with(WHITEOUT) {
            // Notes of AUFS to itself.
        } else if [&b""[..], b".", b".."].contains(&hidden) {
            return Err(ImageError::entry(path, "it hides nothing that has a name"));
        } else if folder
            .get_mut(hidden)
            .is_some_and(|item| !item.outlives(layer))
        {
            folder.remove(hidden);
        }
        Ok(())
    }

    fn same(&mut self, target: &[u8], path: &[u8]) -> Result<Node, ImageError> {
        let bad = || ImageError::entry(path, "it is a hard link to what is not there, or no file");
        let names = names(target)?;
        let (name, parents) = names.split_last().ok_or_else(bad)?;
        let parents = self.follow(parents, target)?;
        let found = self.folder(&parents).and_then(|folder| folder.get(*name));
        match found.map(|item| &item.node) {
            Some(node @ (Node::File(_) | Node::Link(_))) => Ok(node.clone()),
            _ => Err(bad()),
        }
    }

    /// [`Root::resolve`], as far as all of them together may go.
    fn follow(&mut self, names: &[&[u8]], path: &[u8]) -> Result<Vec<Vec<u8>>, ImageError> {
        let mut followed = self.followed;
        let resolved = self.resolve(names, path, &mut followed);
        self.followed = followed;
        resolved
    }

    /// The path of a folder with all links on the way followed, as the root's own program would. `..` at the top stays there.
    fn resolve(
        &self,
        names: &[&[u8]],
        path: &[u8],
        followed: &mut usize,
    ) -> Result<Vec<Vec<u8>>, ImageError> {
        let mut todo: VecDeque<Vec<u8>> = names.iter().map(|name| name.to_vec()).collect();
        let mut at: Vec<Vec<u8>> = Vec::new();
        // The folders on the way, as far as there are any: each name costs one look.
        let mut on_the_way: Vec<Option<&Folder>> = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            match &*name {
                b"" | b"." => continue,
                b".." => {
                    at.pop();
                    on_the_way.pop();
                    continue;
                }
                _ => {}
            }
            let folder = on_the_way.last().copied().unwrap_or(Some(&self.top));
            let found = folder.and_then(|folder| folder.get(&name));
            match found.map(|item| &item.node) {
                Some(Node::Link(target)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(ImageError::entry(
                            path,
                            "too many links lie on the way to it",
                        ));
                    }
                    if target.starts_with(b"/") {
                        at.clear();
                        on_the_way.clear();
                    }
                    for part in target.split(|byte| *byte == b'/').rev() {
                        *followed += 1;
                        todo.push_front(part.to_vec());
                    }
                    if *followed > MAX_LINK_NAMES {
                        return Err(ImageError::TooManyLinks {
                            limit: MAX_LINK_NAMES,
                        });
                    }
                }
                Some(Node::File(_)) => {
                    return Err(ImageError::entry(path, "it lies below a file"));
                }
                Some(Node::Folder(inner)) => {
                    at.push(name);
                    on_the_way.push(Some(inner));
                }
                None => {
                    at.push(name);
                    on_the_way.push(None);
                }
            }
            if at.len() > MAX_DEPTH {
                return Err(too_deep(path, at.len()));
            }
        }
        Ok(at)
    }

    fn folder(&self, at: &[Vec<u8>]) -> Option<&Folder> {
        let mut folder = &self.top;
        for name in at {
            match &folder.get(name)?.node {
                Node::Folder(inner) => folder = inner,
                _ => return None,
            }
        }
        Some(folder)
    }

    fn folder_mut(&mut self, at: &[Vec<u8>]) -> Option<&mut Folder> {
        let mut folder = &mut self.top;
        for name in at {
            match &mut folder.get_mut(name)?.node {
                Node::Folder(inner) => folder = inner,
                _ => return None,
            }
        }
        Some(folder)
    }

    /// The folder at a resolved path, made if it is not there.
    fn make(&mut self, at: &[Vec<u8>], path: &[u8]) -> Result<&mut Folder, ImageError> {
        let layer = self.layer;
        let mut folder = &mut self.top;
        for name in at {
            check_name(name, path)?;
            let item = folder.entry(name.clone()).or_insert_with(|| Item {
                node: Node::Folder(Folder::new()),
                layer,
            });
            match &mut item.node {
                Node::Folder(inner) => folder = inner,
                _ => return Err(ImageError::entry(path, "it lies below a file")),
            }
        }
        Ok(folder)
    }
}

impl Item {
    /// Leaves of it what the layer itself has; whether that is anything.
    fn outlives(&mut self, layer: u32) -> bool {
        let own = self.layer == layer;
        match &mut self.node {
            Node::Folder(children) => {
                children.retain(|_, child| child.outlives(layer));
                own || !children.is_empty()
            }
            _ => own,
        }
    }
}

/// The parts of an entry's path. Absolute ones are meant from the root.
fn names(path: &[u8]) -> Result<Vec<&[u8]>, ImageError> {
    if path.len() > MAX_PATH_BYTES {
        return Err(ImageError::TooLong {
            path: shown(path),
            actual: path.len(),
            unit: "bytes long",
            limit: MAX_PATH_BYTES,
            name: "artifact_path_bytes",
        });
    }
    let mut names = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(ImageError::entry(path, "'..' is not allowed")),
            name => {
                check_name(name, path)?;
                names.push(name);
            }
        }
    }
    if names.len() > MAX_DEPTH {
        return Err(too_deep(path, names.len()));
    }
    Ok(names)
}

fn check_name(name: &[u8], path: &[u8]) -> Result<(), ImageError> {
    if name.len() > MAX_NAME_BYTES {
        return Err(ImageError::TooLong {
            path: shown(path),
            actual: name.len(),
            unit: "bytes long in one name",
            limit: MAX_NAME_BYTES,
            name: "artifact_name_bytes",
        });
    }
    if name.contains(&0) {
        return Err(ImageError::entry(path, "its name has a NUL byte"));
    }
    Ok(())
}

fn link(path: &[u8], target: &[u8]) -> Result<Vec<u8>, ImageError> {
    if target.len() > MAX_LINK_BYTES {
        return Err(ImageError::TooLong {
            path: shown(path),
            actual: target.len(),
            unit: "bytes long in its target",
            limit: MAX_LINK_BYTES,
            name: "artifact_link_bytes",
        });
    }
    if target.is_empty() || target.contains(&0) {
        return Err(ImageError::entry(path, "it is a link to nothing"));
    }
    Ok(target.to_vec())
}

fn too_deep(path: &[u8], actual: usize) -> ImageError {
    ImageError::TooLong {
        path: shown(path),
        actual,
        unit: "folders deep",
        limit: MAX_DEPTH,
        name: "artifact_depth",
    }
}

fn shown(path: &[u8]) -> String {
    nebula_domain::excerpt::excerpt(&String::from_utf8_lossy(path))
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
