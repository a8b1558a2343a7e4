//! What a node takes for the time, and whether it does.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::http_api::HttpApi;
use super::wait::{ASK, DEADLINE, until};
use super::{Api, Processes};

/// Times are told in whole seconds, and a look may be late.
const LOOK_SECONDS: u64 = 3;
/// Between two looks at a wall clock, which cost an entry of the log each.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A pace is measured over so many seconds of the daemon's: a tenth of them is more than any look is late.
const PACED_SECONDS: u64 = 8;
/// How far off a measured pace may be.
const PACE_ERROR: f64 = 0.04;

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

/// Waits until the daemon lives in this time. A wall clock jumps a moment after it was set.
///
/// # Panics
/// When it does not.
pub async fn lives_in(lab: &Processes, node: usize, time: Time) {
    let mut api = lab.http_api(node);
    let ahead = match time {
        Time::Right => 0,
        Time::Off(seconds) => seconds,
        Time::Pace(percent) => {
            let wanted = f64::from(percent) / 100.0;
            return until(DEADLINE, &format!("node {node} at {time:?}"), async || {
                let pace = pace(&mut api).await;
                let right = (pace - wanted).abs() < PACE_ERROR;
                right.then_some(()).ok_or_else(|| pace.to_string())
            })
            .await;
        }
    };
    until(DEADLINE, &format!("node {node} at {time:?}"), async || {
        let seen = api.ahead(ASK).await.map_err(|e| e.to_string())?;
        if seen.abs_diff(ahead) <= LOOK_SECONDS {
            return Ok(());
        }
        sleep(LOOK_EVERY).await;
        Err(format!("{seen} s ahead"))
    })
    .await;
}

/// Seconds of the daemon's monotonic clock in one of ours.
async fn pace(api: &mut HttpApi) -> f64 {
    let (now, _) = uptime(api, 0).await;
    // From the moment at which it begins a second.
    let (first, begun) = uptime(api, now + 1).await;
    let (last, ended) = uptime(api, first + PACED_SECONDS).await;
    (last - first) as f64 / (ended - begun).as_secs_f64()
}

/// The daemon's uptime in seconds once it is so much, and when that was seen.
async fn uptime(api: &mut HttpApi, wanted: u64) -> (u64, Instant) {
    until(DEADLINE, "the daemon's uptime grows", async || {
        let status = api.look("/v1/status", ASK).await;
        let now = Instant::now();
        let status = status.map_err(|e| e.to_string())?;
        let seen = status["uptime_seconds"].as_u64();
        let seen = seen.filter(|seconds| *seconds >= wanted);
        seen.map(|seconds| (seconds, now))
            .ok_or_else(|| status.to_string())
    })
    .await
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
