//! The history as JSON.

use serde::Serialize;
use sixxs_core::{
    history::{Availability, Day, Minute, Outage, Summary, Totals},
    types::IfName,
};

use super::time::{day, rfc3339};

/// The minutes of a report, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Period {
    pub(crate) from: Minute,
    pub(crate) until: Minute,
}

/// `sixxs history --json`.
#[derive(Serialize)]
pub(crate) struct Report<'a> {
    /// The begin of the period, in RFC 3339.
    since: String,
    /// Its end.
    until: String,
    tunnels: Vec<Tunnel<'a>>,
}

/// The history of a tunnel.
#[derive(Serialize)]
pub(crate) struct Tunnel<'a> {
    name: &'a str,
    #[serde(flatten)]
    totals: Numbers,
    days: Vec<OneDay>,
    pub(crate) outages: Vec<OneOutage>,
}

/// What some minutes show together. Unknown values are `null`.
#[derive(Serialize)]
struct Numbers {
    available_percent: Option<f64>,
    recorded_minutes: u32,
    answered_percent: Option<f64>,
    inside_percent: Option<f64>,
    median_seconds: Option<f64>,
    leaks: u64,
    corrections: u64,
}

#[derive(Serialize)]
struct OneDay {
    day: String,
    #[serde(flatten)]
    totals: Numbers,
    /// The availability of each hour.
    hours: Vec<Option<f64>>,
}

#[derive(Serialize)]
pub(crate) struct OneOutage {
    begin: String,
    /// The end of its last minute.
    end: String,
    failing_seconds: u32,
    reason: &'static str,
    /// Whether it continues.
    ongoing: bool,
}

/// The history of tunnels in a period.
pub(crate) fn report(period: Period, summaries: &[(IfName, Summary)]) -> Report<'_> {
    Report {
        since: rfc3339(period.from),
        until: rfc3339(period.until.plus(1)),
        tunnels: summaries
            .iter()
            .map(|(name, summary)| tunnel(name, summary, period.until))
            .collect(),
    }
}

/// The history of a tunnel until now.
pub(crate) fn tunnel<'a>(name: &'a IfName, summary: &Summary, now: Minute) -> Tunnel<'a> {
    let outages = summary.outages.iter();
    Tunnel {
        name: name.as_str(),
        totals: numbers(&summary.totals),
        days: summary.days.iter().map(one_day).collect(),
        outages: outages.map(|outage| one_outage(outage, now)).collect(),
    }
}

fn percent(hundredths: Option<u32>) -> Option<f64> {
    hundredths.map(|hundredths| f64::from(hundredths) / 100.0)
}

fn numbers(totals: &Totals) -> Numbers {
    Numbers {
        available_percent: percent(totals.availability.hundredths()),
        recorded_minutes: totals.recorded,
        answered_percent: percent(totals.outside),
        inside_percent: percent(totals.inside),
        median_seconds: totals.median.map(|median| median.as_secs_f64()),
        leaks: totals.leaks,
        corrections: totals.corrections,
    }
}

fn one_day(one: &Day) -> OneDay {
    let hour = |hour: &Availability| percent(hour.hundredths());
    OneDay {
        day: day(one.day),
        totals: numbers(&one.totals),
        hours: one.hours.iter().map(hour).collect(),
    }
}

fn one_outage(outage: &Outage, now: Minute) -> OneOutage {
    OneOutage {
        begin: rfc3339(outage.begin),
        end: rfc3339(outage.end),
        failing_seconds: outage.failing_seconds,
        reason: outage.cause.words(),
        ongoing: outage.continues(now),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::history::fixture::{BEGIN, summary};

    #[test]
    fn unknown_values_are_null() {
        let period = Period {
            from: BEGIN,
            until: BEGIN.plus(1439),
        };
        let summaries = [("sixxs0".parse().unwrap(), summary())];
        let report = serde_json::to_value(report(period, &summaries)).unwrap();
        assert_eq!(report["since"], "2026-11-02T00:00:00Z");
        assert_eq!(report["until"], "2026-11-03T00:00:00Z");
        let tunnel = &report["tunnels"][0];
        assert_eq!(tunnel["name"], "sixxs0");
        assert_eq!(tunnel["recorded_minutes"], 240);
        assert_eq!(tunnel["available_percent"], 96.66);
        assert_eq!(tunnel["inside_percent"], json!(null));
        let day = &tunnel["days"][0];
        assert_eq!(day["day"], "2026-11-02");
        assert_eq!(day["leaks"], 12);
        assert_eq!(
            day["hours"].as_array().unwrap()[..5],
            [
                json!(100.0),
                json!(100.0),
                json!(100.0),
                json!(86.66),
                json!(null)
            ]
        );
        assert_eq!(
            tunnel["outages"],
            json!([{
                "begin": "2026-11-02T03:12:00Z",
                "end": "2026-11-02T03:20:00Z",
                "failing_seconds": 480,
                "reason": "broker silent",
                "ongoing": false,
            }])
        );
    }
}
