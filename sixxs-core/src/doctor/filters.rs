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
    /// What could not be listed.
    pub not_listed: Vec<NotListed>,
    /// The tunnels.
    pub tunnels: Vec<Tunnel>,
}

/// What could not be listed.
#[derive(Clone, Debug)]
pub struct NotListed {
    /// The command that lists it.
    pub asked: &'static str,
    /// Why; `None`: there is something to list, and no such command.
    pub why: Option<String>,
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
    /// What it is listed and changed by.
    pub tool: Tool,
    /// `inet`, `ip6`.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// Its handle; of ip6tables its place in the chain, from 1.
    pub number: u64,
    /// The incoming interfaces that it asks for, if any.
    pub interfaces: Option<Interfaces>,
    /// What it does.
    pub does: Does,
}

/// What a rule is listed and changed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// nft.
    Nft,
    /// One of ip6tables's commands.
    Ip6tables(&'static str),
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
    findings.extend(filters.not_listed.iter().map(not_listed));
    for (at, rule) in filters.rules.iter().enumerate() {
        if rule.does != Does::DropUnlessStrict {
            continue;
        }
        let earlier = &filters.rules[..at];
        let same_chain = |other: &&FilterRule| other.home() == rule.home();
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

fn not_listed(not_listed: &NotListed) -> Finding {
    let NotListed { asked, why } = not_listed;
    let (detail, fix) = match why {
        Some(why) => (
            format!("packet filters were not looked at: {why}"),
            format!("run it as root; it asks {asked}"),
        ),
        None => (
            format!("packet filters of ip6tables were not looked at: there is no {asked}"),
            "apt-get install iptables".to_owned(),
        ),
    };
    Finding::not("filters", Verdict::Note, detail, fix)
}

fn finding(rule: &FilterRule, hit: &[&Tunnel]) -> Option<Finding> {
    let names = |tunnels: &mut dyn Iterator<Item = &&Tunnel>| {
        let names: Vec<_> = tunnels.map(|tunnel| tunnel.name.as_str()).collect();
        names.join(" and ")
    };
    let cut_off = names(&mut hit.iter().filter(|tunnel| !tunnel.is_led_back));
    let place = rule.place();
    let (verdict, detail) = match cut_off.as_str() {
        _ if hit.is_empty() => return None,
        "" => (
            Verdict::Note,
            format!(
                "a packet filter ({place}) would drop what comes in by {} as soon as our rules are \
                 missing",
                names(&mut hit.iter())
            ),
        ),
        names => (
            Verdict::Bad,
            format!(
                "a packet filter ({place}) drops what comes in by {names}, since no rule leads the \
                 answers there"
            ),
        ),
    };
    Some(Finding::not(
        "filters",
        verdict,
        detail,
        rule.exception(hit),
    ))
}

impl FilterRule {
    /// What rules of the same chain have in common.
    fn home(&self) -> (Tool, &str, &str, &str) {
        (self.tool, &self.family, &self.table, &self.chain)
    }

    /// Where it is, for people.
    fn place(&self) -> String {
        let Self {
            family,
            table,
            chain,
            number,
            ..
        } = self;
        match self.tool {
            Tool::Nft => format!("{family} {table} {chain}, handle {number}"),
            Tool::Ip6tables(command) => format!("{command} -t {table}, {chain}, rule {number}"),
        }
    }

    /// What excepts tunnels from it.
    fn exception(&self, tunnels: &[&Tunnel]) -> String {
        let Self {
            family,
            table,
            chain,
            number,
            ..
        } = self;
        match self.tool {
            Tool::Nft => {
                let quoted: Vec<_> = tunnels.iter().map(|t| format!("\"{}\"", t.name)).collect();
                let names = quoted.join(", ");
                let for_good = match table.as_str() {
                    "firewalld" => "; for good: IPv6_rpfilter=no in /etc/firewalld/firewalld.conf",
                    _ => "",
                };
                format!(
                    "nft insert rule {family} {table} {chain} position {number} iifname \
                     '{{ {names} }}' accept{for_good}"
                )
            }
            Tool::Ip6tables(command) => {
                let line = |tunnel: &&Tunnel| {
                    let name = &tunnel.name;
                    format!("{command} -t {table} -I {chain} {number} -i {name} -j RETURN")
                };
                tunnels.iter().map(line).collect::<Vec<_>>().join("; ")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(does: Does, interfaces: Option<(bool, &str)>) -> FilterRule {
        FilterRule {
            tool: Tool::Nft,
            family: "inet".to_owned(),
            table: "t".to_owned(),
            chain: "c".to_owned(),
            number: 4,
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
                not_listed: Vec::new(),
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
        let mut of_another = pass("sixxs*");
        of_another.tool = Tool::Ip6tables("ip6tables-legacy");
        assert_eq!(found(vec![of_another, strict(None)]), Some(Verdict::Bad));
    }
}
