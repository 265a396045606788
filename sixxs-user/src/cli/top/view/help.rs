//! Help for keys and columns, on top of everything else.

use ratatui_core::{
    buffer::Buffer,
    layout::Rect,
    text::{Line, Span},
};

use super::theme::{Meaning, Theme};

const KEYS: [(&str, &str); 10] = [
    ("q, Ctrl-C", "quit"),
    ("↑ ↓, k j", "select a tunnel, or scroll"),
    ("PgUp, PgDn", "a page; Home, End: the ends"),
    ("s, S", "next sort column, reverse"),
    ("u, r", "start (Enter too), restart"),
    ("d", "stop it; asks first"),
    ("a, Esc", "read whole alerts; back"),
    ("p", "pause, continue"),
    ("Ctrl-L, -Z", "redraw; suspend"),
    ("?, h", "this help; any key: back"),
];

const COLUMNS: [(&str, &str); 9] = [
    ("state", "the tunnel's, or what is missing"),
    ("in/s, out/s", "bytes through the interface"),
    ("lately", "both: 5 s per character, to scale"),
    ("ping/s", "echo requests from outside"),
    ("answd", "how many of them were answered"),
    ("median", "half of the answers took no longer"),
    ("last", "time since the last answer"),
    ("leaks", "packets to a wrong interface"),
    ("leak/s", "leaks per second"),
];

/// Draws it in the middle, as much as fits.
pub(super) fn draw(theme: Theme, area: Rect, buffer: &mut Buffer) {
    let keys = KEYS.iter().map(|(key, does)| entry(key, does, theme));
    let mut lines: Vec<Line<'_>> = keys.collect();
    if usize::from(area.height) > lines.len() + COLUMNS.len() + 2 {
        lines.push(Line::default());
        let columns = COLUMNS.iter();
        lines.extend(columns.map(|(name, is)| entry(name, is, theme)));
    }
    let widest = lines.iter().map(Line::width).max().unwrap_or(0);
    let size = |length: usize, most: u16| u16::try_from(length).unwrap_or(most).min(most);
    let framed = usize::from(area.height) >= lines.len() + 2;
    let frame = if framed { 1 } else { 0 };
    let (width, height) = (
        size(widest + 2 * frame, area.width),
        size(lines.len() + 2 * frame, area.height),
    );
    let window = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    for y in window.y..window.bottom() {
        let blank = " ".repeat(width.into());
        buffer.set_string(window.x, y, blank, ratatui_core::style::Style::reset());
    }
    if framed {
        frame_around(theme, window, buffer);
    }
    let inset = if framed { 1 } else { 0 };
    for (y, line) in (window.y + inset..window.bottom().saturating_sub(inset)).zip(&lines) {
        let columns = width.saturating_sub(2 * inset);
        buffer.set_line(window.x + inset, y, line, columns);
    }
}

fn entry(name: &'static str, is: &'static str, theme: Theme) -> Line<'static> {
    let name = if theme.ascii {
        name.replace("↑ ↓", "arrow")
    } else {
        name.to_owned()
    };
    Line::from(vec![
        Span::styled(format!(" {name:<11}"), theme.style(Meaning::Title)),
        Span::raw(format!(" {is} ")),
    ])
}

fn frame_around(theme: Theme, window: Rect, buffer: &mut Buffer) {
    let [corners, across, down] = if theme.ascii {
        [["+", "+", "+", "+"], ["-"; 4], ["|"; 4]]
    } else {
        [["┌", "┐", "└", "┘"], ["─"; 4], ["│"; 4]]
    };
    let inner = usize::from(window.width.saturating_sub(2));
    let style = theme.style(Meaning::Quiet);
    let across = across[0].repeat(inner);
    let (first, last) = (window.y, window.bottom().saturating_sub(1));
    let upper = format!("{}{across}{}", corners[0], corners[1]);
    let lower = format!("{}{across}{}", corners[2], corners[3]);
    buffer.set_stringn(window.x, first, upper, window.width.into(), style);
    buffer.set_stringn(window.x, last, lower, window.width.into(), style);
    for y in first + 1..last {
        buffer.set_string(window.x, y, down[0], style);
        buffer.set_string(window.right().saturating_sub(1), y, down[0], style);
    }
}
