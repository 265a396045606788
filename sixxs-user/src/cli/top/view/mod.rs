//! Draws the screen from the state alone, for any size, into a buffer. Removes all control characters from
//! texts.

mod alerts;
mod groups;
mod help;
mod table;
mod theme;
mod words;

#[cfg(test)]
mod tests;

use ratatui_core::{
    buffer::Buffer,
    layout::{Position, Rect},
    text::{Line, Span},
};

use self::{table::Columns, theme::Meaning};
use super::{
    app::{App, Overlay},
    model::{Model, Sort, TunnelMeters, Urgency, tunnel_urgency},
};
use crate::control::api::Tunnel;

pub(super) use self::theme::Theme;

/// Number of lines of each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts {
    head: u16,
    /// Heading and tunnels.
    tunnels: u16,
    /// Details of the selected tunnel.
    detail: u16,
    /// Heading and groups.
    groups: u16,
    /// Heading and uplinks.
    uplinks: u16,
    alerts: u16,
    foot: u16,
}

/// What there is to show.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    tunnels: usize,
    groups: usize,
    uplinks: usize,
    /// Number of lines that the alerts need.
    alerts: usize,
}

impl Parts {
    /// Splits `height` lines among the parts. Lines that other parts do not need go to the alerts.
    fn new(height: u16, counts: Counts, reading: bool) -> Self {
        let lines = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
        let head = height.min(1);
        let foot = u16::from(height >= 4);
        let room = height - head - foot;
        let detail = u16::from(room >= 12 && counts.tunnels > 0);
        let table = |count: usize| match count {
            0 => 0,
            _ if room < 10 => 0,
            some => lines(some).min(room / 6) + 1,
        };
        let [groups, uplinks] = [counts.groups, counts.uplinks].map(table);
        let left = room - detail - groups - uplinks;
        let least = match (reading, left) {
            // The heading, and three tunnels.
            (true, _) => left
                .saturating_sub(4)
                .max(left / 2)
                .min(left.saturating_sub(2)),
            (false, ..=5) => 0,
            (false, ..=11) => 3,
            (false, _) => lines(counts.alerts).min(left / 2).max(left / 4),
        };
        let tunnels = lines(counts.tunnels.max(1))
            .saturating_add(1)
            .min(left - least);
        let alerts = left - tunnels;
        Self {
            head,
            tunnels,
            detail,
            groups,
            uplinks,
            alerts,
            foot,
        }
    }
}

/// Draws the whole screen.
pub(super) fn draw(app: &App, theme: Theme, area: Rect, buffer: &mut Buffer) {
    let model = app.shown();
    let columns = Columns::new(area.width.into(), model);
    let tunnels = model.tunnels(app.sort, app.reverse);
    let uplinks = model.uplinks();
    let groups = model.groups();
    let counts = Counts {
        tunnels: tunnels.len(),
        groups: groups.len(),
        uplinks: uplinks.len(),
        alerts: alerts::wanted(app, area.width.into(), theme),
    };
    let parts = Parts::new(area.height, counts, app.reading);

    let canvas = Canvas { area, buffer };
    let mut rest = canvas.part(parts.head, |canvas| {
        canvas.line(0, &head(app, canvas.width(), theme));
    });
    rest = rest.part(parts.tunnels, |canvas| {
        draw_tunnels(canvas, app, &columns, &tunnels, theme);
    });
    rest = rest.part(parts.detail, |canvas| {
        if let Some((tunnel, _)) = tunnels.get(app.selected_row()) {
            let text = detail(tunnel, app.selected_row(), tunnels.len());
            draw_detail(canvas, tunnel, &text, theme);
        }
    });
    rest = rest.part(parts.groups, |canvas| {
        let (name, width) = (columns.name(), canvas.width());
        canvas.line(0, &groups::headings(name, theme));
        for (line, group) in (1..).zip(groups) {
            canvas.line(line, &groups::line(group, name, width, theme));
        }
    });
    rest = rest.part(parts.uplinks, |canvas| {
        canvas.line(0, &columns.uplink_headings(theme));
        for (line, uplink) in (1..).zip(&uplinks) {
            canvas.line(line, &columns.uplink(*uplink, model, theme));
        }
    });
    rest = rest.part(parts.alerts, |canvas| {
        let (width, height) = (canvas.width(), canvas.height());
        for (line, text) in (0..).zip(alerts::lines(app, width, height, theme)) {
            canvas.line(line, &text);
        }
    });
    rest.part(parts.foot, |canvas| {
        canvas.line(0, &foot(app, canvas.width(), theme));
    });
    if app.overlay == Overlay::Help {
        help::draw(theme, area, buffer);
    }
}

/// The headings, and the tunnels around the selected one.
fn draw_tunnels(
    canvas: &mut Canvas<'_>,
    app: &App,
    columns: &Columns,
    tunnels: &[(&Tunnel, &TunnelMeters)],
    theme: Theme,
) {
    canvas.line(0, &columns.tunnel_headings(app.sort, theme));
    let rows = canvas.height().saturating_sub(1);
    let first = first_shown(app.selected_row(), rows, tunnels.len());
    let shown = tunnels.iter().enumerate().skip(first).take(rows);
    for (line, (place, tunnel)) in (1..).zip(shown) {
        let selected = place == app.selected_row();
        canvas.line(line, &columns.tunnel(*tunnel, app.shown(), selected, theme));
    }
    if tunnels.is_empty() {
        let none = Span::styled("  no tunnels", theme.style(Meaning::Quiet));
        canvas.line(1, &none.into());
    }
}

/// The details of a tunnel, in one line.
fn draw_detail(canvas: &mut Canvas<'_>, tunnel: &Tunnel, text: &str, theme: Theme) {
    let text = words::harmless(text, theme.ascii);
    let text = words::cut(&text, canvas.width(), theme.ascii);
    let meaning = match tunnel_urgency(tunnel) {
        Urgency::High => Meaning::Bad,
        _ => Meaning::Quiet,
    };
    canvas.line(0, &Span::styled(text, theme.style(meaning)).into());
}

/// A part of the screen to draw lines on.
struct Canvas<'a> {
    area: Rect,
    buffer: &'a mut Buffer,
}

impl<'a> Canvas<'a> {
    /// Passes the upper lines to `draw`, and returns the rest below.
    fn part(self, height: u16, draw: impl FnOnce(&mut Canvas<'_>)) -> Canvas<'a> {
        let height = height.min(self.area.height);
        let mut upper = Canvas {
            area: Rect {
                height,
                ..self.area
            },
            buffer: &mut *self.buffer,
        };
        if height > 0 {
            draw(&mut upper);
        }
        let area = Rect {
            y: self.area.y + height,
            height: self.area.height - height,
            ..self.area
        };
        Canvas {
            area,
            buffer: self.buffer,
        }
    }

    fn width(&self) -> usize {
        self.area.width.into()
    }

    fn height(&self) -> usize {
        self.area.height.into()
    }

    /// Draws a line, cut at the edges of the part.
    fn line(&mut self, number: u16, line: &Line<'_>) {
        if number < self.area.height {
            let Position { x, y } = self.area.as_position();
            self.buffer.set_line(x, y + number, line, self.area.width);
        }
    }
}

/// The first row to show, so that the selected one is visible, in the middle if possible.
fn first_shown(selected: usize, rows: usize, all: usize) -> usize {
    selected
        .saturating_sub(rows / 2)
        .min(all.saturating_sub(rows))
}

/// The first line: the overall state.
fn head(app: &App, width: usize, theme: Theme) -> Line<'static> {
    let model = app.shown();
    let (text, meaning) = verdict(model);
    let mut spans = vec![
        Span::styled(" sixxs  ", theme.style(Meaning::Title)),
        Span::styled(words::harmless(&text, theme.ascii), theme.style(meaning)),
    ];
    if let Some(status) = model.status()
        && model.lost().is_none()
    {
        let corrections = match status.corrections {
            1 => "1 correction".to_owned(),
            corrections => format!("{corrections} corrections"),
        };
        spans.push(Span::raw(format!(", {corrections}")));
    }
    let right = if app.is_paused() {
        Span::styled("PAUSED ", theme.style(Meaning::Title))
    } else {
        Span::raw("")
    };
    let left: usize = spans.iter().map(Span::width).sum();
    if let Some(between) = width.checked_sub(left + right.width()) {
        spans.push(Span::raw(" ".repeat(between)));
        spans.push(right);
    } else if app.is_paused() {
        spans.insert(0, right);
    }
    Line::from(spans)
}

fn verdict(model: &Model) -> (String, Meaning) {
    if let Some(lost) = model.lost() {
        let text = format!("DAEMON UNREACHABLE since {} UTC: {}", lost.since, lost.why);
        return (text, Meaning::Bad);
    }
    let Some(status) = model.status() else {
        return ("waiting for the daemon".to_owned(), Meaning::Quiet);
    };
    let all = status.tunnels.len();
    let ill = status
        .tunnels
        .iter()
        .filter(|t| tunnel_urgency(t) > Urgency::None)
        .count();
    match (status.healthy, ill) {
        (true, _) => match all {
            0 => ("no tunnels".to_owned(), Meaning::Quiet),
            1 => ("1 tunnel, healthy".to_owned(), Meaning::Good),
            all => (format!("{all} tunnels, all healthy"), Meaning::Good),
        },
        (false, 0) => ("NOT HEALTHY".to_owned(), Meaning::Bad),
        (false, ill) => (format!("NOT HEALTHY: {ill} of {all} tunnels"), Meaning::Bad),
    }
}

/// Details of a tunnel, its problems first.
fn detail(tunnel: &Tunnel, place: usize, all: usize) -> String {
    let mut parts = Vec::new();
    parts.extend(tunnel.reason.clone());
    parts.extend(tunnel.health_reasons.iter().cloned());
    parts.extend(tunnel.until.as_ref().map(|until| format!("until {until}")));
    parts.push(tunnel.kind.to_string());
    parts.extend(tunnel.endpoint.as_ref().map(|to| format!("to {to}")));
    parts.extend(tunnel.addresses.iter().map(ToString::to_string));
    parts.extend(tunnel.prefixes.iter().cloned());
    parts.push(format!("table {}", tunnel.table));
    parts.extend(tunnel.mtu.map(|mtu| format!("mtu {mtu}")));
    if tunnel.strays > 0 {
        parts.push(format!("{} strays", tunnel.strays));
    }
    if tunnel.loops > 0 {
        parts.push(format!("{} loops", tunnel.loops));
    }
    if tunnel.recursions > 0 {
        parts.push(format!("{} recursions", tunnel.recursions));
    }
    let number = place + 1;
    format!("  {number} of {all}: {}", parts.join(", "))
}

/// The last line: a question, a message, or the keys.
fn foot(app: &App, width: usize, theme: Theme) -> Line<'static> {
    let line = |text: &str, meaning| {
        let text = words::harmless(&format!(" {text}"), theme.ascii);
        let text = words::cut(&text, width, theme.ascii);
        Line::from(Span::styled(text, theme.style(meaning)))
    };
    if let Overlay::Stop(name) = &app.overlay {
        return line(&format!("stop {name}? y/n"), Meaning::Title);
    }
    if let Some(notice) = &app.notice {
        let meaning = if notice.bad {
            Meaning::Bad
        } else {
            Meaning::Title
        };
        return line(&notice.text, meaning);
    }
    let sort = match (app.sort, app.reverse) {
        (Sort::File, false) => "sort".to_owned(),
        (sort, false) => format!("sort:{}", sort.name()),
        (sort, true) => format!("sort:-{}", sort.name()),
    };
    let alerts = if app.reading { "back" } else { "alerts" };
    let pause = if app.is_paused() { "go on" } else { "pause" };
    // If there is not enough room, the last ones are left out first.
    let mut keys = vec![
        ("q", "quit"),
        ("?", "help"),
        ("s", sort.as_str()),
        ("u", "start"),
        ("d", "stop"),
        ("r", "restart"),
        ("a", alerts),
        ("p", pause),
        (
            theme.arrows(),
            if app.reading { "scroll" } else { "select" },
        ),
    ];
    let total = |keys: &[(&str, &str)]| -> usize {
        let widths = keys
            .iter()
            .map(|(key, does)| words::width(key) + words::width(does));
        widths.map(|width| width + "  ".len() + " ".len()).sum()
    };
    while total(&keys) > width && keys.len() > 1 {
        keys.pop();
    }
    let mut spans = Vec::new();
    for (key, does) in keys {
        let gap = if spans.is_empty() { " " } else { "  " };
        spans.push(Span::raw(gap));
        spans.push(Span::styled(key.to_owned(), theme.style(Meaning::Title)));
        spans.push(Span::styled(
            format!(" {does}"),
            theme.style(Meaning::Quiet),
        ));
    }
    Line::from(spans)
}
