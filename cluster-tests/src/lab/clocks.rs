//! What a node takes for the time.

/// A node's clock, against the others'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    Right,
    /// The wall clock is wrong by so many seconds; it jumps there at once.
    Off(i64),
    /// All clocks run at so many percent of their pace, the monotonic one as well; from the daemon's next start.
    Pace(u32),
}

impl Time {
    /// As libfaketime reads it.
    pub fn to_faketime(self) -> String {
        match self {
            Time::Right => "+0".to_owned(),
            Time::Off(seconds) => format!("{seconds:+}"),
            Time::Pace(percent) => format!("+0 x{}.{:02}", percent / 100, percent % 100),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_libfaketime_reads_them() {
        assert_eq!(Time::Off(3600).to_faketime(), "+3600");
        assert_eq!(Time::Off(-3600).to_faketime(), "-3600");
        assert_eq!(Time::Pace(90).to_faketime(), "+0 x0.90");
        assert_eq!(Time::Pace(110).to_faketime(), "+0 x1.10");
    }
}
