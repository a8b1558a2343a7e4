//! The files that a program brings along in place of the machine's, and how it is started in them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// An image as one run sees it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its root folder on this node. Nothing in it is changed but by empty folders, on which others are mounted.
    pub root: PathBuf,
    /// Where the program finds its work folder: an absolute path in the image without links in it.
    pub workdir: PathBuf,
    /// What is run when there is no command, the program first.
    pub entry: Vec<String>,
    /// Its environment, as far as the deployment does not say otherwise.
    pub env: BTreeMap<String, String>,
}

/// Names of variables only: values and arguments may hold secrets.
impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("root", &self.root)
            .field("workdir", &self.workdir)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
