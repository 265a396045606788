//! Draws a terminal screen, with colours as escape sequences, as SVG.
//!
//! Only the escape sequence SGR (ECMA-48 §8.3.117) is supported, which tmux uses in its captures.

use std::fmt::Write as _;

/// Size of a character's cell, and the margin around the text, in pixels.
const CELL: (f64, f64) = (8.4, 18.0);
const MARGIN: f64 = 14.0;
const BACKGROUND: &str = "#11151c";
const FOREGROUND: &str = "#d5dbe3";
const DIM: &str = "#7f8b99";
/// SGR 31 to 37.
const COLOURS: [&str; 7] = [
    "#ff7b72", "#5ac46c", "#e0af4a", "#6cb0f5", "#d2a8ff", "#4fc3d0", FOREGROUND,
];
/// Bars from the lowest to the highest.
const BARS: &str = "▁▂▃▄▅▆▇█";

/// The style of characters from some position on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Look {
    colour: Option<usize>,
    bold: bool,
    dim: bool,
    underlined: bool,
}

impl Look {
    fn change(&mut self, number: usize) {
        match number {
            0 => *self = Self::default(),
            1 => self.bold = true,
            2 => self.dim = true,
            4 => self.underlined = true,
            22 => (self.bold, self.dim) = (false, false),
            24 => self.underlined = false,
            31..=37 => self.colour = Some(number - 31),
            39 => self.colour = None,
            _ => {}
        }
    }

    fn fill(self) -> &'static str {
        match self.colour {
            Some(colour) => COLOURS[colour],
            None if self.dim => DIM,
            None => FOREGROUND,
        }
    }
}

/// A picture of these lines, with a width in columns; each character is one column wide. `name` is the
/// picture's title.
pub fn picture(name: &str, screen: &str, columns: u16) -> String {
    let rows = screen.lines().count();
    let width = f64::from(columns) * CELL.0 + 2.0 * MARGIN;
    let height = rows as f64 * CELL.1 + 2.0 * MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
         width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\">\n\
         <title>{}</title>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n\
         <g font-family=\"'DejaVu Sans Mono', Menlo, Consolas, monospace\" font-size=\"14\" \
         xml:space=\"preserve\">\n",
        escaped(name)
    );
    let mut look = Look::default();
    for (row, line) in screen.lines().enumerate() {
        draw_line(&mut svg, row, line, &mut look);
    }
    svg + "</g>\n</svg>\n"
}

fn draw_line(svg: &mut String, row: usize, line: &str, look: &mut Look) {
    let mut column = 0;
    let mut run = String::new();
    let mut rest = line;
    while let Some(character) = rest.chars().next() {
        if let Some((numbers, after)) = sgr(rest) {
            draw_run(svg, row, &mut column, &mut run, *look);
            numbers.for_each(|number| look.change(number));
            rest = after;
            continue;
        }
        rest = &rest[character.len_utf8()..];
        match BARS.chars().position(|bar| bar == character) {
            Some(height) => {
                draw_run(svg, row, &mut column, &mut run, *look);
                draw_bar(svg, row, column, height + 1, *look);
                column += 1;
            }
            None => run.push(character),
        }
    }
    draw_run(svg, row, &mut column, &mut run, *look);
}

/// The numbers of a sequence at the start of the text, and the rest of the text.
fn sgr(text: &str) -> Option<(impl Iterator<Item = usize>, &str)> {
    let (numbers, after) = text.strip_prefix("\x1b[")?.split_once('m')?;
    // An empty number means 0.
    let numbers = numbers.split(';').map(|n| n.parse().unwrap_or(0));
    Some((numbers, after))
}

/// Characters with the same style; each is in its column with any font.
fn draw_run(svg: &mut String, row: usize, column: &mut usize, run: &mut String, look: Look) {
    let text = std::mem::take(run);
    let blanks = text.chars().take_while(|c| *c == ' ').count();
    let shown = text.trim();
    let length = shown.chars().count();
    if length > 0 {
        let (x, y) = corner(row, *column + blanks);
        let weight = if look.bold {
            " font-weight=\"bold\""
        } else {
            ""
        };
        let line = if look.underlined {
            " text-decoration=\"underline\""
        } else {
            ""
        };
        // Writing to a String does not fail.
        let _infallible = writeln!(
            svg,
            "<text x=\"{x:.1}\" y=\"{:.1}\" textLength=\"{:.1}\" fill=\"{}\"{weight}{line}>{}</text>",
            y + CELL.1 * 0.75,
            length as f64 * CELL.0,
            look.fill(),
            escaped(shown)
        );
    }
    *column += text.chars().count();
}

/// Draws a bar as a rectangle, since fonts differ in the position of these characters.
fn draw_bar(svg: &mut String, row: usize, column: usize, eighths: usize, look: Look) {
    let (x, y) = corner(row, column);
    let height = (CELL.1 - 3.0) * eighths as f64 / 8.0;
    let _infallible = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{}\"/>",
        y + CELL.1 - 1.0 - height,
        CELL.0 - 0.6,
        look.fill()
    );
}

fn corner(row: usize, column: usize) -> (f64, f64) {
    (
        MARGIN + column as f64 * CELL.0,
        MARGIN + row as f64 * CELL.1,
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_is_in_its_columns() {
        let svg = picture("a < b", "  \x1b[1;31mno\x1b[0m &\n▁█", 10);
        assert!(svg.contains("<title>a &lt; b</title>"), "{svg}");
        let no = "<text x=\"30.8\" y=\"27.5\" textLength=\"16.8\" fill=\"#ff7b72\" \
                  font-weight=\"bold\">no</text>";
        assert!(svg.contains(no), "{svg}");
        let and = "<text x=\"56.0\" y=\"27.5\" textLength=\"8.4\" fill=\"#d5dbe3\">&amp;</text>";
        assert!(svg.contains(and), "{svg}");
        assert!(svg.contains("height=\"1.9\""), "the low bar: {svg}");
        assert!(svg.contains("height=\"15.0\""), "the high one: {svg}");
    }
}
