//! The history of a tunnel for the page: the last day by minutes, and two months by days, as JSON.
//!
//! A file is read in a thread, one at a time, and the result is stored until the minute ends. So requests cost little, and
//! never delay the daemon's loop.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use hyper::body::Bytes;
use serde::Serialize;
use sixxs_core::{
    health::Level,
    history::{Minute, Record, Summary, minute::PER_DAY},
    types::IfName,
};
use tokio::{sync::Mutex, task::spawn_blocking};

use crate::{
    history::{
        self, read,
        report::{self, Period, Tunnel},
        time::rfc3339,
    },
    host::clock::Clock,
};

/// Days of the report.
const DAYS: u32 = 60;

/// The maximum number of outages, the latest ones. `sixxs history --json` has all.
const MAX_OUTAGES: usize = 30;

/// Minutes of one share in [`Day::answered`].
const PER_SHARE: u32 = 10;

/// The maximum number of stored results. A page with more tunnels shows only some of them at a time.
const MAX_STORED: usize = 64;

/// Why there is no history.
#[derive(Debug)]
pub(super) enum Error {
    /// Nothing is recorded of a tunnel with this name.
    Unknown,
    /// The files cannot be read.
    Unreadable(anyhow::Error),
}

/// The history of a tunnel.
#[derive(Serialize)]
struct History<'a> {
    day: Day,
    /// Outages that are left out, because they are the earlier ones.
    earlier_outages: usize,
    #[serde(flatten)]
    report: Tunnel<'a>,
}

/// The last 24 hours.
#[derive(Debug, Serialize)]
struct Day {
    /// The end, in RFC 3339.
    until: String,
    /// Minutes in a row that are alike: their number, and what they are.
    states: Vec<(u32, &'static str)>,
    /// The part of pings from outside that was answered in each ten minutes, in hundredths of a per cent; `null`: none came.
    answered: Vec<Option<u32>>,
    /// Leaks in each ten minutes.
    leaks: Vec<u64>,
}

/// The histories of this minute.
type Made = BTreeMap<IfName, (Minute, Bytes)>;

/// Reads histories.
#[derive(Debug)]
pub(super) struct Histories {
    directory: PathBuf,
    clock: Clock,
    made: Arc<Mutex<Made>>,
}

impl Histories {
    pub(super) fn of(state_dir: &Path) -> Self {
        Self {
            directory: history::directory(state_dir),
            clock: Clock::default(),
            made: Arc::default(),
        }
    }

    /// The history of the tunnel with this name, as JSON.
    pub(super) async fn get(&self, name: &str) -> Result<Bytes, Error> {
        let name: IfName = name.parse().map_err(|_| Error::Unknown)?;
        // Others wait here. The lock moves into the thread, so that also a client that has gone is waited for.
        let mut made = Arc::clone(&self.made).lock_owned().await;
        let now = Minute::of_unix(self.clock.unix_seconds());
        made.retain(|_, (minute, _)| *minute == now);
        if let Some((_, json)) = made.get(&name) {
            return Ok(json.clone());
        }
        let directory = self.directory.clone();
        let reading = spawn_blocking(move || {
            let json = load(&directory, &name, now)?;
            if made.len() >= MAX_STORED {
                made.pop_first();
            }
            made.insert(name, (now, json.clone()));
            Ok(json)
        });
        let read = reading.await.context("read the history");
        read.map_err(Error::Unreadable)?
    }
}

fn load(directory: &Path, name: &IfName, now: Minute) -> Result<Bytes, Error> {
    let files = history::files(directory).map_err(Error::Unreadable)?;
    let file = files.get(name).ok_or(Error::Unknown)?;
    let period = Period {
        from: now.minus(DAYS * PER_DAY),
        until: now,
    };
    let records = read(file, period.from, period.until).map_err(Error::Unreadable)?;
    let json = serde_json::to_vec(&evaluated(name, period, &records));
    let json = json.context("write the history");
    Ok(json.map_err(Error::Unreadable)?.into())
}

fn evaluated<'a>(name: &'a IfName, period: Period, records: &[(Minute, Record)]) -> History<'a> {
    let summary = Summary::of(records);
    let mut report = report::tunnel(name, &summary, period.until);
    let earlier_outages = report.outages.len().saturating_sub(MAX_OUTAGES);
    report.outages.drain(..earlier_outages);
    History {
        day: Day::of(period.until, records),
        earlier_outages,
        report,
    }
}

impl Day {
    /// The day before a minute.
    fn of(now: Minute, records: &[(Minute, Record)]) -> Self {
        let begin = now.minus(PER_DAY);
        let records: BTreeMap<_, _> = records
            .iter()
            .map(|(minute, record)| (*minute, record))
            .collect();
        let mut day = Self {
            until: rfc3339(now),
            states: Vec::new(),
            answered: Vec::new(),
            leaks: Vec::new(),
        };
        for number in 0..PER_DAY {
            let state = word(records.get(&begin.plus(number)).copied());
            match day.states.last_mut() {
                Some((count, last)) if *last == state => *count += 1,
                _ => day.states.push((1, state)),
            }
        }
        for part in 0..PER_DAY / PER_SHARE {
            let first = begin.plus(part * PER_SHARE);
            let some = records.range(first..first.plus(PER_SHARE));
            let some: Vec<_> = some.map(|(minute, record)| (*minute, **record)).collect();
            let totals = Summary::of(&some).totals;
            day.answered.push(totals.outside);
            day.leaks.push(totals.leaks);
        }
        day
    }
}

/// What a minute was.
fn word(record: Option<&Record>) -> &'static str {
    match record {
        None => "unknown",
        Some(record) if !record.counts() => "stopped",
        Some(record) if record.failing_seconds > 0 => "failing",
        Some(record) => match record.level {
            Level::Healthy => "healthy",
            Level::Degraded | Level::Failing => "degraded",
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::history::fixture::{BEGIN, healthy, records, silent};

    fn shown(records: &[(Minute, Record)], until: Minute) -> serde_json::Value {
        let name = "sixxs0".parse().unwrap();
        let period = Period {
            from: until.minus(DAYS * PER_DAY),
            until,
        };
        serde_json::to_value(evaluated(&name, period, records)).unwrap()
    }

    #[test]
    fn the_last_day_is_in_minutes() {
        let shown = shown(&records(), BEGIN.plus(PER_DAY - 120));
        let day = &shown["day"];
        assert_eq!(day["until"], "2026-11-02T22:00:00Z");
        assert_eq!(
            day["states"],
            json!([
                [120, "unknown"],
                [192, "healthy"],
                [8, "failing"],
                [40, "healthy"],
                [1080, "unknown"]
            ])
        );
        let answered = day["answered"].as_array().unwrap();
        assert_eq!(answered.len(), 144);
        assert_eq!((&answered[11], &answered[12]), (&json!(null), &json!(9960)));
        assert_eq!(day["leaks"][12], 12);
        assert_eq!(shown["name"], "sixxs0");
        assert_eq!(shown["days"][0]["available_percent"], 96.66);
        assert_eq!(shown["outages"][0]["reason"], "broker silent");
        assert_eq!(shown["earlier_outages"], 0);
    }

    #[test]
    fn the_size_is_limited() {
        let minutes = DAYS * PER_DAY;
        let record = |minute: u32| match minute % 2 {
            0 => healthy(),
            _ => silent(),
        };
        let records: Vec<_> = (0..minutes)
            .map(|minute| (BEGIN.plus(minute), record(minute)))
            .collect();
        let shown = shown(&records, BEGIN.plus(minutes));
        assert_eq!(shown["outages"].as_array().unwrap().len(), MAX_OUTAGES);
        assert_eq!(shown["earlier_outages"], 43_200 - MAX_OUTAGES);
        let bytes = shown.to_string().len();
        assert!(bytes < 100_000, "{bytes}");
    }

    #[tokio::test]
    async fn only_tunnels_with_a_file_have_a_history() {
        let state = tempfile::tempdir().unwrap();
        let histories = Histories::of(state.path());
        for name in ["sixxs0", "../../etc/passwd", "", "a name that is too long"] {
            let error = histories.get(name).await.unwrap_err();
            assert!(matches!(error, Error::Unknown), "{name}: {error:?}");
        }
        std::fs::create_dir(state.path().join("history")).unwrap();
        std::fs::write(state.path().join("history/sixxs0.ring"), "foreign").unwrap();
        let json = histories.get("sixxs0").await.unwrap();
        let shown: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(shown["day"]["states"], json!([[1440, "unknown"]]));
        assert_eq!(shown["recorded_minutes"], 0);
    }
}
