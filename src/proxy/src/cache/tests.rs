//! Answers that come in, and what a space holds after any sequence of what may happen to it.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, StatusCode};
use nebula_domain::ReleaseNumber;
use nebula_domain::http::Cache;
use nebula_domain::http::cache::{Asker, Times, Vary, keep};
use nebula_domain::routes::Version;
use nebula_domain::time::Millis;
use nebula_telemetry::Metrics;
use proptest::prelude::*;
use tokio::io::{AsyncWriteExt, duplex};

use super::entry::{Growing, Head, Memory, Stored, Variant, lines, read_along};
use super::flight::{Lead, State};
use super::incoming::Incoming;
use super::key::{Ask, Key};
use super::space::{Look, Space};
use crate::headers::tests::request;
use crate::origin::{Origin, Scheme};

fn head(vary: &str) -> Head {
    let mut fields = HeaderMap::new();
    fields.insert("cache-control", "max-age=60".parse().unwrap());
    if !vary.is_empty() {
        fields.insert("vary", vary.parse().unwrap());
    }
    let times = Times {
        asked: 0,
        received: 0,
        date: 0,
    };
    let policy = Cache::default();
    let fresh = keep(&policy, Asker::default(), 200, lines(&fields), times).unwrap();
    Head {
        status: StatusCode::OK,
        fields,
        fresh,
    }
}

fn memory(max: usize) -> Arc<Memory> {
    Memory::new(max, Metrics::new().gauge("held", "For a test"))
}

fn growing(memory: &Arc<Memory>, length: Option<usize>) -> Arc<Growing> {
    let charge = memory.charge(length.unwrap_or(0)).unwrap();
    let variant = Variant {
        vary: Vary::default(),
        values: Vec::new(),
    };
    Arc::new(Growing::new(head(""), variant, length, charge))
}

fn space(total: &Arc<AtomicUsize>) -> Arc<Space> {
    let passes = NonZeroUsize::new(4).unwrap();
    Arc::new(Space::new(Arc::clone(total), passes, 1))
}

fn version(release: u32) -> Version {
    Version {
        release: ReleaseNumber(release),
        created_at: Millis(0),
        purged_at: 0,
    }
}

/// Looks for a path with a value of the field `x`.
fn look(space: &Arc<Space>, path: &str, x: &str, version: Version) -> (Look, Vec<u8>) {
    let head = request(&format!("GET {path} HTTP/1.1\r\nHost: a\r\nX: {x}\r\n\r\n"));
    let origin = Origin::new([127, 0, 0, 1].into(), Scheme::Http, &[]);
    let key = Key::of_request(&origin, Scheme::Http, b"a", path);
    let ask = Ask::of(&head, key).unwrap_or_else(|_| panic!("it meets the cache"));
    let values = ask.values(&Vary::read(&[b"x"]).unwrap());
    (space.look(&ask, version, || true, 0), values)
}

fn lead(space: &Arc<Space>) -> Lead {
    match look(space, "/", "", version(1)).0 {
        Look::Fetch(lead, ..) => lead,
        _ => panic!("somebody else fetches it"),
    }
}

#[tokio::test]
async fn readers_come_and_go_while_it_grows() {
    let memory = memory(1000);
    let growing = growing(&memory, None);
    let mut early = read_along(Arc::clone(&growing));
    assert!(growing.add(Bytes::from_static(b"ab"), 100));
    assert_eq!(early.next().await.unwrap().unwrap(), "ab");
    assert!(growing.add(Bytes::from_static(b"cd"), 100));
    let mut late = read_along(Arc::clone(&growing));
    assert_eq!(late.next().await.unwrap().unwrap(), "ab");
    assert_eq!(growing.finish().unwrap(), "abcd");
    for reader in [&mut early, &mut late] {
        assert_eq!(reader.next().await.unwrap().unwrap(), "cd");
        assert!(reader.next().await.is_none());
    }
    assert_eq!(growing.whole().await.unwrap(), "abcd");
    assert!(!growing.fail());
}

#[tokio::test]
async fn what_grows_too_large_goes_on_to_one() {
    let memory = memory(1000);
    let growing = growing(&memory, None);
    let mut first = read_along(Arc::clone(&growing));
    assert!(growing.add(Bytes::from_static(b"ab"), 3));
    assert!(!growing.add(Bytes::from_static(b"cd"), 3));
    let (mut there, here) = duplex(64);
    let rest = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nef";
    there.write_all(rest).await.unwrap();
    let mut incoming = Incoming::new(here);
    incoming.head().await.unwrap();
    growing.pass_on(incoming);
    assert!(growing.whole().await.is_none());
    for piece in ["ab", "cd", "ef"] {
        assert_eq!(first.next().await.unwrap().unwrap(), piece);
    }
    assert!(first.next().await.is_none());
    let mut second = read_along(growing);
    second.next().await.unwrap().unwrap();
    second.next().await.unwrap().unwrap();
    assert!(second.next().await.unwrap().is_err());
    assert!(second.next().await.is_none());
}

#[tokio::test]
async fn memory_is_counted_until_nobody_has_any_of_it() {
    let memory = memory(1000);
    let growing = growing(&memory, Some(600));
    assert!(memory.charge(500).is_none());
    assert!(growing.add(vec![0; 600].into(), 600));
    let body = growing.finish().unwrap();
    drop(growing);
    let part = body.slice(1..2);
    drop(body);
    assert!(memory.charge(500).is_none());
    drop(part);
    assert!(memory.charge(1000).is_some());
}

#[tokio::test]
async fn who_waits_is_let_go_however_a_fetch_ends() {
    let total = Arc::default();
    let space = space(&total);
    let waiting = lead(&space);
    let mut waiter = waiting.flight.join();
    assert!(matches!(
        look(&space, "/", "", version(1)).0,
        Look::Wait(..)
    ));
    drop(waiting);
    assert!(matches!(waiter.outcome().await, State::Alone));
    let filling = lead(&space);
    let mut waiter = filling.flight.join();
    let growing = growing(&memory(1000), None);
    let mut reader = read_along(Arc::clone(&growing));
    filling.tell(State::Filling(growing));
    assert!(matches!(waiter.outcome().await, State::Filling(_)));
    drop(filling);
    assert!(reader.next().await.unwrap().is_err());
    assert!(matches!(waiter.outcome().await, State::Alone));
    drop(lead(&space));
}

#[test]
fn a_fetch_is_in_vain_only_while_nobody_waits_and_nothing_has_come() {
    let space = space(&Arc::default());
    let first = lead(&space);
    let abandoned = || space.abandon(&first.place, &first.flight);
    let (Look::Wait(waiter, ..), _) = look(&space, "/", "", version(1)) else {
        panic!("it is waited for");
    };
    assert!(!abandoned());
    drop(waiter);
    assert!(abandoned());
    // Nobody comes to wait for it any more.
    let second = lead(&space);
    drop(first);
    let memory = memory(1000);
    second.tell(State::Filling(growing(&memory, None)));
    assert!(!space.abandon(&second.place, &second.flight));
    assert!(matches!(
        look(&space, "/", "", version(1)).0,
        Look::Wait(..)
    ));
}

#[test]
fn what_is_known_of_an_answer_leads_the_next_to_it_before_it_is_whole() {
    let space = space(&Arc::default());
    let (Look::Fetch(mut first, ..), values) = look(&space, "/", "1", version(1)) else {
        panic!("it is there");
    };
    let variant = Variant {
        vary: Vary::read(&[b"x"]).unwrap(),
        values,
    };
    space.learn(&mut first, version(1), &variant);
    assert!(matches!(
        look(&space, "/", "1", version(1)).0,
        Look::Wait(..)
    ));
    assert!(matches!(
        look(&space, "/", "2", version(1)).0,
        Look::Fetch(..)
    ));
    drop(first);
    assert!(matches!(
        look(&space, "/", "1", version(1)).0,
        Look::Fetch(..)
    ));
}

#[derive(Debug, Clone)]
enum Step {
    /// Looks, and keeps an answer of so many bytes if there is none.
    Ask {
        path: u8,
        x: u8,
        varies: bool,
        bytes: usize,
    },
    Change {
        path: u8,
    },
    Evict,
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    let ask = (0u8..4, 0u8..3, any::<bool>(), 0usize..50);
    prop_oneof![
        6 => ask.prop_map(|(path, x, varies, bytes)| Step::Ask { path, x, varies, bytes }),
        1 => (0u8..4).prop_map(|path| Step::Change { path }),
        1 => Just(Step::Evict),
        1 => Just(Step::Release),
    ]
}

proptest! {
    #[test]
    fn nobody_is_given_what_is_for_others(steps in prop::collection::vec(step(), 0..60)) {
        let total = Arc::new(AtomicUsize::new(0));
        let space = space(&total);
        let mut release = 1;
        // What was last kept for a path, and for which value if it depends on one.
        let mut kept: HashMap<(u8, Option<u8>), Bytes> = HashMap::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Ask { path, x, varies, bytes } => {
                    let url = format!("/{path}");
                    match look(&space, &url, &x.to_string(), version(release)) {
                        (Look::Fresh(stored), _) => {
                            let any = kept.get(&(path, None));
                            let own = kept.get(&(path, Some(x)));
                            prop_assert!(own.or(any) == Some(&stored.body));
                        }
                        (Look::Fetch(lead, ..), values) => {
                            let vary = if varies { "x" } else { "" };
                            let body = Bytes::from(format!("{number} {}", "x".repeat(bytes)));
                            let variant = Variant {
                                vary: Vary::read(&[vary.as_bytes()]).unwrap(),
                                values: if varies { values } else { Vec::new() },
                            };
                            let stored = Stored { head: head(vary), body: body.clone() };
                            prop_assert!(space.keep(&lead, version(release), &variant, Arc::new(stored)));
                            if varies {
                                kept.remove(&(path, None));
                                kept.insert((path, Some(x)), body);
                            } else {
                                kept.retain(|(of, _), _| *of != path);
                                kept.insert((path, None), body);
                            }
                        }
                        _ => prop_assert!(false, "nothing else can be"),
                    }
                }
                Step::Change { path } => {
                    let origin = Origin::new([127, 0, 0, 1].into(), Scheme::Http, &[]);
                    let url = format!("/{path}");
                    space.invalidate(&Key::of_request(&origin, Scheme::Http, b"a", &url));
                    kept.retain(|(of, _), _| *of != path);
                }
                Step::Evict => {
                    space.evict();
                }
                Step::Release => {
                    release += 1;
                    kept.clear();
                }
            }
            prop_assert_eq!(space.bytes(), total.load(Ordering::Relaxed));
            prop_assert_eq!(space.bytes(), space.counted());
        }
        while space.evict() {}
        prop_assert_eq!(total.load(Ordering::Relaxed), 0);
    }
}
