//! Why no request arrived, as a sentence with a hint.

use std::net::{IpAddr, Ipv6Addr};

use crate::types::IfName;

/// One of the two links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Its name.
    pub name: IfName,
    /// Whether it is a tunnel; else it is an uplink.
    pub is_tunnel: bool,
    /// Its address.
    pub address: Ipv6Addr,
}

impl End {
    fn kind(&self) -> &'static str {
        if self.is_tunnel {
            "the broker"
        } else {
            "the provider"
        }
    }
}

/// An ICMPv6 error that quotes a request (RFC 4443 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterError {
    /// Its sender.
    pub router: Ipv6Addr,
    /// Its type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// The MTU of a Packet Too Big; else without a meaning.
    pub value: u32,
}

/// Destination Unreachable, Packet Too Big and Time Exceeded (RFC 4443 §3).
const UNREACHABLE: u8 = 1;
const TOO_BIG: u8 = 2;
const TIME_EXCEEDED: u8 = 3;

impl RouterError {
    /// The MTU that it names, if it is a Packet Too Big.
    #[must_use]
    pub const fn mtu(&self) -> Option<u32> {
        if self.kind == TOO_BIG {
            Some(self.value)
        } else {
            None
        }
    }

    /// The codes by which a router reports a filter (RFC 4443 §3.1): prohibited, a refused source, a reject route.
    const fn is_refusal(&self) -> bool {
        self.kind == UNREACHABLE && matches!(self.code, 1 | 5 | 6)
    }

    fn words(&self) -> String {
        match (self.kind, self.code) {
            (UNREACHABLE, 0) => "no route to the destination".to_owned(),
            (UNREACHABLE, 1) => "administratively prohibited".to_owned(),
            (UNREACHABLE, 2) => "beyond the scope of the source address".to_owned(),
            (UNREACHABLE, 3) => "address unreachable".to_owned(),
            (UNREACHABLE, 5) => "the source address fails a policy".to_owned(),
            (UNREACHABLE, 6) => "reject route".to_owned(),
            (TOO_BIG, _) => format!("packet too big, MTU {}", self.value),
            (TIME_EXCEEDED, 0) => "the hop limit is exceeded".to_owned(),
            (kind, code) => format!("ICMPv6 error, type {kind}, code {code}"),
        }
    }
}

/// What is known after all requests of one direction were lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The number of requests that left.
    pub left: u32,
    /// The next hop that was to take them, where the sender has a link layer.
    pub next_hop: Option<Ipv6Addr>,
    /// The interface by which they arrived, if that is another one.
    pub elsewhere: Option<String>,
    /// The first error.
    pub error: Option<RouterError>,
    /// Whether the sender's far end, with this address, answers a ping; `None`: no such address is configured.
    pub sender_answers: Option<(Ipv6Addr, bool)>,
    /// The same of the receiver.
    pub receiver_answers: Option<(Ipv6Addr, bool)>,
    /// The broker, if both tunnels have the same one.
    pub same_broker: Option<IpAddr>,
}

/// Why no request arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// None left: something drops them at the sender's egress, or its next hop does not answer.
    NotSent,
    /// They arrived by another interface.
    Elsewhere,
    /// A router reports a filter.
    Refused,
    /// A router reports another error.
    Unreachable,
    /// A router reports that the hop limit was exceeded.
    Loop,
    /// The sender's far end does not answer.
    SenderSilent,
    /// The receiver's far end does not answer.
    ReceiverSilent,
    /// Both tunnels have the same broker, which answers on both.
    Hairpin,
    /// Something between both.
    Between,
}

/// Finds the cause.
#[must_use]
pub fn cause(facts: &Facts) -> Cause {
    let is_silent = |answers: Option<(Ipv6Addr, bool)>| matches!(answers, Some((_, false)));
    match &facts.error {
        _ if facts.elsewhere.is_some() => Cause::Elsewhere,
        _ if facts.left == 0 => Cause::NotSent,
        Some(error) if error.is_refusal() => Cause::Refused,
        Some(error) if error.kind == TIME_EXCEEDED => Cause::Loop,
        Some(_) => Cause::Unreachable,
        None if is_silent(facts.sender_answers) => Cause::SenderSilent,
        None if is_silent(facts.receiver_answers) => Cause::ReceiverSilent,
        None if facts.same_broker.is_some() => Cause::Hairpin,
        None => Cause::Between,
    }
}

impl Cause {
    /// The word for scripts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotSent => "not_sent",
            Self::Elsewhere => "arrives_elsewhere",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Loop => "loop",
            Self::SenderSilent => "sender_silent",
            Self::ReceiverSilent => "receiver_silent",
            Self::Hairpin => "hairpin",
            Self::Between => "between",
        }
    }

    /// The sentence, without its subject.
    #[must_use]
    pub fn sentence(self, from: &End, to: &End, facts: &Facts) -> String {
        let reported = facts.error.as_ref().map_or_else(String::new, |error| {
            format!("{} reports: {}", error.router, error.words())
        });
        match self {
            Self::NotSent => match facts.next_hop {
                Some(next_hop) => format!(
                    "none left by {}: the next hop {next_hop} does not answer, or a filter drops them",
                    from.name
                ),
                None => format!("none left by {}: a filter drops them there", from.name),
            },
            Self::Elsewhere => format!(
                "they arrive by {}, not by {}",
                facts.elsewhere.as_deref().unwrap_or("another interface"),
                to.name
            ),
            Self::Refused | Self::Unreachable | Self::Loop => reported,
            Self::SenderSilent => silent(from, facts.sender_answers),
            Self::ReceiverSilent => silent(to, facts.receiver_answers),
            Self::Hairpin => {
                let broker = facts
                    .same_broker
                    .map_or_else(String::new, |broker| format!(" {broker}"));
                let answering = working(from, to, facts);
                format!("both tunnels lead to the broker{broker}{answering}")
            }
            Self::Between => format!(
                "they left by {}, and no router reports an error{}",
                from.name,
                working(from, to, facts)
            ),
        }
    }

    /// What to do.
    #[must_use]
    pub fn hint(self, from: &End, to: &End, facts: &Facts) -> String {
        match self {
            Self::NotSent => format!(
                "tc filter show dev {0} egress, nft list ruleset and ip -6 neighbour show dev {0} show what stops them",
                from.name
            ),
            Self::Elsewhere => format!(
                "the internet routes {} by that interface: compare the address with what {} has assigned",
                to.address,
                to.kind()
            ),
            Self::Refused => format!(
                "{} may refuse packets between its customers (hairpin); ask it, or test from another host",
                refusing(from, to)
            ),
            Self::Unreachable => format!(
                "the internet has no path to {}: is the prefix of {} announced, and the tunnel up at its far end?",
                to.address, to.name
            ),
            Self::Loop => format!(
                "routers pass them round: report the route to {} to {}",
                to.address,
                from.kind()
            ),
            Self::SenderSilent => format!("sixxs check {} shows why", from.name),
            Self::ReceiverSilent => format!("sixxs check {} shows why", to.name),
            Self::Hairpin => {
                "the broker may refuse to hairpin: to pass packets between two tunnels of its own customers; \
                 hosts elsewhere may still reach both"
                    .to_owned()
            }
            Self::Between => match facts.sender_answers.or(facts.receiver_answers) {
                Some(_) => format!(
                    "{} may refuse to hairpin, or a filter on the path drops them; a ping of {} from another host shows \
                     whether only this path fails",
                    refusing(from, to),
                    to.address
                ),
                None => format!(
                    "a filter of {} or on the path drops them; with peer or check_target, sixxs tells whether the links work",
                    refusing(from, to)
                ),
            },
        }
    }
}

/// Who may refuse packets between two links.
fn refusing(from: &End, to: &End) -> &'static str {
    match (from.is_tunnel, to.is_tunnel) {
        (true, true) => "a broker",
        _ => "the broker or the provider",
    }
}

fn silent(end: &End, answers: Option<(Ipv6Addr, bool)>) -> String {
    let target = answers.map_or_else(String::new, |(target, _)| format!(" {target}"));
    format!(
        "{} itself fails: its far end{target} does not answer",
        end.name
    )
}

/// The links whose far end answers.
fn working(from: &End, to: &End, facts: &Facts) -> String {
    let ends = [(from, facts.sender_answers), (to, facts.receiver_answers)];
    let answering = ends
        .iter()
        .filter(|(_, answers)| matches!(answers, Some((_, true))))
        .map(|(end, _)| end.name.as_str());
    match &answering.collect::<Vec<_>>()[..] {
        [] => String::new(),
        [one] => format!("; the far end of {one} answers"),
        both => format!("; the far ends of {} answer", both.join(" and ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(name: &str, is_tunnel: bool, address: &str) -> End {
        End {
            name: name.parse().unwrap(),
            is_tunnel,
            address: address.parse().unwrap(),
        }
    }

    fn ends() -> [End; 2] {
        [
            end("sixxs0", true, "2001:db8:a::2"),
            end("sixxs1", true, "2001:db8:b::2"),
        ]
    }

    fn error(kind: u8, code: u8) -> RouterError {
        RouterError {
            router: "2001:db8:a::1".parse().unwrap(),
            kind,
            code,
            value: 1300,
        }
    }

    fn peer(last: u16, answers: bool) -> Option<(Ipv6Addr, bool)> {
        Some((Ipv6Addr::new(0x2001, 0xdb8, last, 0, 0, 0, 0, 1), answers))
    }

    fn facts() -> Facts {
        Facts {
            left: 10,
            sender_answers: peer(0xa, true),
            receiver_answers: peer(0xb, true),
            ..Facts::default()
        }
    }

    #[test]
    fn facts_decide_in_order() {
        let with = |change: fn(&mut Facts)| {
            let mut facts = facts();
            change(&mut facts);
            facts
        };
        for (facts, expected) in [
            (facts(), "between"),
            (with(|f| f.left = 0), "not_sent"),
            (
                with(|f| f.elsewhere = Some("net0".to_owned())),
                "arrives_elsewhere",
            ),
            (with(|f| f.error = Some(error(1, 1))), "refused"),
            (with(|f| f.error = Some(error(1, 5))), "refused"),
            (with(|f| f.error = Some(error(1, 0))), "unreachable"),
            (with(|f| f.error = Some(error(2, 0))), "unreachable"),
            (with(|f| f.error = Some(error(3, 0))), "loop"),
            (
                with(|f| f.sender_answers = peer(0xa, false)),
                "sender_silent",
            ),
            (
                with(|f| f.receiver_answers = peer(0xb, false)),
                "receiver_silent",
            ),
            (
                with(|f| f.same_broker = Some([198, 51, 100, 1].into())),
                "hairpin",
            ),
        ] {
            assert_eq!(cause(&facts).name(), expected, "{facts:?}");
        }
        // An error shows more than silence.
        let mut both = facts();
        both.sender_answers = peer(0xa, false);
        both.error = Some(error(1, 1));
        assert_eq!(cause(&both), Cause::Refused);
    }

    #[test]
    fn sentences_name_what_is_known() {
        let [from, to] = &ends();
        let told = |facts: &Facts| {
            let cause = cause(facts);
            format!(
                "{}: {}",
                cause.sentence(from, to, facts),
                cause.hint(from, to, facts)
            )
        };
        let plain = told(&facts());
        assert!(
            plain.starts_with("they left by sixxs0, and no router reports an error; the far ends of sixxs0 and sixxs1 answer: a broker may refuse to hairpin"),
            "{plain}"
        );
        let unknown = told(&Facts {
            sender_answers: None,
            receiver_answers: None,
            ..facts()
        });
        assert!(unknown.contains("check_target"), "{unknown}");
        let refused = told(&Facts {
            error: Some(error(1, 1)),
            ..facts()
        });
        assert!(
            refused.starts_with(
                "2001:db8:a::1 reports: administratively prohibited: a broker may refuse"
            ),
            "{refused}"
        );
        let unsent = told(&Facts {
            left: 0,
            next_hop: Some("fe80::1".parse().unwrap()),
            ..facts()
        });
        assert!(
            unsent.starts_with("none left by sixxs0: the next hop fe80::1"),
            "{unsent}"
        );
        let silent = told(&Facts {
            receiver_answers: peer(0xb, false),
            ..facts()
        });
        assert_eq!(
            silent,
            "sixxs1 itself fails: its far end 2001:db8:b::1 does not answer: sixxs check sixxs1 shows why"
        );
        let hairpin = told(&Facts {
            same_broker: Some([198, 51, 100, 1].into()),
            ..facts()
        });
        assert!(
            hairpin.starts_with("both tunnels lead to the broker 198.51.100.1"),
            "{hairpin}"
        );
        assert!(hairpin.contains("refuse to hairpin"), "{hairpin}");
    }

    #[test]
    fn an_uplink_has_a_provider() {
        let [from, _] = ends();
        let to = end("net0", false, "2001:db8:1::1");
        let facts = facts();
        let hint = cause(&facts).hint(&from, &to, &facts);
        assert!(
            hint.starts_with("the broker or the provider may refuse"),
            "{hint}"
        );
        let elsewhere = Facts {
            elsewhere: Some("net1".to_owned()),
            ..facts
        };
        let hint = Cause::Elsewhere.hint(&from, &to, &elsewhere);
        assert!(hint.contains("the provider has assigned"), "{hint}");
    }

    #[test]
    fn only_packet_too_big_names_an_mtu() {
        assert_eq!(error(2, 0).mtu(), Some(1300));
        assert_eq!(error(1, 0).mtu(), None);
        for (kind, code, words) in [
            (1, 3, "address unreachable"),
            (1, 2, "beyond the scope of the source address"),
            (2, 0, "packet too big, MTU 1300"),
            (4, 1, "ICMPv6 error, type 4, code 1"),
        ] {
            assert_eq!(error(kind, code).words(), words);
        }
    }
}
