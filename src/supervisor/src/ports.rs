//! Which port a program gets.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;

use nebula_domain::InstanceId;

/// A port of the range that no instance here has and nobody listens on: `before` if that is free,
/// so that a restarted program is found where it was. Others begin their search at different places,
/// so that a port that has just become free is not the next one given out.
pub(crate) fn choose(
    range: &RangeInclusive<u16>,
    taken: &BTreeSet<u16>,
    before: Option<u16>,
    instance: InstanceId,
) -> Option<u16> {
    let usable = |port: &u16| !taken.contains(port) && is_free(*port);
    if let Some(port) = before.filter(|port| range.contains(port)).filter(usable) {
        return Some(port);
    }
    let size = usize::from(range.end().checked_sub(*range.start())?) + 1;
    let begin = usize::try_from(instance.0 % size as u64).unwrap_or(0);
    range.clone().cycle_from(begin).take(size).find(usable)
}

/// The standard library sets SO_REUSEADDR, so that closed connections do not keep a port busy and
/// only a listener does.
fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

trait CycleFrom {
    fn cycle_from(self, begin: usize) -> impl Iterator<Item = u16>;
}

impl CycleFrom for RangeInclusive<u16> {
    fn cycle_from(self, begin: usize) -> impl Iterator<Item = u16> {
        self.clone().skip(begin).chain(self.take(begin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_somebody_listens_on_is_passed_over() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let busy = listener.local_addr().unwrap().port();
        let none = BTreeSet::new();
        let id = InstanceId(0);
        assert_eq!(choose(&(busy..=busy), &none, Some(busy), id), None);
        drop(listener);
        assert_eq!(choose(&(busy..=busy), &none, None, id), Some(busy));
        assert_eq!(choose(&(busy..=busy), &[busy].into(), None, id), None);
    }

    #[test]
    fn the_port_of_before_comes_first() {
        // Ports that are free now, and that nobody else is likely to take in between.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let last = listener.local_addr().unwrap().port();
        drop(listener);
        let range = last - 20..=last;
        let none = BTreeSet::new();
        assert_eq!(choose(&range, &none, Some(last), InstanceId(3)), Some(last));
        let outside = choose(&range, &none, Some(1), InstanceId(3)).unwrap();
        assert!(range.contains(&outside));
    }

    #[test]
    fn the_search_goes_once_around() {
        let all: Vec<u16> = (10..=14).cycle_from(3).collect();
        assert_eq!(all, [13, 14, 10, 11, 12]);
    }
}
