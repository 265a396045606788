//! What was put back, who had taken it away, and when that is a contest.

use std::fs;

use sixxs_core::{contest::By, types::IfName};

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
    all: Vec<(Removed, By)>,
    /// Those of `all` that were told of after the look had begun: it may not have seen them, and the
    /// next one will.
    late: Vec<(Removed, By)>,
}

impl Removals {
    fn note(&mut self, what: Removed, by: By, is_late: bool) {
        if is_late {
            add(&mut self.late, what, by.clone());
        }
        add(&mut self.all, what, by);
    }

    /// The look is over.
    pub(super) fn looked(&mut self) {
        self.all = std::mem::take(&mut self.late);
    }

    /// Who took something of that kind away, if that was one alone. With an interface go its
    /// addresses and routes.
    fn by(&self, what: Removed) -> Option<&By> {
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

/// Adds a removal; processes of one name are one.
fn add(removals: &mut Vec<(Removed, By)>, what: Removed, by: By) {
    let mut of_kind = removals.iter_mut().filter(|(removed, _)| *removed == what);
    let is_known = of_kind.any(|(_, known)| known.joins(&by));
    if !is_known && removals.len() < REMEMBERED {
        removals.push((what, by));
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
        let by = self.removals.by(removed).cloned();
        let named = by.as_ref().map(By::to_string);
        if matches!(removed, Removed::Rule | Removed::Route) {
            let now = self.started.elapsed();
            self.put_back.note(tunnel.clone(), named.clone(), now);
        }
        if self.contest.corrected(self.started.elapsed(), by.as_ref()) {
            self.alerts.raise(About::Correction {
                tunnel: tunnel.map(|name| name.to_string()),
                correction: what,
                by: named,
            });
        }
    }

    /// Tells together what was not told one by one.
    pub(super) fn tell_contest(&mut self) {
        if let Some(summary) = self.contest.summary(self.started.elapsed()) {
            self.alerts.raise(About::Correction {
                tunnel: None,
                correction: format!("{} more rules, routes and the like", summary.corrections),
                by: summary.by.as_ref().map(By::to_string),
            });
        }
        self.alerts.tell_together();
    }
}

/// The name of a process; `None` where it is gone, or the number was none of a process.
fn name_of(process: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// For people. A name may hold anything.
fn who(name: &str, process: u32) -> By {
    By {
        name: name.escape_default().to_string(),
        process,
        others: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who would be named.
    fn named(removals: &Removals, what: Removed) -> Option<String> {
        removals.by(what).map(By::to_string)
    }

    #[test]
    fn whoever_was_alone_is_named() {
        let mut removals = Removals::default();
        assert_eq!(named(&removals, Removed::Rule), None);
        removals.note(Removed::Link, who("ip", 7), false);
        assert_eq!(named(&removals, Removed::Rule), None);
        assert_eq!(
            named(&removals, Removed::Route),
            Some("ip (process 7)".to_owned())
        );
        removals.note(Removed::Rule, who("networkd", 8), false);
        removals.note(Removed::Rule, who("networkd", 8), false);
        assert_eq!(
            named(&removals, Removed::Rule),
            Some("networkd (process 8)".to_owned())
        );
        removals.note(Removed::Rule, who("ip", 9), false);
        assert_eq!(named(&removals, Removed::Rule), None);
        // Of one name there may be many.
        for process in 20..1000 {
            removals.note(Removed::Address, who("ip", process), true);
        }
        let ip = Some("ip (process 20 and others)".to_owned());
        assert_eq!(named(&removals, Removed::Address), ip);
        removals.looked();
        assert_eq!(named(&removals, Removed::Route), None);
    }

    #[test]
    fn what_is_told_during_a_look_is_known_to_the_next_one() {
        let mut removals = Removals::default();
        removals.note(Removed::Route, who("ip", 7), false);
        removals.note(Removed::Rule, who("ip", 7), true);
        assert_eq!(
            named(&removals, Removed::Rule),
            Some("ip (process 7)".to_owned())
        );
        removals.looked();
        assert_eq!(named(&removals, Removed::Route), None);
        assert_eq!(
            named(&removals, Removed::Rule),
            Some("ip (process 7)".to_owned())
        );
        removals.looked();
        assert_eq!(named(&removals, Removed::Rule), None);
    }
}
