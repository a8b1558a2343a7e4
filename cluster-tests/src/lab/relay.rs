//! A network in user space, for delays: the kernel here has no netem. Each machine has a TUN device in place of a
//! cable. What goes out of one comes in at another after a time of its own, drawn for each packet, so that packets
//! overtake each other as they do on long ways; addresses stay as they are.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::links::{Link, Links, Slow};

/// More than any packet of the devices, whose MTU is 1500.
const PACKET_BYTES: usize = 2048;
/// Packets on their way at once; further ones are lost, as in any network. A second of 100 Mbit/s.
const ON_THE_WAY: usize = 10_000;
/// Between two looks whether it is over.
const LOOK_MS: u16 = 100;

/// `struct ifreq` as far as TUNSETIFF reads it (linux/if.h), in its full length.
#[repr(C)]
struct DeviceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// Makes a TUN device in a network namespace. It goes with the file.
pub fn tun(namespace: &Path, name: &str) -> std::io::Result<File> {
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    // The thread that enters the namespace ends in it.
    let thread = std::thread::spawn(move || {
        setns(File::open(namespace)?, CloneFlags::CLONE_NEWNET)?;
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")?;
        attach(&device, &name)?;
        Ok(device)
    });
    thread.join().expect("making a device does not panic")
}

#[allow(unsafe_code)]
fn attach(device: &File, name: &str) -> std::io::Result<()> {
    let flags = libc::IFF_TUN | libc::IFF_NO_PI;
    let mut request = DeviceRequest {
        name: [0; libc::IFNAMSIZ],
        flags: libc::c_short::try_from(flags).expect("flags of 16 bits"),
        rest: [0; 22],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    nix::ioctl_write_ptr_bad!(
        set_interface,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        DeviceRequest
    );
    // SAFETY: the descriptor is open, and the request is as long as the kernel's own and outlives the call.
    unsafe {
        set_interface(device.as_raw_fd(), &request)?;
    }
    Ok(())
}

struct Packet {
    due: Instant,
    /// Of two that are due at once the older one goes first.
    number: u64,
    to: usize,
    bytes: Vec<u8>,
}

impl Packet {
    fn key(&self) -> (Instant, u64) {
        (self.due, self.number)
    }
}

impl PartialEq for Packet {
    fn eq(&self, other: &Packet) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Packet {}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Packet) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Packet {
    fn cmp(&self, other: &Packet) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

struct Way {
    links: Links,
    rng: StdRng,
    sent: u64,
    waiting: BinaryHeap<Reverse<Packet>>,
    over: bool,
}

struct Shared {
    /// By machine.
    devices: Vec<File>,
    way: Mutex<Way>,
    changed: Condvar,
}

/// Carries packets between the machines until it is dropped.
pub struct Relay {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// The machines' devices in the order of their addresses, the last byte of which counts from 1.
    pub fn start(devices: Vec<File>, seed: u64) -> Relay {
        let count = devices.len();
        let shared = Arc::new(Shared {
            devices,
            way: Mutex::new(Way {
                links: Links::open(count),
                rng: StdRng::seed_from_u64(seed),
                sent: 0,
                waiting: BinaryHeap::new(),
                over: false,
            }),
            changed: Condvar::new(),
        });
        let take_in = |from: usize| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.take_in(from))
        };
        let mut threads: Vec<_> = (0..count).map(take_in).collect();
        let deliverer = shared.clone();
        threads.push(std::thread::spawn(move || deliverer.deliver()));
        Relay { shared, threads }
    }

    /// How long packets take from now on; [`Link::Lossy`] and [`Link::Cut`] are not the relay's.
    pub fn set_links(&self, links: &Links) {
        self.shared.way().links = links.clone();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.way().over = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn way(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_in(&self, from: usize) {
        let mut device = &self.devices[from];
        let mut buffer = [0; PACKET_BYTES];
        while !self.way().over {
            let mut ready = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::from(LOOK_MS)) {
                Ok(1..) => {}
                Ok(_) | Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => return,
            }
            match device.read(&mut buffer) {
                Ok(length) => self.send(from, &buffer[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The namespace and the device in it are gone.
                Err(_) => return,
            }
        }
    }

    fn send(&self, from: usize, packet: &[u8]) {
        let to = destination(packet).filter(|to| *to < self.devices.len() && *to != from);
        let Some(to) = to else { return };
        let mut way = self.way();
        let Link::Slow(slow) = way.links.get(from, to) else {
            drop(way);
            return self.hand_over(to, packet);
        };
        for due in way.due(slow) {
            if way.waiting.len() >= ON_THE_WAY {
                return;
            }
            way.sent += 1;
            let packet = Packet {
                due,
                number: way.sent,
                to,
                bytes: packet.to_vec(),
            };
            way.waiting.push(Reverse(packet));
        }
        self.changed.notify_all();
    }

    fn hand_over(&self, to: usize, packet: &[u8]) {
        // A machine that takes nothing in loses it.
        let _ = (&self.devices[to]).write(packet);
    }

    fn deliver(&self) {
        let mut way = self.way();
        while !way.over {
            let now = Instant::now();
            let next = way.waiting.peek().map(|Reverse(packet)| packet.due);
            match next {
                Some(due) if due <= now => {
                    let packet = way.waiting.pop();
                    drop(way);
                    if let Some(Reverse(packet)) = packet {
                        self.hand_over(packet.to, &packet.bytes);
                    }
                    way = self.way();
                }
                next => {
                    let longest = Duration::from_millis(u64::from(LOOK_MS));
                    let left = next.map_or(longest, |due| due - now);
                    let waited = self.changed.wait_timeout(way, left);
                    way = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
}

impl Way {
    /// When a packet arrives: never, once, or twice.
    fn due(&mut self, slow: Slow) -> Vec<Instant> {
        if self.rng.random_range(0..100) < slow.lost {
            return Vec::new();
        }
        let copies = 1 + usize::from(self.rng.random_range(0..100) < slow.twice);
        let now = Instant::now();
        let mut arrives = || now + self.rng.random_range(slow.shortest..=slow.longest);
        (0..copies).map(|_| arrives()).collect()
    }
}

/// The machine that an IPv4 packet goes to.
fn destination(packet: &[u8]) -> Option<usize> {
    let (version, last) = (packet.first()? >> 4, packet.get(19)?);
    if version != 4 {
        return None;
    }
    usize::from(*last).checked_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_goes_where_its_address_says() {
        let mut packet = [0_u8; 28];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&[10, 77, 9, 3]);
        assert_eq!(destination(&packet), Some(2));
        packet[0] = 0x60;
        assert_eq!(destination(&packet), None, "IPv6");
        assert_eq!(destination(&packet[..10]), None, "cut off");
    }

    #[test]
    fn delays_and_losses_are_as_told() {
        let slow = Slow {
            lost: 30,
            twice: 10,
            ..Slow::BY_75_MS
        };
        let mut way = Way {
            links: Links::open(2),
            rng: StdRng::seed_from_u64(1),
            sent: 0,
            waiting: BinaryHeap::new(),
            over: false,
        };
        let now = Instant::now();
        let sent: Vec<_> = (0..2000).map(|_| way.due(slow)).collect();
        let lost = sent.iter().filter(|copies| copies.is_empty()).count();
        let twice = sent.iter().filter(|copies| copies.len() == 2).count();
        assert!((500..700).contains(&lost), "{lost}");
        assert!((100..200).contains(&twice), "{twice}");
        assert!(sent.iter().flatten().all(|due| *due >= now + slow.shortest));
    }
}
