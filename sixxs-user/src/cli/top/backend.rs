//! ratatui's backend: writes changes of the screen as escape sequences to a buffer.
//!
//! It neither queries the terminal nor writes to it, so that a terminal that is slow, stopped or gone does not
//! block. It uses only sequences that every terminal since the VT100 has (ECMA-48: CUP, CUF, ED, SGR), with
//! the terminal's own 16 colours.

use std::{convert::Infallible, fmt::Write as _};

use ratatui_core::{
    backend::{Backend, ClearType, WindowSize},
    buffer::Cell,
    layout::{Position, Size},
    style::{Color, Modifier},
    text::Span,
};

/// The sequences to write, and the state of the terminal after them.
#[derive(Debug)]
pub(super) struct Sequences {
    text: String,
    size: Size,
    /// The position of the cursor, if known.
    cursor: Option<Position>,
    look: Look,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Look {
    colour: Option<u8>,
    modifier: Modifier,
}

impl Sequences {
    pub(super) fn new(size: Size) -> Self {
        Self {
            text: String::new(),
            size,
            cursor: None,
            look: Look::default(),
        }
    }

    pub(super) fn resize(&mut self, size: Size) {
        self.size = size;
    }

    /// Takes the sequences to write.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    fn push(&mut self, arguments: std::fmt::Arguments<'_>) {
        // Writing into a String does not fail.
        let _infallible = self.text.write_fmt(arguments);
    }

    fn go(&mut self, to: Position) {
        match self.cursor {
            Some(at) if at == to => {}
            Some(at) if at.y == to.y && at.x < to.x => match to.x - at.x {
                1 => self.text.push_str("\x1b[C"),
                by => self.push(format_args!("\x1b[{by}C")),
            },
            _ => self.push(format_args!("\x1b[{};{}H", to.y + 1, to.x + 1)),
        }
    }

    fn wear(&mut self, look: Look) {
        if look == self.look {
            return;
        }
        self.look = look;
        self.text.push_str("\x1b[0");
        for (modifier, number) in [
            (Modifier::BOLD, 1),
            (Modifier::DIM, 2),
            (Modifier::UNDERLINED, 4),
            (Modifier::REVERSED, 7),
        ] {
            if look.modifier.contains(modifier) {
                self.push(format_args!(";{number}"));
            }
        }
        if let Some(number) = look.colour {
            self.push(format_args!(";{number}"));
        }
        self.text.push('m');
    }
}

/// The SGR number of a foreground colour; none for colours that are not used here.
fn colour_number(colour: Color) -> Option<u8> {
    match colour {
        Color::Red => Some(31),
        Color::Green => Some(32),
        Color::Yellow => Some(33),
        Color::Blue => Some(34),
        Color::Magenta => Some(35),
        Color::Cyan => Some(36),
        _ => None,
    }
}

impl Backend for Sequences {
    type Error = Infallible;

    fn draw<'a, I>(&mut self, content: I) -> Result<(), Infallible>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        for (x, y, cell) in content {
            self.go(Position { x, y });
            self.wear(Look {
                colour: colour_number(cell.fg),
                modifier: cell.modifier,
            });
            // The view removes control characters; this is the last check.
            let symbol = match cell.symbol() {
                symbol if symbol.chars().any(char::is_control) => "?",
                symbol => symbol,
            };
            self.text.push_str(symbol);
            let end = usize::from(x) + Span::raw(symbol).width();
            // After the last column the position of the cursor depends on the terminal.
            let end = u16::try_from(end).ok().filter(|x| *x < self.size.width);
            self.cursor = end.map(|x| Position { x, y });
        }
        self.wear(Look::default());
        Ok(())
    }

    fn hide_cursor(&mut self) -> Result<(), Infallible> {
        // The cursor is always hidden.
        Ok(())
    }

    fn show_cursor(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    fn get_cursor_position(&mut self) -> Result<Position, Infallible> {
        Ok(self.cursor.unwrap_or_default())
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> Result<(), Infallible> {
        let position = position.into();
        self.go(position);
        self.cursor = Some(position);
        Ok(())
    }

    fn clear(&mut self) -> Result<(), Infallible> {
        self.wear(Look::default());
        self.text.push_str("\x1b[H\x1b[2J");
        self.cursor = Some(Position::default());
        Ok(())
    }

    fn clear_region(&mut self, _region: ClearType) -> Result<(), Infallible> {
        // It is only called for the whole screen, before a complete redraw.
        self.clear()
    }

    fn size(&self) -> Result<Size, Infallible> {
        Ok(self.size)
    }

    fn window_size(&mut self) -> Result<WindowSize, Infallible> {
        Ok(WindowSize {
            columns_rows: self.size,
            pixels: Size::default(),
        })
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(cells: &[(u16, u16, &str, Color)]) -> String {
        let mut sequences = Sequences::new(Size::new(10, 4));
        let cells: Vec<_> = cells
            .iter()
            .map(|(x, y, symbol, colour)| {
                let mut cell = Cell::default();
                cell.set_symbol(symbol).set_fg(*colour);
                (*x, *y, cell)
            })
            .collect();
        let content = cells.iter().map(|(x, y, cell)| (*x, *y, cell));
        sequences.draw(content).unwrap();
        sequences.take()
    }

    #[test]
    fn neighbours_need_no_moving() {
        use Color::{Red, Reset};
        for (cells, expected) in [
            (&[(2, 1, "a", Reset), (3, 1, "b", Reset)][..], "\x1b[2;3Hab"),
            (&[(2, 1, "日", Reset), (4, 1, "b", Reset)], "\x1b[2;3H日b"),
            (
                &[(2, 1, "a", Reset), (6, 1, "b", Reset)],
                "\x1b[2;3Ha\x1b[3Cb",
            ),
            (
                &[(9, 0, "a", Reset), (0, 1, "b", Reset)],
                "\x1b[1;10Ha\x1b[2;1Hb",
            ),
            (
                &[(0, 0, "a", Red), (1, 0, "b", Red), (2, 0, "c", Reset)],
                "\x1b[1;1H\x1b[0;31mab\x1b[0mc",
            ),
            (&[(0, 0, "a", Red)], "\x1b[1;1H\x1b[0;31ma\x1b[0m"),
            (&[(0, 0, "\x1b", Reset)], "\x1b[1;1H?"),
            (&[], ""),
        ] {
            assert_eq!(drawn(cells), expected);
        }
    }
}
