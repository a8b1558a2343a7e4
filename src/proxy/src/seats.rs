//! How many connections there may be, in all and from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) struct Seats {
    most: usize,
    most_per_address: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoSeat {
    /// As many are open as may be.
    Full,
    /// As many are open of its address.
    Crowded,
}

impl Seats {
    pub(crate) fn new(most: usize, most_per_address: usize) -> Seats {
        Seats {
            most,
            most_per_address,
            taken: Mutex::default(),
        }
    }

    pub(crate) fn take(seats: &Arc<Seats>, peer: IpAddr) -> Result<Seat, NoSeat> {
        let address = network(peer);
        let mut taken = seats.lock();
        if taken.all >= seats.most {
            return Err(NoSeat::Full);
        }
        let of_address = taken.by_address.get(&address).copied().unwrap_or(0);
        if of_address >= seats.most_per_address {
            return Err(NoSeat::Crowded);
        }
        taken.by_address.insert(address, of_address + 1);
        taken.all += 1;
        drop(taken);
        Ok(Seat {
            seats: Arc::clone(seats),
            address,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's, until it is dropped.
pub(crate) struct Seat {
    seats: Arc<Seats>,
    address: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock();
        taken.all -= 1;
        if let Some(of_address) = taken.by_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

/// What counts as one address: of IPv6 a client has a whole /64.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => {
            let prefix = u128::from(v6) >> 64 << 64;
            Ipv6Addr::from(prefix).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_counted_by_address_and_given_back() {
        let seats = Arc::new(Seats::new(3, 2));
        let take = |peer: &str| Seats::take(&seats, peer.parse().unwrap());
        let one = take("2001:db8::1").unwrap_or_else(|_| panic!("full"));
        let _two = take("2001:db8::ffff:2").unwrap_or_else(|_| panic!("full"));
        assert_eq!(take("2001:db8::3").err(), Some(NoSeat::Crowded));
        let _three = take("192.0.2.1").unwrap_or_else(|_| panic!("full"));
        assert_eq!(take("192.0.2.2").err(), Some(NoSeat::Full));
        drop(one);
        assert!(take("2001:db8::3").is_ok());
        drop((_two, _three));
        assert!(seats.lock().by_address.is_empty());
        assert_eq!(seats.lock().all, 0);
    }
}
