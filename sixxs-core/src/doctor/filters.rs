//! Packet filters that ask where a packet's source is reached: `fib saddr . iif oif missing drop`, as
//! firewalld has it (`IPv6_rpfilter`), and `-m rpfilter` of ip6tables.
//!
//! Asked for the way back to a packet that came in by a tunnel, the kernel goes by our rules, as it does
//! for the answer. So such a filter lets through what it should while rules are in place, and drops
//! everything once they are not, when the programs would still have caught the answers.

use super::{Finding, Verdict, managers::is_like};

/// What there is.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    /// Rules that matter, chain by chain in their order.
    pub rules: Vec<FilterRule>,
    /// Why they could not be listed, if they could not.
    pub not_listed: Option<String>,
    /// The tunnels.
    pub tunnels: Vec<Tunnel>,
}

/// A tunnel.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// Its interface.
    pub name: String,
    /// Whether what answers a packet that came in by it is led there.
    pub is_led_back: bool,
}

/// A rule of a packet filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterRule {
    /// `inet`, `ip6`.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// Its number.
    pub handle: u64,
    /// The incoming interfaces that it asks for, if any.
    pub interfaces: Option<Interfaces>,
    /// What it does.
    pub does: Does,
}

/// Incoming interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interfaces {
    /// Whether all but these.
    pub not: bool,
    /// Their names; `*` is anything.
    pub names: Vec<String>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// Lets what came in by its interfaces pass, whatever else it is like.
    Pass,
    /// Drops what came in by an interface that does not lead to its source.
    DropUnlessStrict,
}

impl FilterRule {
    fn is_for(&self, interface: &str) -> bool {
        self.interfaces.as_ref().is_none_or(|interfaces| {
            let named = interfaces.names.iter().any(|name| is_like(name, interface));
            named != interfaces.not
        })
    }
}

pub(super) fn findings(filters: &Filters) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(why) = &filters.not_listed {
        findings.push(Finding::not(
            "filters",
            Verdict::Note,
            format!("packet filters were not looked at: {why}"),
            "run it as root; it asks nft -j list ruleset",
        ));
    }
    for (at, rule) in filters.rules.iter().enumerate() {
        if rule.does != Does::DropUnlessStrict {
            continue;
        }
        let earlier = &filters.rules[..at];
        let same_chain = |other: &&FilterRule| {
            (&other.family, &other.table, &other.chain) == (&rule.family, &rule.table, &rule.chain)
        };
        let hits = |tunnel: &&Tunnel| {
            let mut passes = earlier.iter().filter(same_chain);
            let is_excepted = passes.any(|o| o.does == Does::Pass && o.is_for(&tunnel.name));
            rule.is_for(&tunnel.name) && !is_excepted
        };
        let hit: Vec<_> = filters.tunnels.iter().filter(hits).collect();
        findings.extend(finding(rule, &hit));
    }
    findings
}

fn finding(rule: &FilterRule, hit: &[&Tunnel]) -> Option<Finding> {
    let FilterRule {
        family,
        table,
        chain,
        handle,
        ..
    } = rule;
    let cut_off: Vec<_> = hit.iter().filter(|tunnel| !tunnel.is_led_back).collect();
    let join = |names: Vec<&str>| names.join(" and ");
    let place = format!("{family} {table} {chain}");
    let quoted: Vec<_> = hit.iter().map(|t| format!("\"{}\"", t.name)).collect();
    let fix = format!(
        "nft insert rule {place} position {handle} iifname '{{ {} }}' accept{}",
        quoted.join(", "),
        if table == "firewalld" {
            "; for good: IPv6_rpfilter=no in /etc/firewalld/firewalld.conf"
        } else {
            ""
        }
    );
    if let [_, ..] = cut_off.as_slice() {
        let names = cut_off.iter().map(|tunnel| tunnel.name.as_str()).collect();
        return Some(Finding::not(
            "filters",
            Verdict::Bad,
            format!(
                "a packet filter ({place}, handle {handle}) drops what comes in by {}, since no rule \
                 leads the answers there",
                join(names)
            ),
            fix,
        ));
    }
    (!hit.is_empty()).then(|| {
        let names = hit.iter().map(|tunnel| tunnel.name.as_str()).collect();
        Finding::not(
            "filters",
            Verdict::Note,
            format!(
                "a packet filter ({place}, handle {handle}) would drop what comes in by {} as soon as \
                 our rules are missing",
                join(names)
            ),
            fix,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(does: Does, interfaces: Option<(bool, &str)>) -> FilterRule {
        FilterRule {
            family: "inet".to_owned(),
            table: "t".to_owned(),
            chain: "c".to_owned(),
            handle: 4,
            interfaces: interfaces.map(|(not, name)| Interfaces {
                not,
                names: vec![name.to_owned()],
            }),
            does,
        }
    }

    #[test]
    fn who_is_hit() {
        let strict = |interfaces| rule(Does::DropUnlessStrict, interfaces);
        let pass = |name| rule(Does::Pass, Some((false, name)));
        let tunnel = |name: &str, is_led_back| Tunnel {
            name: name.to_owned(),
            is_led_back,
        };
        let found = |rules: Vec<FilterRule>| {
            let filters = Filters {
                rules,
                not_listed: None,
                tunnels: vec![tunnel("sixxs0", false), tunnel("sixxs1", true)],
            };
            let findings = findings(&filters);
            assert!(findings.len() < 2);
            findings.into_iter().next().map(|finding| finding.verdict)
        };
        assert_eq!(found(vec![]), None);
        assert_eq!(found(vec![strict(None)]), Some(Verdict::Bad));
        assert_eq!(
            found(vec![strict(Some((false, "sixxs1")))]),
            Some(Verdict::Note)
        );
        assert_eq!(found(vec![strict(Some((true, "sixxs*")))]), None);
        assert_eq!(
            found(vec![pass("sixxs0"), strict(None)]),
            Some(Verdict::Note)
        );
        assert_eq!(found(vec![pass("sixxs*"), strict(None)]), None);
        // Too late.
        assert_eq!(
            found(vec![strict(None), pass("sixxs*")]),
            Some(Verdict::Bad)
        );
        let mut elsewhere = pass("sixxs*");
        elsewhere.chain = "d".to_owned();
        assert_eq!(found(vec![elsewhere, strict(None)]), Some(Verdict::Bad));
    }
}
