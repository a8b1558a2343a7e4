//! Which parts of a connection want to be polled: its frames, and each of its streams. They share one task, and what one part wakes in
//! another while that task runs is seen to in the same run: the answers of many streams go out with one write.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Wake, Waker};

/// Of one connection.
#[derive(Default)]
pub(super) struct Bells(Arc<Board>);

#[derive(Default)]
struct Board(Mutex<Rung>);

#[derive(Default)]
struct Rung {
    /// Each part once, in the order in which they rang.
    parts: VecDeque<usize>,
    /// Woken by the first bell; nothing while it runs, as it looks again before it rests.
    task: Option<Waker>,
}

/// A part's waker.
pub(super) struct Bell {
    part: usize,
    /// It is among [`Rung::parts`].
    rung: AtomicBool,
    board: Arc<Board>,
}

impl Bells {
    /// A bell for a part, which has rung: nobody has looked at that yet.
    pub(super) fn hang(&self, part: usize) -> Arc<Bell> {
        let bell = Arc::new(Bell {
            part,
            rung: AtomicBool::new(false),
            board: Arc::clone(&self.0),
        });
        bell.ring();
        bell
    }

    /// The next part to poll; whoever polls it silences its bell before. The task runs from now on.
    pub(super) fn next(&self) -> Option<usize> {
        let mut rung = self.0.lock();
        rung.task = None;
        rung.parts.pop_front()
    }

    /// The task has polled what rang, and waits for the next. When something has rung since, it is woken at once.
    pub(super) fn rest(&self, cx: &mut Context<'_>) {
        let mut rung = self.0.lock();
        if rung.parts.is_empty() {
            rung.task = Some(cx.waker().clone());
            return;
        }
        drop(rung);
        cx.waker().wake_by_ref();
    }
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Rung> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bell {
    pub(super) fn ring(&self) {
        if self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut rung = self.board.lock();
        rung.parts.push_back(self.part);
        let task = rung.task.take();
        drop(rung);
        if let Some(task) = task {
            task.wake();
        }
    }

    /// What rings from now on is news.
    pub(super) fn silence(&self) {
        self.rung.store(false, Ordering::Release);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Bell>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Bell>) {
        self.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Count>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_task_is_woken_once_and_only_while_it_rests() {
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        let woken = || count.0.swap(0, Ordering::Relaxed);
        let bells = Bells::default();
        let (one, two) = (bells.hang(1), bells.hang(2));
        assert_eq!((bells.next(), bells.next()), (Some(1), Some(2)));
        one.silence();
        two.silence();
        two.ring();
        two.ring();
        assert_eq!((bells.next(), bells.next()), (Some(2), None));
        assert_eq!(woken(), 0);
        two.silence();
        bells.rest(&mut cx);
        assert_eq!(woken(), 0);
        one.ring();
        two.ring();
        assert_eq!(woken(), 1);
        assert_eq!((bells.next(), bells.next()), (Some(1), Some(2)));
        one.silence();
        one.ring();
        bells.rest(&mut cx);
        assert_eq!(woken(), 1);
    }
}
