//! One timer for all the deadlines of a connection.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::time::Sleep;

/// Deadlines move with every request, and nearly all move further away. The runtime's timer is therefore set anew only
/// when it has fired too early, or must fire earlier; a request costs no visit to the timer wheel.
#[derive(Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Ready once the deadline has passed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let deadline = deadline.into();
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn it_fires_at_the_deadline_of_the_moment() {
        let mut timer = Timer::default();
        let start = tokio::time::Instant::now();
        let at = |seconds| (start + Duration::from_secs(seconds)).into_std();
        let mut wait = async |seconds| {
            std::future::poll_fn(|cx| timer.poll(cx, at(seconds))).await;
            start.elapsed().as_secs()
        };
        assert_eq!(wait(5).await, 5);
        assert_eq!(wait(5).await, 5);
        assert_eq!(wait(30).await, 30);
        assert_eq!(wait(31).await, 31);
        let mut timer = Timer::default();
        std::future::poll_fn(|cx| {
            assert!(timer.poll(cx, at(100)).is_pending());
            timer.poll(cx, at(40))
        })
        .await;
        assert_eq!(start.elapsed().as_secs(), 40);
    }
}
