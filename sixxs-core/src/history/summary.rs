//! What the records of a period show: availability by hour and day, and outages.

use std::{collections::BTreeMap, time::Duration};

use super::{
    cause::Cause,
    minute::Minute,
    record::{Record, Share},
};

/// Failures that together take less than this are no outage: a restart of a tunnel takes some seconds. They count in the
/// availability.
const MIN_OUTAGE_SECONDS: u32 = 30;

/// Hours of a day.
const HOURS: usize = 24;

/// The time that counts, and how much of it a tunnel failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Availability {
    /// Minutes that count.
    pub minutes: u32,
    /// Seconds of them in which the tunnel failed.
    pub failing_seconds: u64,
}

impl Availability {
    fn add(&mut self, record: &Record) {
        if record.counts() {
            self.minutes = self.minutes.saturating_add(1);
            self.failing_seconds += u64::from(record.failing_seconds);
        }
    }

    /// In hundredths of a per cent, rounded down: all only if it never failed. `None`: no minute counts.
    #[must_use]
    pub fn hundredths(self) -> Option<u32> {
        let all = u64::from(self.minutes) * 60;
        let good = all.saturating_sub(self.failing_seconds);
        let share = (good * 10_000).checked_div(all)?;
        u32::try_from(share).ok()
    }
}

/// What the records of some minutes show together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Minutes with a record.
    pub recorded: u32,
    /// The availability.
    pub availability: Availability,
    /// The mean of the minutes' shares of answered pings from outside, in hundredths of a per cent.
    pub outside: Option<u32>,
    /// The same of inside tests.
    pub inside: Option<u32>,
    /// The median of the minutes' median times to a reply.
    pub median: Option<Duration>,
    /// Leaks, rounded down.
    pub leaks: u64,
    /// Corrections, rounded down.
    pub corrections: u64,
}

/// A day of UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Day {
    /// Its number, counted from 1970.
    pub day: u32,
    /// The whole day.
    pub totals: Totals,
    /// Its hours.
    pub hours: [Availability; HOURS],
}

/// Minutes in a row in which a tunnel failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// The first of them.
    pub begin: Minute,
    /// The minute after the last of them.
    pub end: Minute,
    /// Seconds in which it failed.
    pub failing_seconds: u32,
    /// The cause that took longest.
    pub cause: Cause,
}

impl Outage {
    /// Whether it may still continue: no later minute can be recorded yet. A record comes some seconds after its minute.
    #[must_use]
    pub fn continues(&self, now: Minute) -> bool {
        self.end.plus(1) >= now
    }
}

/// What the records of a period show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// All together.
    pub totals: Totals,
    /// The days from the first record to the last one, also those without a record in between.
    pub days: Vec<Day>,
    /// The outages, in the order of time.
    pub outages: Vec<Outage>,
}

/// The last 24 hours, for the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastDay {
    /// The availability, in hundredths of a per cent.
    pub hundredths: u32,
    /// The number of outages.
    pub outages: u32,
}

impl Summary {
    /// Evaluates records, which come in the order of time.
    #[must_use]
    pub fn of(records: &[(Minute, Record)]) -> Self {
        let mut totals = Gathered::default();
        let mut days = BTreeMap::<u32, DayGathered>::new();
        let mut outages = Outages::default();
        for (minute, record) in records {
            totals.add(record);
            days.entry(minute.day()).or_default().add(*minute, record);
            outages.add(*minute, record);
        }
        Self {
            totals: totals.totals(),
            days: all_days(days),
            outages: outages.finish(),
        }
    }

    /// For the status; `None`: no minute counts.
    #[must_use]
    pub fn last_day(&self) -> Option<LastDay> {
        Some(LastDay {
            hundredths: self.totals.availability.hundredths()?,
            outages: u32::try_from(self.outages.len()).unwrap_or(u32::MAX),
        })
    }
}

/// The days, and those without a record between them.
fn all_days(mut gathered: BTreeMap<u32, DayGathered>) -> Vec<Day> {
    let first = gathered.first_key_value().map(|(day, _)| *day);
    let last = gathered.last_key_value().map(|(day, _)| *day);
    let Some((first, last)) = first.zip(last) else {
        return Vec::new();
    };
    (first..=last)
        .map(|day| {
            let gathered = gathered.remove(&day).unwrap_or_default();
            Day {
                day,
                totals: gathered.all.totals(),
                hours: gathered.hours,
            }
        })
        .collect()
}

#[derive(Default)]
struct DayGathered {
    all: Gathered,
    hours: [Availability; HOURS],
}

impl DayGathered {
    fn add(&mut self, minute: Minute, record: &Record) {
        self.all.add(record);
        let hour = usize::try_from(minute.hour()).ok();
        if let Some(hour) = hour.and_then(|hour| self.hours.get_mut(hour)) {
            hour.add(record);
        }
    }
}

/// The records of some minutes.
#[derive(Default)]
struct Gathered {
    totals: Totals,
    outside: Mean,
    inside: Mean,
    medians: Vec<Duration>,
}

impl Gathered {
    fn add(&mut self, record: &Record) {
        let totals = &mut self.totals;
        totals.recorded = totals.recorded.saturating_add(1);
        totals.availability.add(record);
        totals.leaks = totals.leaks.saturating_add(record.leaks);
        totals.corrections = totals.corrections.saturating_add(record.corrections);
        self.outside.add(record.outside);
        self.inside.add(record.inside);
        self.medians.extend(record.median);
    }

    fn totals(mut self) -> Totals {
        self.medians.sort_unstable();
        Totals {
            outside: self.outside.hundredths(),
            inside: self.inside.hundredths(),
            median: self.medians.get(self.medians.len() / 2).copied(),
            ..self.totals
        }
    }
}

/// The mean of shares.
#[derive(Default)]
struct Mean {
    sum: u64,
    count: u64,
}

impl Mean {
    fn add(&mut self, share: Option<Share>) {
        if let Some(share) = share {
            self.sum += u64::from(share.hundredths());
            self.count += 1;
        }
    }

    /// Rounded down: all only if every share is.
    fn hundredths(&self) -> Option<u32> {
        u32::try_from(self.sum.checked_div(self.count)?).ok()
    }
}

/// Finds outages.
#[derive(Default)]
struct Outages {
    found: Vec<Outage>,
    present: Option<Present>,
}

/// An outage that may continue.
struct Present {
    begin: Minute,
    end: Minute,
    seconds: BTreeMap<Cause, u32>,
}

impl Outages {
    fn add(&mut self, minute: Minute, record: &Record) {
        let is_failing = record.counts() && record.failing_seconds > 0;
        let continues = |present: &Present| is_failing && present.end == minute;
        if !self.present.as_ref().is_some_and(continues) {
            self.end();
        }
        if !is_failing {
            return;
        }
        let present = self.present.get_or_insert_with(|| Present {
            begin: minute,
            end: minute,
            seconds: BTreeMap::new(),
        });
        present.end = minute.plus(1);
        let cause = record.cause.unwrap_or(Cause::Unknown);
        *present.seconds.entry(cause).or_default() += u32::from(record.failing_seconds);
    }

    fn end(&mut self) {
        let Some(Present {
            begin,
            end,
            seconds,
        }) = self.present.take()
        else {
            return;
        };
        let failing_seconds = seconds.values().sum();
        let longest = seconds.into_iter().max_by_key(|(_, seconds)| *seconds);
        if failing_seconds >= MIN_OUTAGE_SECONDS {
            self.found.push(Outage {
                begin,
                end,
                failing_seconds,
                cause: longest.map_or(Cause::Unknown, |(cause, _)| cause),
            });
        }
    }

    fn finish(mut self) -> Vec<Outage> {
        self.end();
        self.found
    }
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;
