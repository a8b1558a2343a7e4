//! Two connections joined after a change of protocol: what either sends goes to the other, until both have ended.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::h1::{Framing, Length, Moved, Relay, RelayError, Timer, Trailers, Wire};

/// One direction.
struct Direction {
    relay: Relay,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The sender has ended; the receiver is to be told.
    Ending,
    Ended,
}

impl Direction {
    fn new() -> Direction {
        Direction {
            relay: Relay::new(Length::UntilClose, Framing::Plain, u64::MAX, Trailers::Drop),
            state: State::Open,
        }
    }

    /// Whether anything moved.
    fn poll<S, R>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Wire<S>,
        to: &mut Wire<R>,
    ) -> Poll<io::Result<()>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        R: AsyncRead + AsyncWrite + Unpin,
    {
        match self.state {
            State::Open => match ready!(self.relay.poll(cx, from, to)) {
                Ok(Moved::Some) => {}
                Ok(Moved::All) => self.state = State::Ending,
                Err(RelayError::From(error) | RelayError::To(error)) => {
                    return Poll::Ready(Err(error));
                }
                Err(RelayError::Malformed(_) | RelayError::TooLarge) => {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
            },
            State::Ending => {
                ready!(to.poll_shutdown(cx))?;
                self.state = State::Ended;
            }
            State::Ended => return Poll::Pending,
        }
        Poll::Ready(Ok(()))
    }
}

/// Returns when both directions have ended, one has failed, or nothing has moved for `idle`.
pub(crate) async fn join<A, B>(
    one: &mut Wire<A>,
    other: &mut Wire<B>,
    timer: &mut Timer,
    idle: Duration,
) where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut there, mut back) = (Direction::new(), Direction::new());
    let mut last = Instant::now();
    poll_fn(|cx| {
        // What is to go out before anything else: the response that changed the protocol.
        loop {
            let moved = [there.poll(cx, one, other), back.poll(cx, other, one)];
            if moved.iter().any(|m| matches!(m, Poll::Ready(Err(_)))) {
                return Poll::Ready(());
            }
            if moved.iter().all(Poll::is_pending) {
                break;
            }
            last = Instant::now();
        }
        match (there.state, back.state) {
            (State::Ended, State::Ended) => Poll::Ready(()),
            _ => timer.poll(cx, last + idle),
        }
    })
    .await;
}
