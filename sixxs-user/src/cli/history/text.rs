//! The history as text, for a terminal of 80 columns.

use sixxs_core::{
    history::{Availability, Day, Minute, Outage, Summary},
    types::IfName,
};

use crate::control::text::{WIDTH, counted, fitting, push_line, short_time};
use crate::history::time::{day, day_and_time, span, time_of_day};

/// Blocks for an hour, from never available to always.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const ASCII_BLOCKS: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];

/// The hours above the blocks.
const RULER: &str = "            0     6     12    18     UTC";

/// The most recent outages are shown, up to this number.
const MAX_OUTAGES: usize = 30;

/// The history of a tunnel.
pub(super) fn tunnel(tunnel: &IfName, summary: &Summary, now: Minute, is_ascii: bool) -> String {
    let mut text = String::new();
    let outages = u64::try_from(summary.outages.len()).unwrap_or(u64::MAX);
    let availability = summary.totals.availability;
    let head = match availability.hundredths() {
        Some(hundredths) => format!(
            "{tunnel:<15} {} available in {} of records, {}",
            percent(hundredths),
            span(availability.minutes),
            counted(outages, "outage", "outages")
        ),
        None => format!("{tunnel:<15} nothing is recorded in this period"),
    };
    push_line(&mut text, &head);
    if !summary.days.is_empty() {
        push_line(&mut text, RULER);
    }
    for day in &summary.days {
        push_line(&mut text, &day_line(day, is_ascii));
    }
    if !summary.outages.is_empty() {
        push_line(&mut text, "outages");
    }
    let more = summary.outages.len().saturating_sub(MAX_OUTAGES);
    if more > 0 {
        push_line(&mut text, &format!("{more} earlier ones, which --json has"));
    }
    for outage in summary.outages.iter().skip(more) {
        push_line(&mut text, &outage_line(outage, now));
    }
    text
}

/// A day: a block for each hour, then numbers, the least important last.
fn day_line(one: &Day, is_ascii: bool) -> String {
    let blocks: String = one
        .hours
        .iter()
        .map(|hour| block(*hour, is_ascii))
        .collect();
    let totals = &one.totals;
    let available = match totals.availability.hundredths() {
        Some(hundredths) => percent(hundredths),
        None if totals.recorded == 0 => "unknown".to_owned(),
        None => "stopped".to_owned(),
    };
    let mut parts = vec![format!("{}  {blocks}  {available:>7}", day(one.day))];
    parts.extend(
        totals
            .outside
            .map(|share| format!(", pings {}", percent(share))),
    );
    if totals.leaks > 0 {
        parts.push(format!(", {}", counted(totals.leaks, "leak", "leaks")));
    }
    if totals.corrections > 0 {
        let corrections = counted(totals.corrections, "correction", "corrections");
        parts.push(format!(", {corrections}"));
    }
    if let Some(median) = totals.median {
        let time = short_time(median.as_secs_f64());
        parts.push(match is_ascii {
            true => format!(", {}", time.replace('µ', "u")),
            false => format!(", {time}"),
        });
    }
    parts.extend(
        totals
            .inside
            .map(|share| format!(", tests {}", percent(share))),
    );
    fitting(&parts, WIDTH)
}

/// The block of an hour. Only an hour without a failure has the highest one; an unknown hour is blank.
fn block(hour: Availability, is_ascii: bool) -> char {
    let blocks = if is_ascii { ASCII_BLOCKS } else { BLOCKS };
    let [lower @ .., highest] = blocks;
    match hour.hundredths() {
        None => ' ',
        Some(10_000..) => highest,
        Some(hundredths) => {
            let place = usize::try_from(hundredths).unwrap_or(0) * lower.len() / 10_000;
            lower.get(place).copied().unwrap_or(highest)
        }
    }
}

/// An outage, such as `2026-11-02 03:12 to 03:20, broker silent`.
fn outage_line(outage: &Outage, now: Minute) -> String {
    let Outage {
        begin, end, cause, ..
    } = outage;
    let until = if outage.continues(now) {
        "until now".to_owned()
    } else if begin.day() == end.day() {
        format!("to {}", time_of_day(*end))
    } else {
        format!("to {}", day_and_time(*end))
    };
    format!("{} {until}, {cause}", day_and_time(*begin))
}

/// Hundredths of a per cent as text.
fn percent(hundredths: u32) -> String {
    match hundredths {
        10_000 => "100%".to_owned(),
        _ => format!("{}.{:02}%", hundredths / 100, hundredths % 100),
    }
}

#[cfg(test)]
mod tests {
    use sixxs_core::history::{Record, Share, State};

    use super::*;
    use crate::history::fixture::{BEGIN, healthy, records, silent, summary};

    fn shown(summary: &Summary, is_ascii: bool) -> String {
        let later = BEGIN.plus(2 * 1440);
        tunnel(&"sixxs0".parse().unwrap(), summary, later, is_ascii)
    }

    #[test]
    fn a_day_is_a_line_of_blocks() {
        let blocks = format!("███▇{:20}", "");
        assert_eq!(
            shown(&summary(), false),
            format!(
                "sixxs0          96.66% available in 4 h of records, 1 outage\n\
                 {RULER}\n\
                 2026-11-02  {blocks}   96.66%, pings 99.60%, 12 leaks\n\
                 outages\n\
                 2026-11-02 03:12 to 03:20, broker silent\n"
            )
        );
        let text = shown(&summary(), true);
        assert!(text.contains("2026-11-02  ###*  "), "{text}");
        assert!(text.is_ascii(), "{text}");
        assert_eq!(&RULER[..20], "            0     6 ");
        assert_eq!(RULER.find("18"), Some(12 + 18));
    }

    #[test]
    fn the_height_of_a_block_is_the_availability() {
        let hour = |failing_seconds| Availability {
            minutes: 60,
            failing_seconds,
        };
        let failing = [3600, 3599, 3000, 1800, 1, 0];
        let blocks = |is_ascii| failing.map(|seconds| block(hour(seconds), is_ascii));
        assert_eq!(blocks(false), ['▁', '▁', '▂', '▄', '▇', '█']);
        assert_eq!(blocks(true), ['_', '_', '.', '-', '*', '#']);
        assert_eq!(block(Availability::default(), false), ' ');
    }

    #[test]
    fn an_outage_has_its_days_and_may_continue() {
        let mut records = records();
        let of = |minutes: std::ops::Range<u32>| minutes.map(|m| (BEGIN.plus(m), silent()));
        records.extend(of(1430..1450));
        records.extend(of(2000..2010));
        let summary = Summary::of(&records);
        let now = BEGIN.plus(2010);
        let text = tunnel(&"sixxs0".parse().unwrap(), &summary, now, false);
        let outages: Vec<_> = text.lines().skip_while(|line| *line != "outages").collect();
        assert_eq!(
            outages[1..],
            [
                "2026-11-02 03:12 to 03:20, broker silent",
                "2026-11-02 23:50 to 2026-11-03 00:10, broker silent",
                "2026-11-03 09:20 until now, broker silent",
            ]
        );
    }

    #[test]
    fn many_outages_are_counted() {
        let outages = (0..40).map(|number| (BEGIN.plus(number * 2), silent()));
        let text = shown(&Summary::of(&outages.collect::<Vec<_>>()), false);
        assert!(text.contains(", 40 outages\n"), "{text}");
        assert!(text.contains("outages\n10 earlier ones, which --json has\n2026-11-02 00:20 to"));
    }

    #[test]
    fn days_without_a_record_and_stopped_ones() {
        let stopped = Record {
            state: State::Down,
            ..healthy()
        };
        let records = [(BEGIN, healthy()), (BEGIN.plus(2 * 1440), stopped)];
        let text = shown(&Summary::of(&records), false);
        let line = |day: &str| text.lines().find(|line| line.starts_with(day)).unwrap();
        assert!(line("2026-11-02").contains("100%, pings"), "{text}");
        assert!(line("2026-11-03").ends_with(" unknown"), "{text}");
        assert!(line("2026-11-04").contains(" stopped"), "{text}");
        assert!(!text.contains("outages\n2026"), "{text}");
        let nothing = shown(&Summary::default(), false);
        assert_eq!(
            nothing,
            "sixxs0          nothing is recorded in this period\n"
        );
    }

    #[test]
    fn no_line_is_wider_than_a_terminal() {
        let record = Record {
            inside: Share::of(1, 3),
            leaks: u64::MAX,
            corrections: u64::MAX,
            ..silent()
        };
        let name = "fifteen-letters".parse().unwrap();
        let records: Vec<_> = (0..1440 * 3).map(|m| (BEGIN.plus(m), record)).collect();
        let text = tunnel(&name, &Summary::of(&records), BEGIN, false);
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }
}
