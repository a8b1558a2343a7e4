//! What was read of a connection and not used yet. Used bytes are passed over instead of the rest being moved to the front, and a
//! read that goes on at once to somebody else comes with the buffer that it was read into: a body that came with its head is not
//! copied on its way.

use std::cell::RefCell;
use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

use super::wire::{KEPT_BYTES, READ_BYTES};

/// Read buffers that a thread keeps: so many connections at most have bytes waiting between two polls of a task.
const SPARE: usize = 4;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    /// So much of the front has been used.
    used: usize,
}

impl Inbox {
    pub(super) fn extend_from_slice(&mut self, more: &[u8]) {
        if self.used > 0 {
            self.bytes.drain(..self.used);
            self.used = 0;
        }
        self.bytes.extend_from_slice(more);
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.used = (self.used + count).min(self.bytes.len());
        if self.used == self.bytes.len() {
            self.clear();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.used = 0;
        self.bytes.clear();
        if self.bytes.capacity() >= READ_BYTES {
            give_back(std::mem::take(&mut self.bytes));
        }
    }

    /// The first `count` bytes, without a copy when that is all.
    pub(crate) fn split_to(&mut self, count: usize) -> Vec<u8> {
        if self.used == 0 && count == self.bytes.len() {
            return std::mem::take(&mut self.bytes);
        }
        let front = self[..count].to_vec();
        self.consume(count);
        front
    }

    /// The same into `place`, whose buffer it may have in exchange.
    pub(super) fn split_into(&mut self, count: usize, place: &mut Vec<u8>) {
        if self.used == 0 && count == self.bytes.len() {
            place.clear();
            std::mem::swap(place, &mut self.bytes);
        } else {
            place.extend_from_slice(&self[..count]);
            self.consume(count);
        }
    }

    pub(super) fn into_vec(mut self) -> Vec<u8> {
        self.bytes.drain(..self.used);
        self.bytes
    }

    /// Lets go of more memory than `max`, if there is nothing in it.
    pub(super) fn shrink(&mut self, max: usize) {
        if self.is_empty() && self.bytes.capacity() > max {
            self.bytes = Vec::new();
        }
    }

    /// Reads more. A long read into an empty inbox becomes the inbox.
    pub(super) fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncRead + Unpin),
    ) -> Poll<io::Result<usize>> {
        let mut buffer = BUFFERS
            .with_borrow_mut(Vec::pop)
            .unwrap_or_else(|| Vec::with_capacity(READ_BYTES));
        let read = poll_read_buf(Pin::new(io), cx, &mut buffer);
        if self.is_empty() && buffer.len() > KEPT_BYTES {
            self.clear();
            self.bytes = buffer;
        } else {
            self.extend_from_slice(&buffer);
            give_back(buffer);
        }
        read
    }
}

impl Deref for Inbox {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.used..]
    }
}

impl From<Vec<u8>> for Inbox {
    fn from(bytes: Vec<u8>) -> Inbox {
        Inbox { bytes, used: 0 }
    }
}

fn give_back(mut buffer: Vec<u8>) {
    buffer.clear();
    BUFFERS.with_borrow_mut(|all| {
        if all.len() < SPARE {
            all.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncWriteExt;

    async fn take(inbox: &mut Inbox, io: &mut (impl AsyncRead + Unpin)) -> usize {
        poll_fn(|cx| inbox.poll_take(cx, io)).await.unwrap()
    }

    #[test]
    fn what_is_used_is_passed_over() {
        let mut inbox = Inbox::from(b"0123456789".to_vec());
        inbox.consume(2);
        assert_eq!(&inbox[..], b"23456789");
        inbox.extend_from_slice(b"ab");
        assert_eq!(inbox.split_to(3), b"234");
        let mut place = b"x".to_vec();
        inbox.split_into(2, &mut place);
        assert_eq!((&place[..], &inbox[..]), (&b"x56"[..], &b"789ab"[..]));
        inbox.consume(1);
        assert_eq!(inbox.into_vec(), b"89ab");
    }

    #[test]
    fn all_of_it_goes_with_its_buffer() {
        let mut inbox = Inbox::from(b"all".to_vec());
        let at = inbox.as_ptr();
        let mut place = b"old".to_vec();
        inbox.split_into(3, &mut place);
        assert_eq!((place.as_ptr(), &place[..]), (at, &b"all"[..]));
        assert!(inbox.is_empty());
        let mut inbox = Inbox::from(place);
        let all = inbox.split_to(3);
        assert_eq!((all.as_ptr(), &all[..]), (at, &b"all"[..]));
        assert!(inbox.is_empty());
    }

    #[tokio::test]
    async fn a_long_read_is_not_copied_and_its_buffer_is_used_again() {
        let (mut one, mut other) = tokio::io::duplex(READ_BYTES);
        let mut inbox = Inbox::default();
        one.write_all(b"short").await.unwrap();
        assert_eq!(take(&mut inbox, &mut other).await, 5);
        assert!(inbox.bytes.capacity() < KEPT_BYTES);
        // Behind what waits it is copied.
        one.write_all(&[b'x'; 2000]).await.unwrap();
        assert_eq!(take(&mut inbox, &mut other).await, 2000);
        assert!(inbox.starts_with(b"shortxxx") && inbox.len() == 2005);
        inbox.consume(2005);
        one.write_all(&[b'y'; 2000]).await.unwrap();
        assert_eq!(take(&mut inbox, &mut other).await, 2000);
        assert_eq!(&inbox[..], &[b'y'; 2000]);
        let at = inbox.as_ptr();
        inbox.consume(1999);
        assert_eq!(&inbox[..], b"y");
        inbox.consume(1);
        assert_eq!(inbox.bytes.capacity(), 0);
        one.write_all(&[b'z'; 2000]).await.unwrap();
        assert_eq!(take(&mut inbox, &mut other).await, 2000);
        assert_eq!(inbox.as_ptr(), at);
        drop(one);
        inbox.clear();
        assert_eq!(take(&mut inbox, &mut other).await, 0);
    }
}
