//! Named points at which the fault laboratory ends the process. Without the feature `fault-points` there
//! is nothing here and nothing at the points.

/// One named point.
macro_rules! point {
    ($name:literal) => {
        #[cfg(feature = "fault-points")]
        $crate::points::hit($name);
    };
}
pub(crate) use point;

#[cfg(feature = "fault-points")]
pub use armed::hit;

#[cfg(feature = "fault-points")]
mod armed {
    use std::sync::Once;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// `NAME=N`: the process ends when this point is hit for the n-th time.
    const VARIABLE: &str = "NEBULA_FAULT_POINT";

    /// Says that the point was reached.
    pub fn hit(name: &'static str) {
        static ARMED: Once = Once::new();
        ARMED.call_once(arm);
        fail::fail_point!(name);
    }

    fn arm() {
        let Ok(text) = std::env::var(VARIABLE) else {
            return;
        };
        let Some((name, count)) = text
            .split_once('=')
            .and_then(|(name, count)| Some((name, count.parse::<u64>().ok()?)))
        else {
            eprintln!("{VARIABLE}='{text}' is not of the form NAME=N");
            std::process::abort();
        };
        let hits = AtomicU64::new(0);
        let end = move || {
            if hits.fetch_add(1, Ordering::SeqCst) + 1 == count {
                eprintln!("fault point reached");
                std::process::abort();
            }
        };
        if let Err(error) = fail::cfg_callback(name, end) {
            eprintln!("{VARIABLE}='{text}': {error}");
            std::process::abort();
        }
    }
}
