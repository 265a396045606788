//! Rule sets of packet filters, and their effect on an incoming packet. The rules are evaluated like in
//! the kernel (`nft_do_chain`, `ip6t_do_table`), so that it does not matter how a filter is written.

use super::managers::is_like;

/// The maximum depth of jumps, as in the kernel (`NFT_JUMP_STACK_SIZE`).
const DEPTH: usize = 16;

/// The tool that lists and changes a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// nft.
    Nft,
    /// One of the ip6tables commands.
    Ip6tables(&'static str),
}

/// The location of a chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Home {
    /// The tool that lists and changes it.
    pub tool: Tool,
    /// `inet`, `ip6`.
    pub family: String,
    /// Its table.
    pub table: String,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its location.
    pub home: Home,
    /// Its name.
    pub name: String,
    /// For a base chain of incoming packets, its policy; `None`: packets reach it only by a jump, or not
    /// at all.
    pub base: Option<Policy>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// The action for packets that no rule decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// They are accepted.
    Accept,
    /// They are dropped.
    Drop,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its handle; for ip6tables its position in the chain, from 1.
    pub number: u64,
    /// Its conditions, all of which must match.
    pub conditions: Vec<Condition>,
    /// Its action.
    pub action: Action,
}

/// A condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The incoming interface.
    Incoming(Interfaces),
    /// Whether a route leads back to the source.
    Reverse(Reverse, bool),
    /// A condition that few packets match.
    Other,
}

/// Incoming interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interfaces {
    /// Whether the condition matches all interfaces except these.
    pub not: bool,
    /// Their names; `*` matches any text.
    pub names: Vec<String>,
}

/// The routes that count for a reverse path check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reverse {
    /// A route by the interface at which the packet arrived.
    Strict,
    /// Any route.
    Loose,
}

/// The action of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It counts, logs or marks, but does not decide.
    Continue,
    /// The packet leaves this base chain and is accepted.
    Accept,
    /// It is dropped.
    Drop,
    /// Evaluation returns to the calling chain.
    Return,
    /// Evaluation continues in another chain, and returns.
    Jump(String),
    /// Evaluation continues in another chain, and does not return here.
    Goto(String),
    /// A verdict map: the first action with a reverse route, the second one without.
    ByReverse(Reverse, Box<Action>, Box<Action>),
}

/// An incoming packet.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The interface.
    pub interface: &'a str,
    /// Whether a route leads back to its source by that interface.
    pub is_led_back: bool,
}

/// The place where a packet is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped<'a> {
    /// The chain.
    pub chain: &'a Chain,
    /// The rule; `None`: the chain's policy drops it.
    pub rule: Option<&'a Rule>,
}

enum Fate<'a> {
    Passes,
    Undecided,
    Dropped(Dropped<'a>),
}

impl Interfaces {
    fn has(&self, interface: &str) -> bool {
        self.names.iter().any(|name| is_like(name, interface)) != self.not
    }
}

impl Arrival<'_> {
    const fn has_route(&self, reverse: Reverse) -> bool {
        match reverse {
            Reverse::Strict => self.is_led_back,
            // Hosts with tunnels have a default route.
            Reverse::Loose => true,
        }
    }

    fn is(&self, condition: &Condition) -> bool {
        match condition {
            Condition::Incoming(interfaces) => interfaces.has(self.interface),
            Condition::Reverse(reverse, wanted) => self.has_route(*reverse) == *wanted,
            Condition::Other => false,
        }
    }
}

/// The places where packets that arrive by an interface are dropped because no route leads back by it:
/// with such a route they pass.
pub fn reverse_filters<'a>(
    chains: &'a [Chain],
    interface: &'a str,
) -> impl Iterator<Item = Dropped<'a>> {
    let bases = chains.iter().filter(|chain| chain.base.is_some());
    bases.filter_map(move |base| {
        let fate = |is_led_back| {
            let arrival = Arrival {
                interface,
                is_led_back,
            };
            walk(chains, base, arrival, DEPTH)
        };
        match (fate(false), fate(true)) {
            (Fate::Dropped(_), Fate::Dropped(_)) => None,
            (Fate::Dropped(dropped), _) => Some(dropped),
            _ => None,
        }
    })
}

fn walk<'a>(chains: &'a [Chain], chain: &'a Chain, arrival: Arrival<'_>, depth: usize) -> Fate<'a> {
    for rule in &chain.rules {
        if !rule
            .conditions
            .iter()
            .all(|condition| arrival.is(condition))
        {
            continue;
        }
        let mut action = &rule.action;
        while let Action::ByReverse(reverse, with, without) = action {
            action = if arrival.has_route(*reverse) {
                with
            } else {
                without
            };
        }
        let elsewhere = |name: &String| {
            let is_it = |other: &&Chain| other.home == chain.home && other.name == *name;
            let next = chains.iter().find(is_it).filter(|_| depth > 0);
            next.map_or(Fate::Undecided, |next| {
                walk(chains, next, arrival, depth - 1)
            })
        };
        match action {
            Action::Continue | Action::ByReverse(..) => {}
            Action::Accept => return Fate::Passes,
            Action::Drop => {
                return Fate::Dropped(Dropped {
                    chain,
                    rule: Some(rule),
                });
            }
            Action::Return => break,
            Action::Jump(name) => match elsewhere(name) {
                Fate::Undecided => {}
                decided => return decided,
            },
            Action::Goto(name) => match elsewhere(name) {
                Fate::Undecided => break,
                decided => return decided,
            },
        }
    }
    match chain.base {
        Some(Policy::Drop) => Fate::Dropped(Dropped { chain, rule: None }),
        Some(Policy::Accept) => Fate::Passes,
        None => Fate::Undecided,
    }
}

impl Dropped<'_> {
    /// The place, for display.
    #[must_use]
    pub fn place(&self) -> String {
        let Chain { home, name, .. } = self.chain;
        let Home {
            tool,
            family,
            table,
        } = home;
        match (tool, self.rule) {
            (Tool::Nft, Some(rule)) => format!("{family} {table} {name}, handle {}", rule.number),
            (Tool::Nft, None) => format!("{family} {table} {name}, policy drop"),
            (Tool::Ip6tables(command), Some(rule)) => {
                format!("{command} -t {table}, {name}, rule {}", rule.number)
            }
            (Tool::Ip6tables(command), None) => {
                format!("{command} -t {table}, {name}, policy DROP")
            }
        }
    }

    /// The commands that add an exception for packets from these interfaces.
    #[must_use]
    pub fn exception(&self, interfaces: &[&str]) -> String {
        let Chain {
            home, name, base, ..
        } = self.chain;
        let Home {
            tool,
            family,
            table,
        } = home;
        match tool {
            Tool::Nft => {
                let quoted: Vec<_> = interfaces.iter().map(|i| format!("\"{i}\"")).collect();
                let place = match self.rule {
                    Some(rule) => {
                        format!(
                            "insert rule {family} {table} {name} position {}",
                            rule.number
                        )
                    }
                    None => format!("add rule {family} {table} {name}"),
                };
                let verdict = match base {
                    Some(_) => "accept",
                    None => "return",
                };
                let for_good = match table.as_str() {
                    "firewalld" => "; for good: IPv6_rpfilter=no in /etc/firewalld/firewalld.conf",
                    _ => "",
                };
                format!(
                    "nft {place} iifname '{{ {} }}' {verdict}{for_good}",
                    quoted.join(", ")
                )
            }
            Tool::Ip6tables(command) => {
                let line = |interface: &&str| match self.rule {
                    Some(rule) => format!(
                        "{command} -t {table} -I {name} {} -i {interface} -j RETURN",
                        rule.number
                    ),
                    None => format!("{command} -t {table} -A {name} -i {interface} -j ACCEPT"),
                };
                interfaces.iter().map(line).collect::<Vec<_>>().join("; ")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MISSING: Condition = Condition::Reverse(Reverse::Strict, false);
    const EXISTS: Condition = Condition::Reverse(Reverse::Strict, true);

    fn rule(number: u64, conditions: &[Condition], action: Action) -> Rule {
        Rule {
            number,
            conditions: conditions.to_vec(),
            action,
        }
    }

    fn chain(name: &str, base: Option<Policy>, rules: &[Rule]) -> Chain {
        Chain {
            home: Home {
                tool: Tool::Nft,
                family: "inet".to_owned(),
                table: "t".to_owned(),
            },
            name: name.to_owned(),
            base,
            rules: rules.to_vec(),
        }
    }

    fn incoming(not: bool, name: &str) -> Condition {
        Condition::Incoming(Interfaces {
            not,
            names: vec![name.to_owned()],
        })
    }

    /// The place where packets from sixxs0 are dropped.
    fn found(chains: &[Chain]) -> Option<String> {
        let mut found = reverse_filters(chains, "sixxs0");
        let first = found.next().map(|dropped| dropped.place());
        assert!(found.next().is_none());
        first
    }

    #[test]
    fn reverse_path_filters_in_rules_are_found() {
        let base = |rules: &[Rule]| found(&[chain("c", Some(Policy::Accept), rules)]);
        let drop = rule(4, &[MISSING], Action::Drop);
        let hit = Some("inet t c, handle 4".to_owned());
        assert_eq!(base(&[]), None);
        assert_eq!(base(std::slice::from_ref(&drop)), hit);
        for (name, first, expected) in [
            ("all pass", rule(1, &[], Action::Accept), None),
            (
                "it passes",
                rule(1, &[incoming(false, "sixxs*")], Action::Accept),
                None,
            ),
            (
                "it returns",
                rule(1, &[incoming(false, "sixxs0")], Action::Return),
                None,
            ),
            (
                "others pass",
                rule(1, &[incoming(true, "sixxs0")], Action::Accept),
                hit.clone(),
            ),
            (
                "few pass",
                rule(1, &[Condition::Other], Action::Accept),
                hit.clone(),
            ),
            ("all are dropped", rule(1, &[], Action::Drop), None),
            (
                "all are counted",
                rule(1, &[], Action::Continue),
                hit.clone(),
            ),
        ] {
            assert_eq!(base(&[first, drop.clone()]), expected, "{name}");
        }
        let loose = Condition::Reverse(Reverse::Loose, false);
        assert_eq!(base(&[rule(4, &[loose], Action::Drop)]), None);
    }

    #[test]
    fn reverse_path_filters_behind_jumps_maps_and_policies_are_found() {
        let to = |action| chain("c", Some(Policy::Accept), &[rule(4, &[MISSING], action)]);
        let other = chain("d", None, &[rule(9, &[], Action::Drop)]);
        let hit = Some("inet t d, handle 9".to_owned());
        assert_eq!(found(&[to(Action::Jump("d".into())), other.clone()]), hit);
        assert_eq!(found(&[to(Action::Goto("d".into())), other.clone()]), hit);
        assert_eq!(found(&[to(Action::Jump("e".into())), other]), None);

        let map = |with: Action, without: Action| {
            let action = Action::ByReverse(Reverse::Strict, with.into(), without.into());
            found(&[chain("c", Some(Policy::Accept), &[rule(4, &[], action)])])
        };
        let at_map = Some("inet t c, handle 4".to_owned());
        assert_eq!(map(Action::Continue, Action::Drop), at_map);
        assert_eq!(map(Action::Drop, Action::Drop), None);
        assert_eq!(map(Action::Continue, Action::Continue), None);

        let only_with = |accept| {
            let rules = [rule(4, &[accept], Action::Accept)];
            found(&[chain("c", Some(Policy::Drop), &rules)])
        };
        assert_eq!(only_with(EXISTS), Some("inet t c, policy drop".to_owned()));
        let loose = Condition::Reverse(Reverse::Loose, true);
        assert_eq!(only_with(loose), None);
        assert_eq!(only_with(Condition::Other), None);
    }

    #[test]
    fn a_cycle_of_jumps_ends() {
        let ring = chain(
            "c",
            Some(Policy::Accept),
            &[rule(1, &[], Action::Jump("c".into()))],
        );
        assert_eq!(found(&[ring]), None);
    }

    #[test]
    fn exceptions() {
        let base = chain("c", Some(Policy::Drop), &[]);
        let by_policy = Dropped {
            chain: &base,
            rule: None,
        };
        assert_eq!(
            by_policy.exception(&["sixxs0", "sixxs1"]),
            r#"nft add rule inet t c iifname '{ "sixxs0", "sixxs1" }' accept"#
        );
        let other = chain("d", None, &[rule(9, &[], Action::Drop)]);
        let by_rule = Dropped {
            chain: &other,
            rule: other.rules.first(),
        };
        assert_eq!(
            by_rule.exception(&["sixxs0"]),
            r#"nft insert rule inet t d position 9 iifname '{ "sixxs0" }' return"#
        );
    }

    #[test]
    fn exceptions_of_each_tool() {
        let at = |tool, table: &str, base| {
            let mut chain = chain("PREROUTING", base, &[rule(3, &[], Action::Drop)]);
            chain.home = Home {
                tool,
                family: "inet".to_owned(),
                table: table.to_owned(),
            };
            chain
        };
        let (base, legacy) = (Some(Policy::Drop), Tool::Ip6tables("ip6tables-legacy"));
        for (chain, by_rule, place, exception) in [
            (
                at(legacy, "raw", base),
                true,
                "ip6tables-legacy -t raw, PREROUTING, rule 3",
                "ip6tables-legacy -t raw -I PREROUTING 3 -i a -j RETURN; \
                 ip6tables-legacy -t raw -I PREROUTING 3 -i b -j RETURN",
            ),
            (
                at(legacy, "raw", base),
                false,
                "ip6tables-legacy -t raw, PREROUTING, policy DROP",
                "ip6tables-legacy -t raw -A PREROUTING -i a -j ACCEPT; \
                 ip6tables-legacy -t raw -A PREROUTING -i b -j ACCEPT",
            ),
            (
                at(Tool::Nft, "firewalld", base),
                true,
                "inet firewalld PREROUTING, handle 3",
                "nft insert rule inet firewalld PREROUTING position 3 iifname '{ \"a\", \"b\" }' accept; \
                 for good: IPv6_rpfilter=no in /etc/firewalld/firewalld.conf",
            ),
        ] {
            let rule = chain.rules.first().filter(|_| by_rule);
            let dropped = Dropped {
                chain: &chain,
                rule,
            };
            assert_eq!(dropped.place(), place);
            assert_eq!(dropped.exception(&["a", "b"]), exception);
        }
    }

    #[test]
    fn a_chain_without_a_decision_continues_after_a_jump_and_not_after_a_goto() {
        let drop = rule(5, &[MISSING], Action::Drop);
        let undecided = chain("d", None, &[rule(9, &[], Action::Return)]);
        for (action, expected) in [
            (
                Action::Jump("d".into()),
                Some("inet t c, handle 5".to_owned()),
            ),
            (Action::Goto("d".into()), None),
        ] {
            let first = rule(4, &[], action);
            let base = chain("c", Some(Policy::Accept), &[first, drop.clone()]);
            assert_eq!(found(&[base, undecided.clone()]), expected);
        }
    }
}
