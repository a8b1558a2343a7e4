//! Certificates and keys as files: what is there, whether it has changed, and what is wrong with it.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::InconsistentKeys;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

use super::certificates::{Certificate, Certificates};
use crate::config::Limits;
use crate::error::ProxyError;

/// Of a certificate, with its chain behind it.
const CERTIFICATE: &str = "crt";
const KEY: &str = "key";
/// Its certificate is given to clients that ask for no name, or for one that none has.
const DEFAULT: &str = "default";
/// Names of one certificate; authorities sign for a hundred.
const NAMES_MAX: usize = 1_000;

/// What a file was like: a change of any of it may be a change of its content. The time of the last change of its mode is
/// part of it, as a key that was open to others may have been closed.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

/// What a folder looked like; equal ones have the same files.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Look(Vec<(PathBuf, Option<Stamp>)>);

/// What can be used of a folder, and what is wrong with the rest.
pub(super) struct Loaded {
    pub(super) certificates: Certificates,
    pub(super) wrong: Vec<ProxyError>,
}

/// Looks at the files without reading them.
pub(super) fn look(folder: &Path, limits: &Limits) -> Result<Look, ProxyError> {
    let failed = |source| ProxyError::Folder {
        path: folder.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes()[0] == b'.');
        let is_ours = [CERTIFICATE, KEY]
            .iter()
            .any(|end| has_extension(&path, end));
        if is_hidden || !is_ours {
            continue;
        }
        // A certificate and a key each.
        if files.len() >= 2 * limits.certificates {
            return Err(ProxyError::TooManyCertificates {
                path: folder.to_owned(),
                max: limits.certificates,
            });
        }
        // Through links, as tools that renew certificates keep the files elsewhere.
        let stamp = fs::metadata(&path).ok().map(|file| stamp(&file));
        files.push((path, stamp));
    }
    files.sort();
    Ok(Look(files))
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e == extension)
}

fn stamp(file: &Metadata) -> Stamp {
    (
        file.dev(),
        file.ino(),
        file.size(),
        file.mtime(),
        file.mtime_nsec(),
        file.ctime(),
        file.ctime_nsec(),
    )
}

/// Reads the files that were seen.
pub(super) fn load(look: &Look, limits: &Limits) -> Loaded {
    let (mut all, mut wrong) = (Vec::new(), Vec::new());
    let certificates = look.0.iter().map(|(path, _)| path);
    for path in certificates.filter(|path| has_extension(path, CERTIFICATE)) {
        match certificate(path, limits) {
            Ok(certificate) => all.push(certificate),
            Err(error) => wrong.push(error),
        }
    }
    Loaded {
        certificates: Certificates::new(all),
        wrong,
    }
}

fn certificate(path: &Path, limits: &Limits) -> Result<Certificate, ProxyError> {
    let key_path = path.with_extension(KEY);
    if !key_path.exists() {
        return Err(ProxyError::NoKey {
            certificate: path.to_owned(),
            key: key_path,
        });
    }
    let text = read(path, limits, |_| Ok(()))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let chain = chain.ok_or_else(|| not_pem(path, "certificate"))?;
    let text = read(&key_path, limits, |file| is_private(&key_path, file))?;
    let key = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| not_pem(&key_path, "private key without a password"))?;
    let is_default = path.file_stem().is_some_and(|stem| stem == DEFAULT);
    let (names, not_after) = facts(path, &chain[0])?;
    if names.is_empty() && !is_default {
        return Err(ProxyError::NoNames {
            path: path.to_owned(),
        });
    }
    let provider = rustls::crypto::ring::default_provider();
    let key = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => ProxyError::WrongPair {
            certificate: path.to_owned(),
            key: key_path.clone(),
        },
        source => ProxyError::Key {
            path: key_path.clone(),
            source,
        },
    })?;
    Ok(Certificate {
        key: Arc::new(key),
        names,
        not_after,
        is_default,
    })
}

/// Names of hosts, and the end of the time for which it is valid. The subject's common name counts for nothing (RFC 9525
/// section 2).
fn facts(path: &Path, der: &CertificateDer<'_>) -> Result<(Vec<String>, i64), ProxyError> {
    let unusable = |reason: String| ProxyError::Certificate {
        path: path.to_owned(),
        reason,
    };
    let (_, read) = X509Certificate::from_der(der).map_err(|e| unusable(e.to_string()))?;
    let alternatives = read.subject_alternative_name();
    let alternatives = alternatives.map_err(|e| unusable(e.to_string()))?;
    let named = alternatives
        .iter()
        .flat_map(|names| &names.value.general_names);
    let names: Vec<_> = named
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .take(NAMES_MAX + 1)
        .collect();
    if names.len() > NAMES_MAX {
        return Err(unusable(format!("it names more than {NAMES_MAX} hosts")));
    }
    Ok((names, read.validity().not_after.timestamp()))
}

/// Whoever has the key is the host.
fn is_private(path: &Path, file: &Metadata) -> Result<(), ProxyError> {
    let mode = file.mode() & 0o777;
    match mode & 0o077 {
        0 => Ok(()),
        _ => Err(ProxyError::OpenKey {
            path: path.to_owned(),
            mode,
        }),
    }
}

fn read(
    path: &Path,
    limits: &Limits,
    check: impl FnOnce(&Metadata) -> Result<(), ProxyError>,
) -> Result<Zeroizing<Vec<u8>>, ProxyError> {
    let failed = |source| ProxyError::File {
        path: path.to_owned(),
        source,
    };
    // Looked at before it is opened: opening a pipe would wait for its writer.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is not a file")));
    }
    let file = File::open(path).map_err(failed)?;
    check(&file.metadata().map_err(failed)?)?;
    let max = limits.certificate_file_bytes;
    // Never moved while it grows, which would leave copies of a key behind.
    let mut text = Zeroizing::new(Vec::with_capacity(max + 1));
    file.take(max as u64 + 1)
        .read_to_end(&mut text)
        .map_err(failed)?;
    if text.len() > max {
        return Err(ProxyError::FileTooLarge {
            path: path.to_owned(),
            max,
        });
    }
    Ok(text)
}

fn not_pem(path: &Path, what: &'static str) -> ProxyError {
    ProxyError::NotPem {
        path: path.to_owned(),
        what,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(["A.example.test".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn write(folder: &Path, name: &str, text: &str) {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    }

    fn loaded(folder: &Path) -> Loaded {
        let limits = Limits::default();
        load(&look(folder, &limits).unwrap(), &limits)
    }

    #[test]
    fn what_is_wrong_names_the_file_and_what_to_do() {
        let (certificate, key) = pair();
        let (_, other) = pair();
        let nameless = rcgen::generate_simple_self_signed(Vec::new()).unwrap();
        let open = |folder: &Path| {
            let key = folder.join("a.key");
            fs::set_permissions(key, PermissionsExt::from_mode(0o644)).unwrap();
        };
        let nothing = |_: &Path| {};
        let missing = |folder: &Path| fs::remove_file(folder.join("a.key")).unwrap();
        let (own, its_key) = (nameless.cert.pem(), nameless.signing_key.serialize_pem());
        let long = "x".repeat(Limits::default().certificate_file_bytes + 1);
        type Then<'a> = &'a dyn Fn(&Path);
        let cases: [(&str, &str, Then<'_>, &str); 8] = [
            (
                &certificate,
                &key,
                &open,
                "a.key can be read by others (mode 644)",
            ),
            (&certificate, &key, &missing, "put it at"),
            (&certificate, &other, &nothing, "does not belong to"),
            (&certificate, "", &nothing, "a.key holds no private key"),
            (
                &certificate,
                &certificate,
                &nothing,
                "a.key holds no private key",
            ),
            ("", &key, &nothing, "a.crt holds no certificate"),
            (&own, &its_key, &nothing, "names no host"),
            (&long, &key, &nothing, "has more than 131072 bytes"),
        ];
        for (certificate, key, then, said) in cases {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), "a.crt", certificate);
            write(folder.path(), "a.key", key);
            then(folder.path());
            let loaded = loaded(folder.path());
            let [error] = &loaded.wrong[..] else {
                panic!("{said}: {:?}", loaded.wrong);
            };
            let error = error.to_string();
            assert!(error.contains(said) && error.contains("/a."), "{error}");
            assert_eq!(loaded.certificates.count, 0);
        }
    }

    #[test]
    fn files_that_are_none_of_ours_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = pair();
        for name in ["README", ".a.crt", "a.pem", "b.key"] {
            write(folder.path(), name, "nothing");
        }
        let elsewhere = tempfile::tempdir().unwrap();
        write(elsewhere.path(), "live.pem", &certificate);
        write(elsewhere.path(), "key.pem", &key);
        let link = |from: &str, to: &str| {
            std::os::unix::fs::symlink(elsewhere.path().join(from), folder.path().join(to))
        };
        link("live.pem", "c.crt").unwrap();
        link("key.pem", "c.key").unwrap();
        let loaded = loaded(folder.path());
        assert!(loaded.wrong.is_empty(), "{:?}", loaded.wrong);
        assert!(loaded.certificates.named("a.example.test").is_some());
    }

    #[test]
    fn every_change_is_seen_and_too_many_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits {
            certificates: 1,
            ..Limits::default()
        };
        let seen = || look(folder.path(), &limits).unwrap();
        let empty = seen();
        write(folder.path(), "a.key", "1");
        let one = seen();
        assert!(one != empty && one == seen());
        let path = folder.path().join("a.key");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let open = seen();
        assert_ne!(one, open);
        write(folder.path(), "new", "1");
        fs::rename(folder.path().join("new"), path).unwrap();
        assert_ne!(open, seen());
        for name in ["a.crt", "b.crt"] {
            write(folder.path(), name, "");
        }
        let refused = look(folder.path(), &limits).unwrap_err().to_string();
        assert!(refused.contains("more than 1"), "{refused}");
        assert!(look(&folder.path().join("none"), &limits).is_err());
    }
}
