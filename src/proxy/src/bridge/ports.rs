//! Which port leads to which deployment, written down.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use nebula_domain::DeploymentName;

pub(super) struct Ports {
    file: PathBuf,
    range: RangeInclusive<u16>,
    known: BTreeMap<DeploymentName, u16>,
}

impl Ports {
    /// A file that is not of our making is as none: the ports are chosen anew, and programs that know the old ones are
    /// told the new ones at their next start.
    pub(super) fn load(file: PathBuf, range: RangeInclusive<u16>) -> io::Result<Ports> {
        let known = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Ports { file, range, known })
    }

    pub(super) fn names(&self) -> Vec<DeploymentName> {
        self.known.keys().cloned().collect()
    }

    /// Listens on the port that is the deployment's, or, if it has none or another program has it, on the next free one.
    pub(super) fn listen(&mut self, to: &DeploymentName) -> io::Result<TcpListener> {
        let own = self.known.get(to).copied();
        let taken: BTreeSet<u16> = self.known.values().copied().collect();
        let free = self.range.clone().filter(|port| !taken.contains(port));
        for port in own.into_iter().chain(free) {
            let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) else {
                continue;
            };
            listener.set_nonblocking(true)?;
            if own != Some(port) {
                self.known.insert(to.clone(), port);
                self.store()?;
            }
            return Ok(listener);
        }
        let (first, last) = (self.range.start(), self.range.end());
        Err(io::Error::new(
            ErrorKind::AddrInUse,
            format!("no port from {first} to {last} is free on 127.0.0.1"),
        ))
    }

    pub(super) fn keep(&mut self, wanted: &BTreeSet<DeploymentName>) -> io::Result<()> {
        let before = self.known.len();
        self.known.retain(|name, _| wanted.contains(name));
        if self.known.len() == before {
            return Ok(());
        }
        self.store()
    }

    /// Whole or not at all.
    fn store(&self) -> io::Result<()> {
        let aside = self.file.with_extension("new");
        fs::write(&aside, serde_json::to_vec(&self.known)?)?;
        fs::rename(&aside, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DeploymentName {
        text.parse().unwrap()
    }

    #[test]
    fn a_port_is_the_same_after_a_restart_and_another_when_it_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bridges.json");
        // Of the kernel's choice, since tests run beside each other.
        let free = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            listener.local_addr().unwrap().port()
        };
        let first = free();
        let load = |range| Ports::load(file.clone(), range).unwrap();
        let mut ports = load(first..=first);
        let listener = ports.listen(&name("db")).unwrap();
        assert_eq!(listener.local_addr().unwrap().port(), first);
        assert!(
            ports.listen(&name("cache")).is_err(),
            "the only one is taken"
        );
        drop(listener);

        let mut ports = load(first..=first);
        assert_eq!(ports.names(), [name("db")]);
        let listener = ports.listen(&name("db")).unwrap();
        assert_eq!(listener.local_addr().unwrap().port(), first);
        let second = free();
        let mut ports = load(second..=second);
        let other = ports.listen(&name("db")).unwrap();
        assert_eq!(other.local_addr().unwrap().port(), second);
        ports.keep(&BTreeSet::new()).unwrap();
        assert!(load(first..=first).names().is_empty());
    }
}
