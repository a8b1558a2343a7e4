//! How a release takes over from the one before, and when it is taken back.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::SpecError;
use crate::text::parse_number;
use crate::traffic::TrafficError;
use crate::traffic::fields::Form;

/// Percent of the visitors, then for how long before the next step.
pub const CANARY_STEPS_MAX: usize = 20;
/// Longest of all waits in a strategy: a release that is neither out nor back after a day is forgotten by its maker.
pub const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// What [`Strategy::default`] takes.
pub const DEFAULT_SURGE: Amount = Amount::Percent(25);
/// As long as Nomad's `min_healthy_time`: programs that end soon after their start mostly do so within it.
pub const DEFAULT_WATCH: Duration = Duration::from_secs(10);
/// As Kubernetes' `progressDeadlineSeconds`.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(600);
/// Long enough to see what users say, short enough that nobody pays twice for long.
pub const DEFAULT_WARM: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strategy {
    pub takeover: Takeover,
    /// For so long after its last step a release is watched before it counts as good. Until then what goes
    /// wrong brings the one before back.
    pub watch: Duration,
    /// Without any progress for so long a release has failed.
    pub deadline: Duration,
    /// Whether a release that failed is taken back by itself; otherwise it stays as it is.
    pub rollback: bool,
    /// None: only probes and the program's own end speak against a release.
    pub judge: Option<Judge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Takeover {
    /// Some at a time.
    Rolling {
        /// Instances above the wanted number while it goes on.
        surge: Amount,
        /// Instances below it. Not both zero.
        unavailable: Amount,
    },
    /// All new ones beside the old ones, then all requests at once.
    BlueGreen {
        /// The old ones stay ready for so long after the switch.
        warm: Duration,
    },
    /// A growing part of the visitors, then the rest as when rolling.
    Canary { steps: Vec<CanaryStep> },
    /// The old ones end before the new ones begin: for programs of which two must not run.
    Recreate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryStep {
    /// 1 to 99.
    pub percent: u8,
    pub pause: Duration,
}

/// A number of instances, absolute or of those that are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Amount {
    Count(u32),
    Percent(u32),
}

/// When the new release's requests speak against it. Requests are those that the proxies of all nodes saw since the
/// rollout began, of both releases; see [`crate::rollout::judge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judge {
    /// Below this many requests to the new release nothing is said.
    pub requests: u32,
    /// Percent of its requests answered with 500 to 599, or not at all, that it may have beyond the old one's.
    pub errors_percent: u32,
    /// Its 95th percentile may be this many percent of the old one's; 0: not looked at.
    pub p95_percent: u32,
}

impl Default for Judge {
    /// Five points more errors is Nimbus' limit for an alert (errors > 5 %); twice as slow is what people notice.
    fn default() -> Judge {
        Judge {
            requests: 50,
            errors_percent: 5,
            p95_percent: 200,
        }
    }
}

impl Default for Strategy {
    fn default() -> Strategy {
        Strategy {
            takeover: Takeover::Rolling {
                surge: DEFAULT_SURGE,
                unavailable: Amount::Count(0),
            },
            watch: DEFAULT_WATCH,
            deadline: DEFAULT_DEADLINE,
            rollback: true,
            judge: Some(Judge::default()),
        }
    }
}

impl Takeover {
    /// `10 % for 2 m, 50 % for 2 m`.
    pub fn default_canary() -> Takeover {
        let step = |percent| CanaryStep {
            percent,
            pause: Duration::from_secs(120),
        };
        Takeover::Canary {
            steps: vec![step(10), step(50)],
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Takeover::Rolling { .. } => "rolling",
            Takeover::BlueGreen { .. } => "blue-green",
            Takeover::Canary { .. } => "canary",
            Takeover::Recreate => "recreate",
        }
    }
}

impl Amount {
    /// Of `wanted` instances, rounded up.
    pub fn of_up(self, wanted: u32) -> u32 {
        match self {
            Amount::Count(count) => count,
            Amount::Percent(percent) => percent_of(percent, wanted).1,
        }
    }

    /// Of `wanted` instances, rounded down.
    pub fn of_down(self, wanted: u32) -> u32 {
        match self {
            Amount::Count(count) => count,
            Amount::Percent(percent) => percent_of(percent, wanted).0,
        }
    }

    fn is_zero(self) -> bool {
        matches!(self, Amount::Count(0) | Amount::Percent(0))
    }
}

fn percent_of(percent: u32, wanted: u32) -> (u32, u32) {
    let hundredths = u64::from(percent) * u64::from(wanted);
    let down = u32::try_from(hundredths / 100).unwrap_or(u32::MAX);
    let up = u32::try_from(hundredths.div_ceil(100)).unwrap_or(u32::MAX);
    (down, up)
}

impl Strategy {
    pub(super) fn check(&self) -> Result<(), SpecError> {
        let wait = |what: &str, wait: Duration| match wait <= WAIT_MAX {
            true => Ok(()),
            false => Err(SpecError::StrategyWait {
                what: what.to_owned(),
            }),
        };
        wait("watch", self.watch)?;
        wait("deadline", self.deadline)?;
        if self.deadline.is_zero() {
            return Err(SpecError::NoDeadline);
        }
        match &self.takeover {
            Takeover::Rolling { surge, unavailable } => {
                if surge.is_zero() && unavailable.is_zero() {
                    return Err(SpecError::NoStep);
                }
                for amount in [surge, unavailable] {
                    if matches!(amount, Amount::Percent(percent) if *percent > 100) {
                        return Err(SpecError::Percent);
                    }
                }
            }
            Takeover::BlueGreen { warm } => wait("warm", *warm)?,
            Takeover::Canary { steps } => check_steps(steps)?,
            Takeover::Recreate => {}
        }
        match &self.judge {
            Some(judge) if judge.errors_percent > 100 || judge.requests == 0 => {
                Err(SpecError::Judge)
            }
            _ => Ok(()),
        }
    }
}

fn check_steps(steps: &[CanaryStep]) -> Result<(), SpecError> {
    let grows = steps.windows(2).all(|two| two[0].percent < two[1].percent);
    let parts = steps.iter().all(|step| (1..=99).contains(&step.percent));
    if steps.is_empty() || steps.len() > CANARY_STEPS_MAX || !grows || !parts {
        return Err(SpecError::CanarySteps);
    }
    if steps.iter().any(|step| step.pause > WAIT_MAX) {
        return Err(SpecError::StrategyWait {
            what: "pause".to_owned(),
        });
    }
    Ok(())
}

const JUDGE: Form = Form {
    what: "a judge",
    example: "requests=50 errors=5% p95=200%",
    words: &["requests", "errors", "p95"],
};

/// `requests=50 errors=5% p95=200%`; what is left out is as by default.
impl FromStr for Judge {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Judge, TrafficError> {
        let fields = JUDGE.read(text)?;
        let default = Judge::default();
        let percent = |text: &str| {
            let number = parse_number(text.strip_suffix('%')?)?;
            u32::try_from(number).ok()
        };
        Ok(Judge {
            requests: fields.count("requests", default.requests)?,
            errors_percent: fields.value(
                "errors",
                default.errors_percent,
                percent,
                "percent, such as 5%",
            )?,
            p95_percent: fields.value(
                "p95",
                default.p95_percent,
                percent,
                "percent of the other's, such as 200%",
            )?,
        })
    }
}

impl fmt::Display for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Judge {
            requests,
            errors_percent,
            p95_percent,
        } = self;
        write!(
            f,
            "requests={requests} errors={errors_percent}% p95={p95_percent}%"
        )
    }
}

/// `10% 2m`: so many visitors, then for how long.
impl FromStr for CanaryStep {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<CanaryStep, SpecError> {
        let bad = || SpecError::CanaryStep(crate::excerpt::excerpt(text));
        let (percent, pause) = text.trim().split_once(' ').ok_or_else(bad)?;
        let percent = percent.strip_suffix('%').ok_or_else(bad)?;
        Ok(CanaryStep {
            percent: percent.parse().map_err(|_| bad())?,
            pause: crate::text::parse_duration(pause.trim()).ok_or_else(bad)?,
        })
    }
}

impl fmt::Display for CanaryStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pause = crate::text::show_duration(self.pause);
        write!(f, "{}% {pause}", self.percent)
    }
}

/// `2` or `25%`.
impl FromStr for Amount {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Amount, SpecError> {
        let bad = |_| SpecError::Amount(crate::excerpt::excerpt(text));
        match text.strip_suffix('%') {
            Some(percent) => percent.parse().map(Amount::Percent).map_err(bad),
            None => text.parse().map(Amount::Count).map_err(bad),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amount::Count(count) => write!(f, "{count}"),
            Amount::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_round_as_asked_and_read_back() {
        let quarter: Amount = "25%".parse().unwrap();
        assert_eq!((quarter.of_up(3), quarter.of_down(3)), (1, 0));
        assert_eq!((quarter.of_up(0), quarter.of_down(0)), (0, 0));
        assert_eq!("2".parse::<Amount>().unwrap().of_up(10), 2);
        for text in ["25%", "7"] {
            assert_eq!(text.parse::<Amount>().unwrap().to_string(), text);
        }
        for text in ["", "%", "-1", "1.5", "25 %", "4294967296"] {
            assert!(text.parse::<Amount>().is_err(), "{text}");
        }
    }

    #[test]
    fn judges_and_steps_read_back() {
        let judge: Judge = "errors=2%".parse().unwrap();
        assert_eq!((judge.requests, judge.errors_percent), (50, 2));
        assert_eq!(judge.to_string().parse(), Ok(judge));
        assert!("eror=2%".parse::<Judge>().is_err());
        assert!("errors=2".parse::<Judge>().is_err());
        let step: CanaryStep = "10% 90s".parse().unwrap();
        assert_eq!((step.percent, step.pause), (10, Duration::from_secs(90)));
        assert_eq!(step.to_string().parse(), Ok(step));
        for text in ["10 2m", "10%", "10% x", "256% 1s"] {
            assert!(text.parse::<CanaryStep>().is_err(), "{text}");
        }
    }

    #[test]
    fn impossible_strategies_are_refused() {
        let with = |takeover| Strategy {
            takeover,
            ..Strategy::default()
        };
        let steps = |percents: &[u8]| Takeover::Canary {
            steps: percents
                .iter()
                .map(|percent| CanaryStep {
                    percent: *percent,
                    pause: Duration::ZERO,
                })
                .collect(),
        };
        assert!(Strategy::default().check().is_ok());
        assert!(with(Takeover::default_canary()).check().is_ok());
        let still = Takeover::Rolling {
            surge: Amount::Percent(0),
            unavailable: Amount::Count(0),
        };
        for takeover in [
            still,
            steps(&[]),
            steps(&[0]),
            steps(&[100]),
            steps(&[20, 20]),
            Takeover::BlueGreen {
                warm: WAIT_MAX + Duration::from_secs(1),
            },
        ] {
            assert!(with(takeover.clone()).check().is_err(), "{takeover:?}");
        }
    }
}
