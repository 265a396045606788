//! What was put back, who had taken it away, and when that is a contest.

use std::fs;

use sixxs_core::types::IfName;

use super::state::State;
use crate::{
    api::About,
    netlink::{OthersChange, Removal, Removed},
};

/// Removals remembered between two looks: of more than this nobody can say which was whose.
const REMEMBERED: usize = 64;

/// What was taken away since the last look, by whom.
#[derive(Default)]
pub(super) struct Removals {
    all: Vec<(Removed, String)>,
    /// Those of `all` that were told of after the look had begun: it may not have seen them, and the
    /// next one will.
    late: Vec<(Removed, String)>,
}

impl Removals {
    fn note(&mut self, what: Removed, by: String, is_late: bool) {
        let removal = (what, by);
        if is_late && !self.late.contains(&removal) && self.late.len() < REMEMBERED {
            self.late.push(removal.clone());
        }
        if !self.all.contains(&removal) && self.all.len() < REMEMBERED {
            self.all.push(removal);
        }
    }

    /// The look is over.
    pub(super) fn looked(&mut self) {
        self.all = std::mem::take(&mut self.late);
    }

    /// Who took something of that kind away, if that was one alone. With an interface go its
    /// addresses and routes.
    fn by(&self, what: Removed) -> Option<&str> {
        let of = |kind: Removed| self.all.iter().filter(move |(removed, _)| *removed == kind);
        let mut found = of(what);
        match (found.next(), found.next()) {
            (Some((_, by)), None) => Some(by),
            (None, None) if matches!(what, Removed::Address | Removed::Route) => {
                let mut found = of(Removed::Link);
                let (_, by) = found.next()?;
                found.next().is_none().then_some(by)
            }
            _ => None,
        }
    }
}

/// Events taken in at a time.
const HEARD_AT_A_TIME: usize = 4096;

impl State {
    /// Takes in what was told of before it could be seen, so that of all that is found missing it is
    /// known who took it away. What came later is among it, and has to be looked at.
    pub(super) fn hear(&mut self) {
        for _ in 0..HEARD_AT_A_TIME {
            let Some(change) = self.ways.watcher.changed_already() else {
                return;
            };
            if let Some(removal) = change.removal {
                self.removed(removal, true);
            }
            let heard = self.heard.get_or_insert_default();
            *heard |= change.is_new_link || change.others == OthersChange::More;
            if change.others != OthersChange::Same {
                self.netlink.others_routes_changed();
            }
        }
    }

    /// Somebody took something away. Who that was is asked at once: most of them are short-lived.
    /// `is_late`: a look has begun already.
    pub(super) fn removed(&mut self, removal: Removal, is_late: bool) {
        let process = removal
            .process
            .filter(|process| *process != std::process::id());
        if let Some(process) = process
            && let Some(name) = name_of(process)
        {
            self.removals
                .note(removal.what, who(&name, process), is_late);
        }
    }

    /// Something was put back. `by`: what is to be found among what was taken away.
    pub(super) fn corrected(&mut self, tunnel: Option<IfName>, what: String, removed: Removed) {
        self.corrections += 1;
        let by = self.removals.by(removed).map(str::to_owned);
        if matches!(removed, Removed::Rule | Removed::Route) {
            let now = self.started.elapsed();
            self.put_back.note(tunnel.clone(), by.clone(), now);
        }
        if self
            .contest
            .corrected(self.started.elapsed(), by.as_deref())
        {
            self.alerts.raise(About::Correction {
                tunnel: tunnel.map(|name| name.to_string()),
                correction: what,
                by,
            });
        }
    }

    /// Tells together what was not told one by one.
    pub(super) fn tell_contest(&mut self) {
        if let Some(summary) = self.contest.summary(self.started.elapsed()) {
            self.alerts.raise(About::Correction {
                tunnel: None,
                correction: format!("{} more rules, routes and the like", summary.corrections),
                by: summary.by,
            });
        }
    }
}

/// The name of a process; `None` where it is gone, or the number was none of a process.
fn name_of(process: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// For people. A name may hold anything.
fn who(name: &str, process: u32) -> String {
    format!("{} (process {process})", name.escape_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_was_alone_is_named() {
        let mut removals = Removals::default();
        assert_eq!(removals.by(Removed::Rule), None);
        removals.note(Removed::Link, "ip (process 7)".to_owned(), false);
        assert_eq!(removals.by(Removed::Rule), None);
        assert_eq!(removals.by(Removed::Route), Some("ip (process 7)"));
        removals.note(Removed::Rule, "networkd (process 8)".to_owned(), false);
        removals.note(Removed::Rule, "networkd (process 8)".to_owned(), false);
        assert_eq!(removals.by(Removed::Rule), Some("networkd (process 8)"));
        removals.note(Removed::Rule, "ip (process 9)".to_owned(), false);
        assert_eq!(removals.by(Removed::Rule), None);
        removals.looked();
        assert_eq!(removals.by(Removed::Route), None);
    }

    #[test]
    fn what_is_told_during_a_look_is_known_to_the_next_one() {
        let mut removals = Removals::default();
        removals.note(Removed::Route, "ip (process 7)".to_owned(), false);
        removals.note(Removed::Rule, "ip (process 7)".to_owned(), true);
        assert_eq!(removals.by(Removed::Rule), Some("ip (process 7)"));
        removals.looked();
        assert_eq!(removals.by(Removed::Route), None);
        assert_eq!(removals.by(Removed::Rule), Some("ip (process 7)"));
        removals.looked();
        assert_eq!(removals.by(Removed::Rule), None);
    }
}
