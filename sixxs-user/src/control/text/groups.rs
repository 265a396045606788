//! Groups and probes as text.

use super::{
    lines::{LABEL, WIDTH, fitting, push_line},
    numbers::{counted, duration, short_time},
};
use crate::control::api::{Group, Leaks, Probes};

/// A group.
pub(super) fn group(text: &mut String, group: &Group) {
    let first = [
        format!(
            "{:<15} group      {}",
            group.name,
            group.prefixes.join(", ")
        ),
        format!(", table {}", group.table),
    ];
    push_line(text, &fitting(&first, WIDTH));
    push_line(
        text,
        &format!("  active    {}", fitting(&links(group), WIDTH - LABEL)),
    );
    let line = format!(
        "  in place  rules and routes: {}; {}",
        group.routing.name().replace('_', " "),
        counted(group.switches, "switch", "switches")
    );
    push_line(text, &line);
    leaks(text, group.leaks);
}

/// The links of a group, the active one first, in parts of which the last ones can be left out.
pub(crate) fn links(group: &Group) -> Vec<String> {
    let links = group.links.iter();
    let others = links.filter(|link| link.name != group.active);
    let others = others.map(|link| format!(", {} is {}", link.name, link.state));
    let active = group.links.iter().find(|link| link.name == group.active);
    let state = active.map(|link| format!("{} ({})", link.name, link.state));
    let mut parts = vec![
        state.unwrap_or_else(|| group.active.clone()),
        format!(" for {}", duration(group.active_seconds)),
    ];
    parts.extend(others);
    parts
}

/// Leaks by treatment.
pub(super) fn leaks(text: &mut String, leaks: Leaks) {
    let Leaks {
        redirected,
        dropped,
        observed,
        too_big,
    } = leaks;
    push_line(
        text,
        &format!(
            "  leaks     {redirected} redirected, {dropped} dropped, {observed} observed, {too_big} too big"
        ),
    );
}

/// The probes of a link.
pub(super) fn probes(probes: &Probes) -> String {
    let Probes {
        sent,
        lost,
        median_seconds,
        ..
    } = probes;
    let mut parts = vec![format!("{lost} of {sent} lost")];
    parts.extend(median_seconds.map(|seconds| format!(", median {}", short_time(seconds))));
    fitting(&parts, WIDTH - LABEL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::{GroupLink, LinkState, Routing};

    #[test]
    fn a_group_names_its_active_link_and_the_others() {
        let link = |name: &str, state| GroupLink {
            name: name.to_owned(),
            state,
        };
        let shown = Group {
            name: "lan".to_owned(),
            active: "wg0".to_owned(),
            active_seconds: 7.0,
            switches: 1,
            links: vec![link("he", LinkState::Failing), link("wg0", LinkState::Good)],
            prefixes: vec!["2001:db8:bb::/48".to_owned()],
            table: 202,
            routing: Routing::InPlace,
            leaks: Leaks::default(),
        };
        let mut text = String::new();
        group(&mut text, &shown);
        assert_eq!(
            text,
            "lan             group      2001:db8:bb::/48, table 202\n  \
             active    wg0 (good) for 7.0 s, he is failing\n  \
             in place  rules and routes: in place; 1 switch\n  \
             leaks     0 redirected, 0 dropped, 0 observed, 0 too big\n"
        );
    }

    #[test]
    fn probes_are_counted() {
        let mut shown = Probes {
            sent: 20,
            lost: 3,
            loss_percent: Some(15.0),
            median_seconds: None,
        };
        assert_eq!(probes(&shown), "3 of 20 lost");
        shown.median_seconds = Some(0.0124);
        assert!(
            probes(&shown).starts_with("3 of 20 lost, median 12"),
            "{}",
            probes(&shown)
        );
    }
}
