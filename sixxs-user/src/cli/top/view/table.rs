//! Tunnels and uplinks in the same columns.

use ratatui_core::text::{Line, Span};

use super::{
    super::{
        meter,
        model::{Model, Sort, TunnelMeters, UplinkMeters, condition, leaks, tunnel_urgency},
    },
    theme::{Meaning, Theme},
    words,
};
use crate::control::api::{Program, Tunnel, Uplink};

/// A column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Name,
    State,
    In,
    Out,
    History,
    Pings,
    Answered,
    Median,
    Last,
    Leaks,
    LeakRate,
}

/// In the order on the screen.
const COLUMNS: [Column; 11] = [
    Column::Name,
    Column::State,
    Column::In,
    Column::Out,
    Column::History,
    Column::Pings,
    Column::Answered,
    Column::Median,
    Column::Last,
    Column::Leaks,
    Column::LeakRate,
];

/// Columns to leave out if there is not enough room, in this order.
const DISPENSABLE: [Column; 9] = [
    Column::History,
    Column::Median,
    Column::LeakRate,
    Column::Last,
    Column::Pings,
    Column::Answered,
    Column::Leaks,
    Column::Out,
    Column::In,
];

/// Width of the history: a narrower one shows nothing, a wider one only takes time to write.
const HISTORY: std::ops::RangeInclusive<usize> = 5..=60;

/// Minimum scale of the history, in bytes per second: smaller rates, such as neighbour discovery, stay low.
const LITTLE: u64 = 1000;

/// The shown columns, with their widths.
#[derive(Clone, Debug)]
pub(super) struct Columns(Vec<(Column, usize)>);

impl Column {
    /// The minimum width.
    fn width(self) -> usize {
        match self {
            Self::Name => 6,
            Self::State => "locked_out".len(),
            Self::History => *HISTORY.start(),
            Self::Answered | Self::Leaks => 5,
            Self::Last => 4,
            Self::In | Self::Out | Self::Pings | Self::Median | Self::LeakRate => 6,
        }
    }

    fn is_text(self) -> bool {
        matches!(self, Self::Name | Self::State | Self::History)
    }

    /// The headings for tunnels and for uplinks.
    fn headings(self) -> [&'static str; 2] {
        match self {
            Self::Name => ["tunnel", "uplink"],
            Self::State => ["state", "program"],
            Self::In => ["in/s", ""],
            Self::Out => ["out/s", "out/s"],
            Self::History => ["lately", "lately"],
            Self::Pings => ["ping/s", ""],
            Self::Answered => ["answd", ""],
            Self::Median => ["median", ""],
            Self::Last => ["last", ""],
            Self::Leaks => ["leaks", "leaks"],
            Self::LeakRate => ["leak/s", "leak/s"],
        }
    }

    fn is_sorted(self, sort: Sort) -> bool {
        matches!(
            (self, sort),
            (Self::Name, Sort::Name)
                | (Self::State, Sort::State)
                | (Self::In, Sort::In)
                | (Self::Out, Sort::Out)
                | (Self::Pings, Sort::Pings)
                | (Self::Answered, Sort::Answered)
                | (Self::Leaks, Sort::Leaks)
        )
    }
}

impl Columns {
    /// The columns for this width. They depend only on the names otherwise, so that the layout stays stable.
    pub(super) fn new(width: usize, model: &Model) -> Self {
        let status = model.status();
        let tunnels = status.iter().flat_map(|status| &status.tunnels);
        let uplinks = status.iter().flat_map(|status| &status.uplinks);
        let groups = model.groups().iter();
        let names = tunnels
            .map(|tunnel| &tunnel.name)
            .chain(groups.map(|group| &group.name))
            .chain(uplinks.map(|uplink| &uplink.name));
        // The name of an interface has at most 15 bytes; longer ones are invalid.
        let longest = names.map(|name| words::width(name)).max().unwrap_or(0);
        let name = longest.clamp(Column::Name.width(), 15);

        let mut columns: Vec<_> = COLUMNS
            .map(|column| match column {
                Column::Name => (column, name),
                column => (column, column.width()),
            })
            .into();
        // Each column has a space before it; the first column's space is for the pointer.
        let total = |columns: &[(Column, usize)]| -> usize {
            columns.iter().map(|(_, width)| width + 1).sum()
        };
        let mut dispensable = DISPENSABLE.iter();
        while total(&columns) > width
            && let Some(one) = dispensable.next()
        {
            columns.retain(|(column, _)| column != one);
        }
        let (over, left) = (
            total(&columns).saturating_sub(width),
            width.saturating_sub(total(&columns)),
        );
        for (column, width) in &mut columns {
            match column {
                Column::Name => *width = width.saturating_sub(over),
                Column::History => *width = (*width + left).min(*HISTORY.end()),
                _ => {}
            }
        }
        Self(columns)
    }

    /// The width of the column of names.
    pub(super) fn name(&self) -> usize {
        let mut columns = self.0.iter();
        let name = columns.find(|(column, _)| *column == Column::Name);
        name.map_or(0, |(_, width)| *width)
    }

    pub(super) fn tunnel_headings(&self, sort: Sort, theme: Theme) -> Line<'static> {
        self.headings(0, Some(sort), theme)
    }

    pub(super) fn uplink_headings(&self, theme: Theme) -> Line<'static> {
        self.headings(1, None, theme)
    }

    fn headings(&self, which: usize, sort: Option<Sort>, theme: Theme) -> Line<'static> {
        self.line(" ", Meaning::Quiet, theme, |column, _| {
            let sorted = sort.is_some_and(|sort| column.is_sorted(sort));
            let meaning = if sorted {
                Meaning::Title
            } else {
                Meaning::Quiet
            };
            (column.headings()[which].to_owned(), meaning)
        })
    }

    pub(super) fn tunnel(
        &self,
        (tunnel, meters): (&Tunnel, &TunnelMeters),
        model: &Model,
        selected: bool,
        theme: Theme,
    ) -> Line<'static> {
        let pointer = if selected { theme.pointer() } else { " " };
        self.line(pointer, Meaning::Title, theme, |column, width| {
            let plain = |text| (text, Meaning::Plain);
            match column {
                Column::Name if selected => (tunnel.name.clone(), Meaning::Title),
                Column::Name => plain(tunnel.name.clone()),
                Column::State => {
                    let meaning = Meaning::of_urgency(tunnel_urgency(tunnel), Meaning::Good);
                    (condition(tunnel).to_owned(), meaning)
                }
                Column::In => quiet_zero(meters.bytes_in.rate(), words::bytes),
                Column::Out => quiet_zero(meters.bytes_out.rate(), words::bytes),
                Column::History => {
                    let came = meters.bytes_in.history(model.received_at(), width);
                    let went = meters.bytes_out.history(model.received_at(), width);
                    let line = theme.sparkline(&meter::sum(came, &went), LITTLE);
                    (line, Meaning::Graph)
                }
                Column::Pings => quiet_zero(meters.pings.rate(), words::rate),
                Column::Answered => {
                    let percent = tunnel.proof.answered_percent;
                    let meaning = match percent {
                        None => Meaning::Quiet,
                        Some(percent) if percent >= 99.0 => Meaning::Plain,
                        Some(percent) if percent >= 90.0 => Meaning::Doubtful,
                        Some(_) => Meaning::Bad,
                    };
                    (words::percent(percent), meaning)
                }
                Column::Median => quiet_none(tunnel.proof.median_seconds, words::short_time),
                Column::Last => quiet_none(tunnel.proof.last_answered_seconds_ago, words::ago),
                Column::Leaks => leak_count(leaks(tunnel), meters.leaks.rate()),
                Column::LeakRate => leak_rate(meters.leaks.rate()),
            }
        })
    }

    pub(super) fn uplink(
        &self,
        (uplink, meters): (&Uplink, &UplinkMeters),
        model: &Model,
        theme: Theme,
    ) -> Line<'static> {
        self.line(" ", Meaning::Plain, theme, |column, width| match column {
            Column::Name => (uplink.name.clone(), Meaning::Plain),
            Column::State => match uplink.program {
                Program::Attached => (uplink.program.to_string(), Meaning::Good),
                Program::Missing | Program::Unknown => (uplink.program.to_string(), Meaning::Bad),
            },
            Column::Out => quiet_zero(meters.bytes_out.rate(), words::bytes),
            Column::History => {
                let history = meters.bytes_out.history(model.received_at(), width);
                (theme.sparkline(&history, LITTLE), Meaning::Graph)
            }
            Column::Leaks => leak_count(uplink.leaks, meters.leaks.rate()),
            Column::LeakRate => leak_rate(meters.leaks.rate()),
            _ => (String::new(), Meaning::Plain),
        })
    }

    /// A row; `cell` gives the text of each column.
    fn line(
        &self,
        pointer: &'static str,
        pointed: Meaning,
        theme: Theme,
        cell: impl Fn(Column, usize) -> (String, Meaning),
    ) -> Line<'static> {
        let mut spans = vec![Span::styled(pointer, theme.style(pointed))];
        for (number, (column, width)) in self.0.iter().enumerate() {
            if number > 0 {
                spans.push(Span::raw(" "));
            }
            let (text, meaning) = cell(*column, *width);
            let text = words::cut(&words::harmless(&text, theme.ascii), *width, theme.ascii);
            let blanks = " ".repeat(width.saturating_sub(words::width(&text)));
            let text = Span::styled(text, theme.style(meaning));
            if column.is_text() {
                spans.extend([text, Span::raw(blanks)]);
            } else {
                spans.extend([Span::raw(blanks), text]);
            }
        }
        Line::from(spans)
    }
}

fn quiet_zero(rate: Option<f64>, words: fn(Option<f64>) -> String) -> (String, Meaning) {
    let meaning = match rate {
        Some(rate) if rate > 0.0 => Meaning::Plain,
        _ => Meaning::Quiet,
    };
    (words(rate), meaning)
}

fn quiet_none(value: Option<f64>, words: fn(Option<f64>) -> String) -> (String, Meaning) {
    let meaning = match value {
        Some(_) => Meaning::Plain,
        None => Meaning::Quiet,
    };
    (words(value), meaning)
}

/// Present leaks are marked as bad; earlier ones are not.
fn leak_count(count: u64, rate: Option<f64>) -> (String, Meaning) {
    let meaning = match (count, rate) {
        (0, _) => Meaning::Quiet,
        (_, Some(rate)) if rate > 0.0 => Meaning::Bad,
        _ => Meaning::Plain,
    };
    (words::count(count), meaning)
}

fn leak_rate(rate: Option<f64>) -> (String, Meaning) {
    let meaning = match rate {
        Some(rate) if rate > 0.0 => Meaning::Bad,
        _ => Meaning::Quiet,
    };
    (words::rate(rate), meaning)
}
