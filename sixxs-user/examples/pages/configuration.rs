//! The manual page of the configuration, `sixxs.toml(5)`. It is generated from the chapter "Configuration" of
//! docs/reference.md, so that there is only one description.

use anyhow::{Context as _, Result};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use crate::page::Page;

/// The headings that enclose the chapter.
const FROM: &str = "\n## Configuration\n";
const TO: &str = "\n## ";

/// The file name and the contents of the page.
pub(crate) fn page(reference: &str) -> Result<(String, Vec<u8>)> {
    let mut page = Page::new("sixxs.toml", 5, "the configuration of sixxs");
    page.request(".SH DESCRIPTION");
    let mut table = Table::default();
    for event in Parser::new_ext(part(reference)?, Options::ENABLE_TABLES) {
        if let Some(event) = table.take(event, &mut page) {
            add(event, &mut page);
        }
    }
    page.request(".SH FILES");
    page.request(".I /etc/sixxs/sixxs.toml");
    page.request(".SH \"SEE ALSO\"");
    page.request(".BR sixxs (8)");
    Ok(("sixxs.toml.5".to_owned(), page.into_bytes()))
}

fn part(reference: &str) -> Result<&str> {
    let (_, behind) = reference
        .split_once(FROM)
        .context("docs/reference.md has no part about the configuration")?;
    Ok(behind.split_once(TO).map_or(behind, |(part, _)| part))
}

/// Adds an event outside of tables. Links become plain text, because manual pages have no links.
fn add(event: Event<'_>, page: &mut Page) {
    match event {
        Event::Start(Tag::Heading { .. }) => page.begin(".SH \""),
        Event::End(TagEnd::Heading(_)) => page.text_as_is("\"\n"),
        Event::Start(Tag::Paragraph) => page.request(".PP"),
        Event::Start(Tag::Item) => page.request(".IP \\(bu 2"),
        Event::Start(Tag::CodeBlock(_)) => page.request(".PP\n.EX"),
        Event::End(TagEnd::CodeBlock) => page.request(".EE"),
        Event::End(TagEnd::Paragraph | TagEnd::Item) => page.end_line(),
        Event::Code(code) => page.in_typeface('B', &code),
        Event::Text(text) => page.text(&text),
        Event::SoftBreak | Event::HardBreak => page.end_line(),
        Event::Start(Tag::Emphasis | Tag::Strong) => page.text_as_is(r"\fI"),
        Event::End(TagEnd::Emphasis | TagEnd::Strong) => page.text_as_is(r"\fR"),
        _ => {}
    }
}

/// The current table. Each row becomes an entry: the first column is its tag, and the last column is its
/// text. The columns between them are added in parentheses, with their headings.
#[derive(Debug, Default)]
struct Table<'a> {
    headings: Vec<Vec<Event<'a>>>,
    /// The cells of the current row; `None`: outside of a table.
    cells: Option<Vec<Vec<Event<'a>>>>,
}

impl<'a> Table<'a> {
    /// Takes an event inside of a table. Returns an event outside of tables.
    fn take(&mut self, event: Event<'a>, page: &mut Page) -> Option<Event<'a>> {
        match &event {
            Event::Start(Tag::Table(_)) => self.cells = Some(Vec::new()),
            Event::End(TagEnd::Table) => self.cells = None,
            _ => {}
        }
        let Some(cells) = &mut self.cells else {
            return Some(event);
        };
        match event {
            Event::Start(Tag::TableCell) => cells.push(Vec::new()),
            Event::End(TagEnd::TableHead) => self.headings = std::mem::take(cells),
            Event::End(TagEnd::TableRow) => entry(&self.headings, std::mem::take(cells), page),
            event => {
                if let Some(cell) = cells.last_mut() {
                    cell.push(event);
                }
            }
        }
        None
    }
}

fn entry<'a>(headings: &[Vec<Event<'a>>], cells: Vec<Vec<Event<'a>>>, page: &mut Page) {
    let last = cells.len().saturating_sub(1);
    for (index, (cell, heading)) in cells.into_iter().zip(headings).enumerate() {
        if index == 0 {
            page.request(".TP");
        }
        if index == 0 || index == last {
            line(cell, page);
        } else if cell.iter().any(|event| *event != Event::Text("".into())) {
            let mut words = vec![Event::Text("(".into())];
            words.extend(heading.iter().cloned());
            words.push(Event::Text(": ".into()));
            words.extend(cell);
            words.push(Event::Text(")".into()));
            line(words, page);
        }
    }
}

fn line(events: Vec<Event<'_>>, page: &mut Page) {
    events.into_iter().for_each(|event| add(event, page));
    page.end_line();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::REFERENCE;

    fn text(reference: &str) -> Result<String> {
        Ok(String::from_utf8(page(reference)?.1)?)
    }

    #[test]
    fn every_key_of_the_reference_has_an_entry() -> Result<()> {
        let text = text(REFERENCE)?;
        let rows = part(REFERENCE)?
            .lines()
            .filter(|line| line.starts_with("| `"));
        let mut keys = 0;
        for row in rows {
            let key = row.split('`').nth(1).context("a key")?;
            let entry = format!(".TP\n\\fB{}\\fR", key.replace('-', r"\-"));
            assert!(text.contains(&entry), "{key}");
            keys += 1;
        }
        assert!(keys > 25, "{keys} keys");
        Ok(())
    }

    #[test]
    fn markdown_becomes_a_page() -> Result<()> {
        let reference = "# R\n\n## Configuration\n\nA `b-c`, [d](#e).\n\n\
                         | key | default | meaning |\n|---|---|---|\n| `k` | `1` | m |\n\n\
                         ### H\n\n```toml\n.x = \"\\\"\n```\n\n- i\n\n## Other\n\nleft out\n";
        let text = text(reference)?;
        for piece in [
            ".PP\nA \\fBb\\-c\\fR, d.\n",
            ".TP\n\\fBk\\fR\n(default: \\fB1\\fR)\nm\n",
            ".SH \"H\"\n",
            ".PP\n.EX\n\\&.x = \"\\e\"\n.EE\n",
            ".IP \\(bu 2\ni\n",
        ] {
            assert!(text.contains(piece), "{piece}\nis not in\n{text}");
        }
        assert!(!text.contains("left out"), "{text}");
        Ok(())
    }
}
