//! The lower pane: present problems and the alerts, newest last.

use ratatui_core::text::{Line, Span};

use super::{
    super::{app::App, model::Model},
    theme::{Meaning, Theme},
    words,
};

/// Maximum number of lines for a problem and for an older alert, while tunnels have most of the screen.
const AT_MOST: usize = 2;

/// Width of the time column, with a space.
const INDENT: usize = "12:03:11 ".len();

/// The lines of the pane, exactly as many as fit.
pub(super) fn lines(app: &App, width: usize, height: usize, theme: Theme) -> Vec<Line<'static>> {
    let Some(room) = height.checked_sub(1) else {
        return Vec::new();
    };
    let model = app.shown();
    let mut troubles = troubles(model, width, app.reading, theme);
    // Leave room for alerts: if possible, for the complete newest one.
    let newest = if app.reading {
        0
    } else {
        newest(model, width, theme)
    };
    let most = (room / 2).min(room.saturating_sub(newest));
    troubles.truncate(most.max(1));
    let room = room.saturating_sub(troubles.len());
    let (alerts, below) = newest_alerts(app, model, width, room, theme);

    let title = match (below, app.reading) {
        (0, false) => "alerts (UTC)".to_owned(),
        (0, true) => "alerts (UTC), newest at the end".to_owned(),
        (below, _) => format!("alerts (UTC), {below} more lines below"),
    };
    let mut lines = vec![rule(&title, width, theme)];
    lines.extend(troubles);
    lines.extend(alerts);
    lines
}

/// Number of lines for the problems and the complete newest alert; 0 without alerts.
pub(super) fn wanted(app: &App, width: usize, theme: Theme) -> usize {
    let model = app.shown();
    match newest(model, width, theme) {
        0 => 0,
        newest => 1 + troubles(model, width, false, theme).len() + newest,
    }
}

/// Number of lines of the newest alert.
fn newest(model: &Model, width: usize, theme: Theme) -> usize {
    let newest = model.alerts().iter().next_back();
    newest.map_or(0, |alert| {
        paragraph(
            &alert.time,
            &alert.text,
            Meaning::Plain,
            width,
            usize::MAX,
            theme,
        )
        .len()
    })
}

fn rule(title: &str, width: usize, theme: Theme) -> Line<'static> {
    let rule = theme.rule();
    let begin = format!("{} {title} ", rule.repeat(2));
    let rest = width.saturating_sub(words::width(&begin));
    let text = format!("{begin}{}", rule.repeat(rest));
    Span::styled(text, theme.style(Meaning::Quiet)).into()
}

/// Present problems.
fn troubles(model: &Model, width: usize, whole: bool, theme: Theme) -> Vec<Line<'static>> {
    let Some(status) = model.status() else {
        return Vec::new();
    };
    let most = if whole { usize::MAX } else { AT_MOST };
    let refusals = status.brokers.iter().filter_map(|broker| {
        let until = broker.locked_out_until.as_ref()?;
        Some(format!(
            "broker {} refuses this host until {until}",
            broker.name
        ))
    });
    let problems = status.problems.iter().map(|one| format!("problem: {one}"));
    problems
        .chain(refusals)
        .flat_map(|text| paragraph("", &text, Meaning::Bad, width, most, theme))
        .collect()
}

/// The latest alerts that fit, and the number of lines below them.
fn newest_alerts(
    app: &App,
    model: &Model,
    width: usize,
    room: usize,
    theme: Theme,
) -> (Vec<Line<'static>>, usize) {
    // Start with the newest alert, up to the height of the pane and the scrolled lines.
    let wanted = room.saturating_add(app.scrolled);
    let mut upwards = Vec::new();
    for alert in model.alerts().iter().rev() {
        if upwards.len() >= wanted {
            break;
        }
        let meaning = Meaning::of_urgency(alert.urgency, Meaning::Plain);
        // The newest one gets more room, since the cure is at its end.
        let most = match upwards.is_empty() {
            _ if app.reading => usize::MAX,
            true => room,
            false => AT_MOST,
        };
        let lines = paragraph(&alert.time, &alert.text, meaning, width, most, theme);
        // While scrolling, show parts of an alert; otherwise leave out one that does not fit.
        if !app.reading && !upwards.is_empty() && upwards.len() + lines.len() > room {
            break;
        }
        upwards.extend(lines.into_iter().rev());
    }
    if upwards.is_empty() {
        let none = Span::styled(" none", theme.style(Meaning::Quiet));
        return (vec![none.into()], 0);
    }
    let below = app.scrolled.min(upwards.len().saturating_sub(room));
    let mut shown: Vec<_> = upwards.into_iter().skip(below).take(room).collect();
    shown.reverse();
    (shown, below)
}

/// A time with a text beside it, in at most `most` lines.
fn paragraph(
    time: &str,
    text: &str,
    meaning: Meaning,
    width: usize,
    most: usize,
    theme: Theme,
) -> Vec<Line<'static>> {
    let indent = if time.is_empty() { 1 } else { INDENT + 1 };
    let columns = width.saturating_sub(indent).max(1);
    let mut lines = words::wrap(&words::harmless(text, theme.ascii), columns);
    if lines.len() > most {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            // Longer than any line, so that the mark for left-out text appears.
            let long = format!("{last}{}", " ".repeat(columns));
            *last = words::cut(&long, (words::width(last) + 1).min(columns), theme.ascii);
        }
    }
    let time = words::harmless(time, theme.ascii);
    let line = |(number, text): (usize, String)| {
        let margin = match number {
            0 => format!(" {time:<width$}", width = indent - 1),
            _ => " ".repeat(indent),
        };
        Line::from(vec![
            Span::styled(margin, theme.style(Meaning::Quiet)),
            Span::styled(text, theme.style(meaning)),
        ])
    };
    lines.into_iter().enumerate().map(line).collect()
}
