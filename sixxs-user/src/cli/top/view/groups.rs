//! Groups: a line each, with the links.

use ratatui_core::text::{Line, Span};

use super::{
    theme::{Meaning, Theme},
    words,
};
use crate::control::{
    api::{Group, GroupLink, LinkState},
    text,
};

/// The headings; `name` is the width of the column of names.
pub(super) fn headings(name: usize, theme: Theme) -> Line<'static> {
    let text = format!(" {:<name$} carried by", "group");
    Span::styled(text, theme.style(Meaning::Quiet)).into()
}

/// A group, in this width.
pub(super) fn line(group: &Group, name: usize, width: usize, theme: Theme) -> Line<'static> {
    let shown = words::cut(
        &words::harmless(&group.name, theme.ascii),
        name,
        theme.ascii,
    );
    let blanks = " ".repeat(name.saturating_sub(words::width(&shown)));
    let room = width.saturating_sub(name + 2);
    let links = text::fitting(&text::links(group), room);
    let links = words::cut(&words::harmless(&links, theme.ascii), room, theme.ascii);
    Line::from(vec![
        Span::raw(format!(" {shown}{blanks} ")),
        Span::styled(links, theme.style(meaning(group))),
    ])
}

/// Bad: the link that carries the prefixes is not good. Doubtful: another one could not take over.
fn meaning(group: &Group) -> Meaning {
    let is_bad = |link: &&GroupLink| link.state != LinkState::Good;
    let mut bad = group.links.iter().filter(is_bad).peekable();
    if bad.peek().is_none() {
        return Meaning::Good;
    }
    match bad.any(|link| link.name == group.active) {
        true => Meaning::Bad,
        false => Meaning::Doubtful,
    }
}
