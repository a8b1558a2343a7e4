//! Basic authentication (RFC 7617). A password's hash is slow on purpose, so that what was right is remembered for a while, and what is
//! new is computed away from the edge's threads, few at a time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use nebula_domain::DeploymentName;
use nebula_domain::http::HttpPolicy;
use tokio::sync::Semaphore;

/// How long a password that was right counts without being computed again: after a change of users it counts no longer than
/// that, since the users are part of what is remembered.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Passwords remembered.
const REMEMBERED_MAX: usize = 4096;
/// Computed at the same time; further ones wait. Each takes a core for some tens of milliseconds.
const COMPUTED_MAX: usize = 2;
/// Computed or waiting. The last of them waits for some seconds; whoever comes then is asked to come again.
const WAITING_MAX: usize = 128;
/// Of one deployment: who tries passwords at one keeps nobody from logging in at another, and has them wait for less than a second.
const WAITING_OF_ONE_MAX: usize = WAITING_MAX / 4;
/// Of a name and password in base64. Browsers send what people type.
const GIVEN_BYTES_MAX: usize = 1024;

pub(super) struct Passwords {
    /// So that what is remembered is of no use to who reads this memory.
    key: [u8; 32],
    right: Mutex<HashMap<[u8; 32], Instant>>,
    slots: Semaphore,
    queue: Mutex<Queue>,
}

/// Who waits, by deployment.
#[derive(Default)]
struct Queue {
    all: usize,
    of: HashMap<DeploymentName, usize>,
}

/// In the queue, until it is dropped.
struct Place<'a> {
    queue: &'a Mutex<Queue>,
    deployment: &'a DeploymentName,
}

impl<'a> Place<'a> {
    fn take(queue: &'a Mutex<Queue>, deployment: &'a DeploymentName) -> Result<Place<'a>, Busy> {
        let mut waiting = queue.lock().unwrap_or_else(PoisonError::into_inner);
        let of_one = waiting.of.get(deployment).copied().unwrap_or(0);
        if waiting.all >= WAITING_MAX || of_one >= WAITING_OF_ONE_MAX {
            return Err(Busy);
        }
        waiting.all += 1;
        *waiting.of.entry(deployment.clone()).or_default() += 1;
        Ok(Place { queue, deployment })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.all -= 1;
        if let Some(of_one) = waiting.of.get_mut(self.deployment) {
            *of_one -= 1;
            if *of_one == 0 {
                waiting.of.remove(self.deployment);
            }
        }
    }
}

/// Too many passwords wait to be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Busy;

impl Passwords {
    pub(super) fn new() -> Passwords {
        Passwords {
            key: rand::random(),
            right: Mutex::default(),
            slots: Semaphore::new(COMPUTED_MAX),
            queue: Mutex::default(),
        }
    }

    /// Whether the `Authorization` field names one of the users, with the right password.
    pub(super) async fn accept(
        &self,
        deployment: &DeploymentName,
        policy: &HttpPolicy,
        given: Option<&[u8]>,
    ) -> Result<bool, Busy> {
        let Some((name, password)) = given.and_then(credentials) else {
            return Ok(false);
        };
        let known = self.digest(policy, &name, &password);
        if self.remembers(&known) {
            return Ok(true);
        }
        let _place = Place::take(&self.queue, deployment)?;
        let _slot = self.slots.acquire().await.map_err(|_| Busy)?;
        let users = policy.basic_auth.clone();
        let computed = tokio::task::spawn_blocking(move || users.accepts(&name, &password));
        let right = computed.await.unwrap_or(false);
        if right {
            self.remember(known);
        }
        Ok(right)
    }

    fn digest(&self, policy: &HttpPolicy, name: &str, password: &str) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        for user in &policy.basic_auth.users {
            hasher.update(user.name.as_str().as_bytes());
            hasher.update(b":");
            hasher.update(user.hash.as_str().as_bytes());
            hasher.update(b"\n");
        }
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(password.as_bytes());
        *hasher.finalize().as_bytes()
    }

    fn remembers(&self, known: &[u8; 32]) -> bool {
        let right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        right
            .get(known)
            .is_some_and(|since| since.elapsed() < REMEMBERED)
    }

    fn remember(&self, known: [u8; 32]) {
        let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        if right.len() >= REMEMBERED_MAX {
            right.retain(|_, since| since.elapsed() < REMEMBERED);
        }
        if right.len() < REMEMBERED_MAX {
            right.insert(known, Instant::now());
        }
    }
}

/// Name and password.
fn credentials(field: &[u8]) -> Option<(String, String)> {
    let (scheme, given) = field.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") || given.len() > GIVEN_BYTES_MAX {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(given.trim_ascii())
        .ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_finds_the_queue_full_is_told_so() {
        let passwords = Passwords::new();
        let policy = HttpPolicy::default();
        let given = Some(&b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="[..]);
        let named = |number: usize| format!("d{number}").parse::<DeploymentName>().unwrap();
        let (one, other, last) = (named(0), named(1), named(4));
        let names = [1, 2, 3].map(named);
        let queue = &passwords.queue;
        let fill = |name| {
            let places = (0..WAITING_OF_ONE_MAX).map(|_| Place::take(queue, name));
            places.collect::<Result<Vec<_>, Busy>>().unwrap()
        };
        let crowd = fill(&one);
        assert_eq!(passwords.accept(&one, &policy, given).await, Err(Busy));
        // Nothing is computed for who gives none.
        assert_eq!(passwords.accept(&one, &policy, None).await, Ok(false));
        // Others have their part.
        assert_eq!(passwords.accept(&other, &policy, given).await, Ok(false));
        let full = names.each_ref().map(fill);
        assert_eq!(passwords.accept(&last, &policy, given).await, Err(Busy));
        drop((crowd, full));
        assert_eq!(passwords.accept(&one, &policy, given).await, Ok(false));
        assert!(passwords.queue.lock().unwrap().of.is_empty());
    }

    #[test]
    fn credentials_are_read_as_rfc_7617_has_them() {
        let read = |field: &str| credentials(field.as_bytes());
        let aladdin = Some(("Aladdin".to_owned(), "open sesame".to_owned()));
        assert_eq!(read("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), aladdin);
        assert_eq!(read("bAsIc  QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), aladdin);
        // The first colon divides.
        assert_eq!(
            read("Basic YTpiOmM="),
            Some(("a".to_owned(), "b:c".to_owned()))
        );
        for bad in [
            "",
            "Basic",
            "Basic ",
            "Basic !",
            "Bearer x",
            "Basic QQ==",
            "Basic /w==",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
