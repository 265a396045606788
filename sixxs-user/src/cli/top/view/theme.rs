//! The style: colours by meaning, which are never the only sign, and the characters for drawing.

use ratatui_core::style::{Color, Modifier, Style};

use super::super::model::Urgency;
use crate::cli::locale;

/// The terminal's abilities and the user's preferences.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Theme {
    pub(in super::super) colour: bool,
    /// Whether to use only ASCII.
    pub(in super::super) ascii: bool,
}

/// The meaning of a text, which selects its style.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Plain,
    /// Less important: headings, zeroes.
    Quiet,
    Good,
    /// It may resolve by itself.
    Doubtful,
    Bad,
    /// Important, regardless of the value.
    Title,
    Graph,
}

impl Meaning {
    /// By urgency; without any, it is `good`.
    pub(super) fn of_urgency(urgency: Urgency, good: Self) -> Self {
        match urgency {
            Urgency::None => good,
            Urgency::Low => Self::Doubtful,
            Urgency::High => Self::Bad,
        }
    }
}

impl Theme {
    /// From the environment: NO_COLOR (if not empty, as in no-color.org), and the locale.
    pub(in super::super) fn of_environment(ascii: bool) -> Self {
        Self {
            colour: locale::variable("NO_COLOR").is_none(),
            ascii: ascii || !locale::is_utf8(locale::variable),
        }
    }

    pub(super) fn style(self, meaning: Meaning) -> Style {
        let plain = Style::new();
        let (colour, modifier) = match meaning {
            Meaning::Plain => (None, Modifier::empty()),
            Meaning::Quiet => (None, Modifier::DIM),
            Meaning::Good => (Some(Color::Green), Modifier::empty()),
            Meaning::Doubtful => (Some(Color::Yellow), Modifier::empty()),
            Meaning::Bad => (Some(Color::Red), Modifier::BOLD),
            Meaning::Title => (None, Modifier::BOLD),
            Meaning::Graph => (Some(Color::Cyan), Modifier::empty()),
        };
        match colour.filter(|_| self.colour) {
            Some(colour) => plain.fg(colour).add_modifier(modifier),
            None => plain.add_modifier(modifier),
        }
    }

    /// The mark of the selected row.
    pub(super) fn pointer(self) -> &'static str {
        if self.ascii { ">" } else { "▸" }
    }

    pub(super) fn rule(self) -> &'static str {
        if self.ascii { "-" } else { "─" }
    }

    pub(super) fn arrows(self) -> &'static str {
        if self.ascii { "j/k" } else { "↑↓" }
    }

    /// A graph of values over time. The largest value, or `least` if that is larger, has the full height.
    /// Unknown values are blank, zero is the lowest sign.
    pub(super) fn sparkline(self, values: &[Option<u64>], least: u64) -> String {
        const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        const SIGNS: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];
        let signs = if self.ascii { SIGNS } else { BARS };
        let largest = values.iter().flatten().max().copied().unwrap_or(0);
        let largest = largest.max(least).max(1);
        let highest = u128::from(u64::try_from(signs.len() - 1).unwrap_or(0));
        let height = |value: u64| (u128::from(value) * highest).div_ceil(u128::from(largest));
        values
            .iter()
            .map(|value| {
                let place = value.and_then(|value| usize::try_from(height(value)).ok());
                place
                    .and_then(|place| signs.get(place))
                    .copied()
                    .unwrap_or(' ')
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparklines_are_as_high_as_their_highest() {
        let line = |ascii, values: &[Option<u64>]| {
            let colour = false;
            Theme { colour, ascii }.sparkline(values, 10)
        };
        let values = [None, Some(0), Some(1), Some(35), Some(70)];
        assert_eq!(line(false, &values), " ▁▂▅█");
        assert_eq!(line(true, &values), " _.=#");
        assert_eq!(line(false, &[Some(0), Some(0)]), "▁▁");
        assert_eq!(line(false, &[Some(u64::MAX), Some(1)]), "█▂");
        assert_eq!(line(false, &[Some(1), Some(5)]), "▂▅", "little stays low");
        assert_eq!(line(false, &[]), "");
    }
}
