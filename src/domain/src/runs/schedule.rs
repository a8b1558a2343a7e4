//! When a cron deployment is due.
//!
//! The syntax and the arithmetic are croner's, the time zones those of the IANA database that chrono-tz brings along: no
//! machine's own is asked, so that all nodes of one version agree. Where clocks are put forward, one time of the day that is left
//! out (02:30) comes at the first moment after; where they are put back, one that comes twice counts the first time. Schedules
//! with more than one time of the day follow the clock on the wall instead: they leave the gap out and run in both passes.
//! (croner 3.0 itself leaves out the second pass.)

use std::str::FromStr as _;

use chrono::{DateTime, FixedOffset, Offset as _, SecondsFormat};
use chrono_tz::Tz;
use croner::parser::{CronParser, Seconds, Year};
use croner::{Cron, JobType};
use serde::{Deserialize, Serialize};

use crate::excerpt::excerpt;
use crate::spec::SpecError;
use crate::text::nearest;
use crate::time::Millis;

/// Longest schedule: lists of every minute have some 170 characters.
pub const SCHEDULE_BYTES: usize = 256;
/// Due times counted one by one when many have passed; more are told as "or more".
pub const COUNTED_MAX: u32 = 1_000;
/// A clock that is put back repeats three hours at most (Troll station).
const REPEATED_MINUTES: u32 = 180;
/// Changes of the clock that are looked across for one due time: two a year, for the longest pause between leap days.
const CHANGES_MAX: u32 = 40;
/// From here on a schedule has to come at all: 2024-01-01, so that a 29th of February is soon.
const EPOCH: Millis = Millis(1_704_067_200_000);

/// As it was written; [`Schedule::check`] says whether it can be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Five fields, six with seconds in front, or a name such as `@daily`.
    pub cron: String,
    /// Of the IANA database.
    pub time_zone: String,
}

pub const UTC: &str = "UTC";

/// Due times that have come since the last look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Come {
    /// The one to run now.
    pub due: Option<Millis>,
    /// Those before it, and those that are too late.
    pub missed: Option<Passed>,
    /// The next one after now.
    pub next: Option<Millis>,
}

/// Due times that nothing was run for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    pub first: Millis,
    pub last: Millis,
    /// [`COUNTED_MAX`] stands for so many or more.
    pub count: u32,
}

impl Passed {
    fn add(passed: &mut Option<Passed>, at: Millis) {
        let passed = passed.get_or_insert(Passed {
            first: at,
            last: at,
            count: 0,
        });
        passed.last = at;
        passed.count = passed.count.saturating_add(1).min(COUNTED_MAX);
    }
}

/// A schedule that was read.
pub struct Read {
    cron: Cron,
    zone: Tz,
}

impl Schedule {
    pub fn check(&self) -> Result<(), SpecError> {
        let read = self.read()?;
        match read.next(EPOCH) {
            Some(_) => Ok(()),
            None => Err(bad(format!("'{}' never comes", excerpt(&self.cron)))),
        }
    }

    pub fn read(&self) -> Result<Read, SpecError> {
        let text = excerpt(&self.cron);
        if self.cron.len() > SCHEDULE_BYTES {
            return Err(bad(format!(
                "'{text}' has more than {SCHEDULE_BYTES} characters"
            )));
        }
        let parser = CronParser::builder()
            .seconds(Seconds::Optional)
            .year(Year::Disallowed)
            .build();
        let cron = parser.parse(&self.cron).map_err(|error| {
            bad(format!(
                "'{text}' cannot be read ({error}): write minute, hour, day, month and weekday, such as '0 3 * * *'"
            ))
        })?;
        let zone = Tz::from_str(&self.time_zone).map_err(|_| {
            let zone = excerpt(&self.time_zone);
            let known = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
            let hint = match nearest(&self.time_zone, known) {
                Some(near) => format!("did you mean '{near}'?"),
                None => "use a name such as Europe/Berlin or UTC".to_owned(),
            };
            SpecError::Runs(format!("cron.time_zone: '{zone}' is none: {hint}"))
        })?;
        Ok(Read { cron, zone })
    }
}

fn bad(what: String) -> SpecError {
    SpecError::Runs(format!("cron.schedule: {what}"))
}

impl Read {
    /// The first due time after this one; a whole second.
    pub fn next(&self, after: Millis) -> Option<Millis> {
        let second = i64::try_from(after.0 / 1000).ok()?;
        let next = match self.cron.determine_job_type() {
            JobType::FixedTime => self.next_fixed(second)?,
            JobType::IntervalWildcard => self.next_on_the_wall(second)?,
        };
        Some(Millis(u64::try_from(next).ok()?.checked_mul(1000)?))
    }

    /// One time of the day: croner leaves no gap out, and knows the first of two passes only. Asked in the second, it
    /// answers with the first, which is over.
    fn next_fixed(&self, after: i64) -> Option<i64> {
        let mut from = after;
        for _ in 0..=REPEATED_MINUTES {
            let start = DateTime::from_timestamp(from, 0)?.with_timezone(&self.zone);
            let next = self.cron.find_next_occurrence(&start, false).ok()?;
            if next.timestamp() > after {
                return Some(next.timestamp());
            }
            from += 60;
        }
        None
    }

    /// What follows the clock on the wall: between two changes of the clock that is one of a fixed offset, and a change
    /// begins another.
    fn next_on_the_wall(&self, after: i64) -> Option<i64> {
        let (mut from, mut inclusive) = (after, false);
        for _ in 0..CHANGES_MAX {
            let offset = self.offset(from)?;
            let start = DateTime::from_timestamp(from, 0)?.with_timezone(&offset);
            let next = self.cron.find_next_occurrence(&start, inclusive).ok()?;
            let next = next.timestamp();
            if self.offset(next)? == offset {
                return Some(next);
            }
            (from, inclusive) = (self.change(from, next, offset)?, true);
        }
        None
    }

    fn offset(&self, at: i64) -> Option<FixedOffset> {
        let there = DateTime::from_timestamp(at, 0)?.with_timezone(&self.zone);
        Some(there.offset().fix())
    }

    /// The first second in `(from, to]` at which the clock does not have this offset any more.
    fn change(&self, mut from: i64, mut to: i64, offset: FixedOffset) -> Option<i64> {
        while to - from > 1 {
            let middle = from + (to - from) / 2;
            match self.offset(middle)? == offset {
                true => from = middle,
                false => to = middle,
            }
        }
        Some(to)
    }

    /// What has come from `first`, a due time, to `now`. Only the latest is run, if it is not older than `late`.
    pub fn come(&self, first: Millis, now: Millis, late: std::time::Duration) -> Come {
        let too_late = Millis(now.0.saturating_sub(crate::time::millis(late)));
        let (mut latest, mut missed) = (None, None);
        let mut next = Some(first);
        while let Some(at) = next.filter(|at| *at <= now) {
            if let Some(before) = latest.replace(at) {
                Passed::add(&mut missed, before);
            }
            let counted = missed.as_ref().map_or(0, |passed: &Passed| passed.count);
            next = match counted >= COUNTED_MAX && at < too_late {
                // The rest is more of the same: on to what may still begin.
                true => self.next(Millis(too_late.0 - 1)),
                false => self.next(at),
            };
        }
        if let Some(at) = latest.filter(|at| *at < too_late) {
            Passed::add(&mut missed, at);
            latest = None;
        }
        Come {
            due: latest,
            missed,
            next,
        }
    }
}

/// A time in words, in UTC.
pub fn told(at: Millis) -> String {
    let time = i64::try_from(at.0)
        .ok()
        .and_then(DateTime::from_timestamp_millis);
    time.map_or_else(String::new, |time| {
        time.to_rfc3339_opts(SecondsFormat::Secs, true)
    })
}
