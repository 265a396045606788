//! The inside test: would a ping from outside be answered, or a connection accepted, and if not, what drops it.
//!
//! A packet is put into the ingress of a tunnel, as if the broker had delivered it. The programs record the reply
//! where it is about to leave, and drop it there.
//!
//! * [`request`] – the packets
//! * [`drops`] – the kernel's drop reasons, from the text of tracefs
//! * [`cause`] – sentences and cures for them
//! * [`schedule`] – when the daemon tests by itself

pub mod cause;
pub mod drops;
pub mod request;
pub mod schedule;

use std::{fmt, net::Ipv6Addr, time::Duration};

use sixxs_common::{
    inside_test::{Answer, Way},
    treatment::OnLeak,
};

use crate::types::IfName;

/// The source of the requests, if the configuration has none: an address of the documentation prefix of RFC 9637.
///
/// The peer would not do: the route to it is on the tunnel's own link, so its answers show neither the rule nor the
/// default route of the tunnel. This prefix is never routed on the internet, so an answer that escapes reaches nobody. It
/// is younger than 2001:db8::/32, which many packet filters drop.
pub const DEFAULT_SOURCE: Ipv6Addr = Ipv6Addr::new(0x3fff, 0xfff, 0, 0, 0, 0, 0, 1);

/// What is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// An echo request.
    Ping,
    /// A connection to this TCP port.
    Tcp(u16),
    /// A datagram to this UDP port.
    Udp(u16),
}

impl Probe {
    /// The word for scripts.
    #[must_use]
    pub const fn protocol(self) -> &'static str {
        match self {
            Self::Ping => "icmpv6",
            Self::Tcp(_) => "tcp",
            Self::Udp(_) => "udp",
        }
    }

    /// The tested port, if there is one.
    #[must_use]
    pub const fn port(self) -> Option<u16> {
        match self {
            Self::Ping => None,
            Self::Tcp(port) | Self::Udp(port) => Some(port),
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ping => f.write_str("a ping"),
            Self::Tcp(port) => write!(f, "TCP port {port}"),
            Self::Udp(port) => write!(f, "UDP port {port}"),
        }
    }
}

/// The reply to a test's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The interface by which it was about to leave.
    pub interface: String,
    /// What it is.
    pub answer: Answer,
    /// What the program there would have done with it.
    pub way: Way,
    /// Whether the programs had made it (`answer_echo = "kernel"`).
    pub by_programs: bool,
    /// The time from the request's arrival.
    pub took: Duration,
}

/// The tested address and its surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The tunnel.
    pub tunnel: IfName,
    /// The tested address.
    pub address: Ipv6Addr,
    /// The source of the request.
    pub source: Ipv6Addr,
    /// What is tested.
    pub probe: Probe,
    /// What the programs do with leaks.
    pub on_leak: OnLeak,
    /// Whether a leak can be redirected into the tunnel: it has no link layer, or a gateway.
    pub can_redirect: bool,
    /// Whether the address is one of a host behind this one.
    pub is_behind: bool,
}

/// A sentence about a reply, and whether it reaches the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether somebody outside would get the reply, and it is none of refusal.
    pub pass: bool,
    /// Whether it is a refusal: RST, or an ICMPv6 error.
    pub refused: bool,
    /// Whether a program redirects it into the tunnel.
    pub redirected: bool,
    /// The sentence.
    pub sentence: String,
    /// What to do, if anything.
    pub cure: Option<String>,
}

/// Judges a reply.
#[must_use]
pub fn judge(subject: &Subject, reply: &Reply) -> Judgement {
    let (accepts, does) = answer(subject.probe, reply.answer);
    let what = if accepts { "" } else { "the refusal " };
    let path = path(subject, reply, what);
    let refusal = (!accepts).then(|| refusal_cure(subject.probe));
    Judgement {
        pass: path.reaches_outside && accepts,
        refused: !accepts,
        redirected: path.redirected,
        sentence: format!(
            "{} {does} from {}{}",
            subject.address, subject.source, path.words
        ),
        cure: path.cure.or(refusal),
    }
}

/// The path of a reply.
struct ReplyPath {
    reaches_outside: bool,
    redirected: bool,
    /// The end of the sentence.
    words: String,
    cure: Option<String>,
}

impl ReplyPath {
    const fn outside(words: String) -> Self {
        Self {
            reaches_outside: true,
            redirected: false,
            words,
            cure: None,
        }
    }

    const fn lost(words: String, cure: String) -> Self {
        Self {
            reaches_outside: false,
            redirected: false,
            words,
            cure: Some(cure),
        }
    }
}

/// The path of a reply, which `what` names.
fn path(subject: &Subject, reply: &Reply, what: &str) -> ReplyPath {
    let Subject {
        tunnel,
        address,
        source,
        ..
    } = subject;
    let Reply { interface, way, .. } = reply;
    let after = format!("after {} ms", milliseconds(reply.took));
    let by = match reply.by_programs {
        true => "; the programs answer",
        false => "",
    };
    let why = format!("sixxs explain {address} {source} shows why");
    match way {
        Way::Own => ReplyPath::outside(format!(": {what}leaves by {interface} {after}{by}")),
        Way::Exempt => ReplyPath::outside(format!(
            ": {what}leaves by {interface} {after}, which may send it{by}"
        )),
        Way::Leak => {
            let (redirected, does) = treatment(subject);
            ReplyPath {
                reaches_outside: redirected,
                redirected,
                words: format!(
                    ", and the answer is about to leave by {interface} {after}: the program there {does}"
                ),
                cure: Some(why),
            }
        }
        Way::Loop => ReplyPath::lost(
            format!(", and a tunnel would bring the answer back: {source} is behind this host"),
            format!("set check_source of {tunnel} to an address outside"),
        ),
        Way::Unknown | Way::Held => ReplyPath::lost(
            format!(
                ", and the answer leaves by {interface}, where the programs do not know {address}"
            ),
            why,
        ),
    }
}

/// Whether an answer is none of refusal, and what the address does.
fn answer(probe: Probe, answer: Answer) -> (bool, String) {
    match (probe, answer) {
        (Probe::Ping, Answer::EchoReply) => (true, format!("answers {probe}")),
        (Probe::Tcp(_), Answer::SynAck) => (true, format!("accepts {probe}")),
        (Probe::Udp(_), Answer::Datagram) => (true, format!("answers at {probe}")),
        _ => (false, format!("refuses {probe}")),
    }
}

/// What shows why it is refused.
fn refusal_cure(probe: Probe) -> String {
    match probe {
        Probe::Ping => "nft list ruleset shows which rule rejects it".to_owned(),
        Probe::Tcp(port) => format!("ss -6tlnp 'sport = :{port}' shows what listens there"),
        Probe::Udp(port) => format!("ss -6ulnp 'sport = :{port}' shows what listens there"),
    }
}

/// Whether a leak reaches the tunnel, and what the program does with it.
fn treatment(subject: &Subject) -> (bool, String) {
    let tunnel = &subject.tunnel;
    match subject.on_leak {
        OnLeak::Redirect if subject.can_redirect => (true, format!("redirects it into {tunnel}")),
        OnLeak::Redirect => (
            false,
            format!("drops it: {tunnel} has no gateway to redirect it to"),
        ),
        OnLeak::Drop => (false, "drops it (on_leak)".to_owned()),
        OnLeak::Observe => (
            false,
            "lets it pass (on_leak), and the provider drops it".to_owned(),
        ),
    }
}

/// Milliseconds, with a digit that is not 0 where possible.
fn milliseconds(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    if ms < 0.095 {
        format!("{ms:.3}")
    } else {
        format!("{ms:.1}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(on_leak: OnLeak, can_redirect: bool) -> Subject {
        Subject {
            tunnel: "sixxs0".parse().unwrap(),
            address: "2001:db8:a::2".parse().unwrap(),
            source: DEFAULT_SOURCE,
            probe: Probe::Ping,
            on_leak,
            can_redirect,
            is_behind: false,
        }
    }

    fn reply(interface: &str, way: Way) -> Reply {
        Reply {
            interface: interface.to_owned(),
            answer: Answer::EchoReply,
            way,
            by_programs: false,
            took: Duration::from_micros(120),
        }
    }

    #[test]
    fn an_answer_passes_where_it_reaches_the_outside() {
        let redirect = subject(OnLeak::Redirect, true);
        for (subject, interface, way, pass, redirected, words) in [
            (
                &redirect,
                "sixxs0",
                Way::Own,
                true,
                false,
                "answers a ping from 3fff:fff::1: leaves by sixxs0 after 0.1 ms",
            ),
            (
                &redirect,
                "net0",
                Way::Exempt,
                true,
                false,
                "which may send it",
            ),
            (
                &redirect,
                "net0",
                Way::Leak,
                true,
                true,
                "redirects it into sixxs0",
            ),
            (
                &subject(OnLeak::Redirect, false),
                "net0",
                Way::Leak,
                false,
                false,
                "no gateway",
            ),
            (
                &subject(OnLeak::Drop, true),
                "net0",
                Way::Leak,
                false,
                false,
                "drops it (on_leak)",
            ),
            (
                &subject(OnLeak::Observe, true),
                "net0",
                Way::Leak,
                false,
                false,
                "the provider drops it",
            ),
            (
                &redirect,
                "sixxs1",
                Way::Loop,
                false,
                false,
                "bring the answer back",
            ),
            (
                &redirect,
                "net0",
                Way::Unknown,
                false,
                false,
                "do not know 2001:db8:a::2",
            ),
        ] {
            let judged = judge(subject, &reply(interface, way));
            assert_eq!(
                (judged.pass, judged.redirected),
                (pass, redirected),
                "{judged:?}"
            );
            assert!(judged.sentence.contains(words), "{judged:?}");
            assert_eq!(judged.cure.is_none(), matches!(way, Way::Own | Way::Exempt));
        }
    }

    #[test]
    fn a_refusal_fails_with_a_cure() {
        for (probe, answer, pass, words) in [
            (
                Probe::Tcp(443),
                Answer::SynAck,
                true,
                "accepts TCP port 443 from 3fff:fff::1: leaves by sixxs0",
            ),
            (
                Probe::Tcp(443),
                Answer::Reset,
                false,
                "refuses TCP port 443",
            ),
            (
                Probe::Tcp(443),
                Answer::Error,
                false,
                "refuses TCP port 443",
            ),
            (
                Probe::Udp(53),
                Answer::Datagram,
                true,
                "answers at UDP port 53",
            ),
            (
                Probe::Udp(53),
                Answer::Error,
                false,
                "refuses UDP port 53 from 3fff:fff::1: the refusal leaves by sixxs0",
            ),
            (Probe::Ping, Answer::Error, false, "refuses a ping"),
        ] {
            let subject = Subject {
                probe,
                ..subject(OnLeak::Redirect, true)
            };
            let reply = Reply {
                answer,
                ..reply("sixxs0", Way::Own)
            };
            let judged = judge(&subject, &reply);
            assert_eq!(
                (judged.pass, judged.cure.is_none(), judged.refused),
                (pass, pass, !pass),
                "{judged:?}"
            );
            assert!(judged.sentence.contains(words), "{judged:?}");
        }
    }

    #[test]
    fn who_answers_is_named() {
        let by_programs = Reply {
            by_programs: true,
            ..reply("sixxs0", Way::Own)
        };
        let judged = judge(&subject(OnLeak::Redirect, true), &by_programs);
        assert!(
            judged.sentence.ends_with("; the programs answer"),
            "{judged:?}"
        );
    }

    #[test]
    fn short_times_are_not_zero() {
        for (micros, text) in [
            (1, "0.001"),
            (94, "0.094"),
            (120, "0.1"),
            (1500, "1.5"),
            (20_000, "20.0"),
        ] {
            assert_eq!(milliseconds(Duration::from_micros(micros)), text);
        }
    }
}
