//! Why a test got no reply: the kernel's drop reason and facts about the host, as a sentence with a cure.
//!
//! A reason alone is not enough: the kernel gives `NOT_SPECIFIED` for all requests that its ICMPv6 does not answer. So the
//! facts decide where they can.

use std::net::Ipv6Addr;

use super::drops::{DropEvent, NOT_SPECIFIED, Trace};
use crate::{doctor::settings::covers, types::IfName};

/// The function that answers echo requests.
const ICMPV6: &str = "icmpv6_rcv";

/// ICMPv6 Echo Reply (RFC 4443 §4.2).
const ECHO_REPLY: u32 = 129;

/// Facts about the host, read after a test without reply. `None`: not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether an interface of this host has the address.
    pub has_address: bool,
    /// Whether the request reached our program at the tunnel's ingress.
    pub arrived: bool,
    /// Whether the request reached the host's ICMPv6.
    pub reached_icmp: Option<bool>,
    /// Whether IPv6 is switched off on the tunnel's interface.
    pub is_disabled: Option<bool>,
    /// Whether the host ignores all echo requests.
    pub ignores_echo: Option<bool>,
    /// Whether the host limits the rate of echo replies.
    pub limits_replies: Option<bool>,
    /// Why the reply has no route; `None`: it has one, or this is not known.
    pub no_route: Option<String>,
    /// Programs and filters of other software where packets arrive by the tunnel.
    pub programs_in: Vec<String>,
    /// The same where they leave.
    pub programs_out: Vec<String>,
    /// How the request is forwarded; `None`: the tested address is of this host.
    pub forwarding: Option<Forwarding>,
}

/// A request that this host has to forward to a host behind it (`check_address`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// Whether this host forwards at all (`net.ipv6.conf.all.forwarding`). `None`: not known.
    pub is_on: Option<bool>,
    /// The interface that the request is routed to, or why it has no route.
    pub route: Result<String, String>,
}

impl Forwarding {
    /// Finds the cause, if no reason of the kernel names it. `no_route` is why the reply has no route.
    fn cause(&self, trace: &Trace, no_route: Option<&String>) -> Cause {
        if self.is_on == Some(false) {
            return Cause::NotForwarded;
        }
        let interface = match &self.route {
            Ok(interface) => interface,
            Err(reason) => return Cause::NoRouteBehind(reason.clone()),
        };
        if let Some(reason) = no_route {
            return Cause::NoRoute(reason.clone());
        }
        match (&trace.left_by, trace.drops.first()) {
            (None, Some(drop)) => Cause::Unknown(drop.clone()),
            _ => Cause::HostSilent(interface.clone()),
        }
    }
}

/// Whether the host limits echo replies, by its settings `net.ipv6.icmp.ratelimit` and `ratemask`.
#[must_use]
pub fn limits_replies(interval_ms: u32, mask: &str) -> bool {
    interval_ms > 0 && covers(mask, ECHO_REPLY)
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// IPv6 is switched off on the interface.
    Disabled,
    /// No interface has the address.
    NoAddress,
    /// A program or filter of other software drops it where it arrives.
    ProgramIn,
    /// The same where it leaves.
    ProgramOut,
    /// An XDP program of other software drops it.
    Xdp,
    /// A packet filter drops the request.
    FilterIn,
    /// A packet filter drops the reply.
    FilterOut,
    /// A packet filter drops one of them.
    Filter,
    /// An IPsec policy.
    Ipsec,
    /// No socket takes it, and the host does not report that.
    NoSocket,
    /// The host ignores echo requests.
    EchoIgnored,
    /// The reply has no route, with the reason.
    NoRoute(String),
    /// The host limits the rate of its replies.
    RateLimit,
    /// The reply leaves by an interface without a program.
    LeavesBy(String),
    /// The queue of the interface drops the reply.
    Queue,
    /// The host does not forward.
    NotForwarded,
    /// The request has no route to the host behind this one, with the reason.
    NoRouteBehind(String),
    /// The request is routed to this interface, and no reply comes back.
    HostSilent(String),
    /// The kernel's own words.
    Unknown(DropEvent),
    /// Nothing is known.
    Silent,
}

/// A kernel's reason, and the cause that it stands for.
type Row = (&'static str, fn(&Facts) -> Cause);

/// The reasons that name the cause alone.
const REASONS: &[Row] = &[
    ("IPV6DISABLED", |_| Cause::Disabled),
    ("TC_INGRESS", |_| Cause::ProgramIn),
    ("TC_EGRESS", |_| Cause::ProgramOut),
    ("NETFILTER_DROP", filter),
    ("XFRM_POLICY", |_| Cause::Ipsec),
    ("NO_SOCKET", |_| Cause::NoSocket),
];

fn filter(facts: &Facts) -> Cause {
    match facts.reached_icmp {
        Some(true) => Cause::FilterOut,
        Some(false) => Cause::FilterIn,
        None => Cause::Filter,
    }
}

/// Finds the cause. `trace` is what happened in each run of the test.
#[must_use]
pub fn cause(trace: &Trace, facts: &Facts) -> Cause {
    if facts.is_disabled == Some(true) {
        return Cause::Disabled;
    }
    if let (true, Some(interface)) = (facts.has_address, &trace.left_by) {
        return Cause::LeavesBy(interface.clone());
    }
    let drops = &trace.drops;
    let by_reason = drops.iter().find_map(|drop| {
        let row = REASONS.iter().find(|(reason, _)| *reason == drop.reason);
        row.map(|(_, cause)| cause(facts))
    });
    if let Some(cause) = by_reason {
        return cause;
    }
    if drops.iter().any(is_by_xdp) {
        return Cause::Xdp;
    }
    if let Some(forwarding) = &facts.forwarding {
        return forwarding.cause(trace, facts.no_route.as_ref());
    }
    if !facts.has_address {
        return Cause::NoAddress;
    }
    if let Some(drop) = drops.iter().find(|drop| !is_by_icmp(drop)) {
        return Cause::Unknown(drop.clone());
    }
    // The order of the kernel's `icmpv6_rcv` and `icmpv6_echo_reply`.
    if facts.ignores_echo == Some(true) {
        return Cause::EchoIgnored;
    }
    if let Some(reason) = &facts.no_route {
        return Cause::NoRoute(reason.clone());
    }
    match drops.first() {
        Some(_) if facts.limits_replies == Some(true) => Cause::RateLimit,
        Some(drop) => Cause::Unknown(drop.clone()),
        None => Cause::Silent,
    }
}

/// Whether the kernel's ICMPv6 dropped it. Without a location, it may have.
fn is_by_icmp(drop: &DropEvent) -> bool {
    let location = drop.location.as_deref().unwrap_or(ICMPV6);
    drop.reason == NOT_SPECIFIED && location == ICMPV6
}

/// Whether an XDP program dropped it, after the kernel had made an `sk_buff`: the kernel gives no reason for that.
fn is_by_xdp(drop: &DropEvent) -> bool {
    let location = drop.location.as_deref();
    location
        .is_some_and(|location| location.ends_with("generic_xdp") || location == "do_xdp_generic")
}

impl Cause {
    /// The word for scripts.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Disabled => "ipv6_disabled",
            Self::NoAddress => "no_address",
            Self::ProgramIn | Self::ProgramOut => "foreign_program",
            Self::Xdp => "foreign_xdp",
            Self::FilterIn => "packet_filter_in",
            Self::FilterOut => "packet_filter_out",
            Self::Filter => "packet_filter",
            Self::Ipsec => "ipsec_policy",
            Self::NoSocket => "no_socket",
            Self::EchoIgnored => "echo_ignored",
            Self::NoRoute(_) => "no_route",
            Self::RateLimit => "rate_limit",
            Self::LeavesBy(_) => "leaves_elsewhere",
            Self::Queue => "queue",
            Self::NotForwarded => "not_forwarded",
            Self::NoRouteBehind(_) => "no_route_behind",
            Self::HostSilent(_) => "host_silent",
            Self::Unknown(_) => "unknown",
            Self::Silent => "silent",
        }
    }

    /// The dropped packet that shows it, of those that were dropped each time.
    #[must_use]
    pub fn shown_by<'a>(&self, drops: &'a [DropEvent]) -> Option<&'a DropEvent> {
        let is_for = |drop: &&DropEvent| match self {
            Self::Unknown(unknown) => **drop == *unknown,
            Self::Xdp => is_by_xdp(drop),
            _ => REASONS.iter().any(|(reason, _)| *reason == drop.reason),
        };
        drops.iter().find(is_for).or(drops.first())
    }

    /// The sentence. `interface` is the tunnel's.
    #[must_use]
    pub fn sentence(&self, interface: &IfName, address: Ipv6Addr, facts: &Facts) -> String {
        let of = |programs: &[String]| match programs {
            [] => String::new(),
            programs => format!(" ({})", programs.join(", ")),
        };
        match self {
            Self::Disabled => format!("IPv6 is switched off on {interface}"),
            Self::NoAddress => format!("no interface has {address}"),
            Self::ProgramIn => format!(
                "a program or filter of other software{} at the ingress of {interface} drops the request",
                of(&facts.programs_in)
            ),
            Self::ProgramOut => format!(
                "a program or filter of other software{} at an egress drops the answer",
                of(&facts.programs_out)
            ),
            Self::Xdp => {
                format!("an XDP program of other software on {interface} drops the request")
            }
            Self::FilterIn => "a packet filter drops the request".to_owned(),
            Self::FilterOut => "a packet filter drops the answer".to_owned(),
            Self::Filter => "a packet filter drops the request or the answer".to_owned(),
            Self::Ipsec => "an IPsec policy refuses the request".to_owned(),
            Self::NoSocket => "nothing listens there, and the host sends no error".to_owned(),
            Self::EchoIgnored => "the host ignores all pings".to_owned(),
            Self::NoRoute(reason) => format!("the answer has no route: {reason}"),
            Self::RateLimit => "the host limits the rate of its answers".to_owned(),
            Self::LeavesBy(other) => {
                format!("the answer leaves by {other}, where no program sees it")
            }
            Self::Queue => format!("the queue of {interface} drops the answer"),
            Self::NotForwarded => "this host does not forward IPv6".to_owned(),
            Self::NoRouteBehind(reason) => format!("this host has no route to {address}: {reason}"),
            Self::HostSilent(out) => {
                format!("the request is routed to {out}, and no answer comes back")
            }
            Self::Unknown(_) => "the kernel drops it".to_owned(),
            Self::Silent if facts.arrived => "the kernel gives no reason".to_owned(),
            Self::Silent => format!(
                "it does not reach the program at the ingress of {interface}, and the kernel gives no reason"
            ),
        }
    }

    /// What to do. `source` is the source of the request.
    #[must_use]
    pub fn cure(&self, interface: &IfName, address: Ipv6Addr, source: Ipv6Addr) -> String {
        match self {
            Self::Disabled => format!(
                "sysctl -w net.ipv6.conf.{}.disable_ipv6=0, and assign the address again",
                interface.as_str().replace('.', "/")
            ),
            Self::NoAddress => format!("ip -6 address add {address}/64 dev {interface}"),
            Self::ProgramIn => format!("tc filter show dev {interface} ingress; bpftool net show"),
            Self::ProgramOut => format!("tc filter show dev {interface} egress; bpftool net show"),
            Self::Xdp => format!("ip link show dev {interface} shows it"),
            Self::FilterIn | Self::FilterOut | Self::Filter => format!(
                "accept ICMPv6 echo messages there; if it drops only {source}, set check_source to an address that may ping"
            ),
            Self::Ipsec => "ip xfrm policy list shows it".to_owned(),
            Self::NoSocket => {
                "ss -6lnp shows what listens; net.ipv6.icmp.ratelimit limits errors".to_owned()
            }
            Self::EchoIgnored => "sysctl -w net.ipv6.icmp.echo_ignore_all=0".to_owned(),
            Self::NoRoute(_) | Self::LeavesBy(_) => {
                format!("sixxs explain {address} {source} shows why")
            }
            Self::Queue => format!("tc -s qdisc show dev {interface}"),
            Self::NotForwarded => "sysctl -w net.ipv6.conf.all.forwarding=1".to_owned(),
            Self::NoRouteBehind(_) => format!("ip -6 route get {address}"),
            Self::HostSilent(out) => {
                format!(
                    "ping -6 {address}; ip -6 neigh show to {address} dev {out}; `sixxs check --trace-filters` names a rule that drops it"
                )
            }
            Self::RateLimit => "sysctl -w net.ipv6.icmp.ratemask=0-1,3-127".to_owned(),
            Self::Unknown(_) | Self::Silent => "sixxs doctor looks for what may drop it".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drop(reason: &str, location: Option<&str>) -> DropEvent {
        DropEvent {
            reason: reason.to_owned(),
            location: location.map(str::to_owned),
        }
    }

    fn trace(drops: &[DropEvent]) -> Trace {
        Trace {
            drops: drops.to_vec(),
            left_by: None,
        }
    }

    /// A host without a fault that the facts show.
    fn facts() -> Facts {
        Facts {
            has_address: true,
            arrived: true,
            reached_icmp: Some(true),
            is_disabled: Some(false),
            ignores_echo: Some(false),
            limits_replies: Some(false),
            ..Facts::default()
        }
    }

    #[test]
    fn reasons_become_causes() {
        let not_reached = Facts {
            reached_icmp: Some(false),
            ..facts()
        };
        let unknown = Facts {
            reached_icmp: None,
            ..facts()
        };
        for (reason, facts, expected) in [
            ("NETFILTER_DROP", &not_reached, Cause::FilterIn),
            ("NETFILTER_DROP", &facts(), Cause::FilterOut),
            ("NETFILTER_DROP", &unknown, Cause::Filter),
            ("IPV6DISABLED", &not_reached, Cause::Disabled),
            ("TC_INGRESS", &not_reached, Cause::ProgramIn),
            ("TC_EGRESS", &facts(), Cause::ProgramOut),
            ("XFRM_POLICY", &not_reached, Cause::Ipsec),
            ("NO_SOCKET", &not_reached, Cause::NoSocket),
            ("NOMEM", &facts(), Cause::Unknown(drop("NOMEM", Some("f")))),
        ] {
            let trace = trace(&[drop(NOT_SPECIFIED, Some(ICMPV6)), drop(reason, Some("f"))]);
            assert_eq!(cause(&trace, facts), expected, "{reason}");
            let shown = expected
                .shown_by(&trace.drops)
                .map(|drop| drop.reason.as_str());
            assert_eq!(shown, Some(reason));
        }
        let trace = trace(&[drop(NOT_SPECIFIED, Some("netif_receive_generic_xdp"))]);
        assert_eq!(cause(&trace, &not_reached), Cause::Xdp);
        assert!(Cause::Xdp.shown_by(&trace.drops).is_some());
    }

    /// The kernel names no reason for what its ICMPv6 does not answer.
    #[test]
    fn facts_decide_where_the_kernel_names_no_reason() {
        let with = |change: fn(&mut Facts)| {
            let mut facts = facts();
            change(&mut facts);
            facts
        };
        let no_route = Facts {
            no_route: Some("an `unreachable` route refuses it".to_owned()),
            ..facts()
        };
        for location in [Some(ICMPV6), None] {
            let trace = trace(&[drop(NOT_SPECIFIED, location)]);
            for (facts, name) in [
                (
                    with(|facts| facts.ignores_echo = Some(true)),
                    "echo_ignored",
                ),
                (
                    with(|facts| facts.limits_replies = Some(true)),
                    "rate_limit",
                ),
                (with(|facts| facts.has_address = false), "no_address"),
                (
                    with(|facts| facts.is_disabled = Some(true)),
                    "ipv6_disabled",
                ),
                (no_route.clone(), "no_route"),
                (facts(), "unknown"),
            ] {
                assert_eq!(cause(&trace, &facts).name(), name, "{facts:?}");
            }
        }
        // Elsewhere, they decide nothing.
        let trace = trace(&[drop(NOT_SPECIFIED, Some("ip6_forward"))]);
        let ignoring = with(|facts| facts.ignores_echo = Some(true));
        assert_eq!(cause(&trace, &ignoring).name(), "unknown");
    }

    #[test]
    fn limits_concern_replies_only_by_the_mask() {
        for (interval_ms, mask, expected) in [
            (1000, "0-1,3-127", false),
            (1000, "0-1,3-255", true),
            (1000, "129", true),
            (0, "0-255", false),
        ] {
            assert_eq!(limits_replies(interval_ms, mask), expected, "{mask}");
        }
    }

    #[test]
    fn without_a_reason_the_trace_shows_where_it_went() {
        let left = Trace {
            left_by: Some("net1".to_owned()),
            ..Trace::default()
        };
        assert_eq!(cause(&left, &facts()), Cause::LeavesBy("net1".to_owned()));
        // Then the request was forwarded.
        let elsewhere = Facts {
            has_address: false,
            ..facts()
        };
        assert_eq!(cause(&left, &elsewhere), Cause::NoAddress);
        // A limit without a dropped packet is not the cause.
        let limiting = Facts {
            limits_replies: Some(true),
            ..facts()
        };
        assert_eq!(cause(&Trace::default(), &limiting), Cause::Silent);
        let name: IfName = "sixxs0".parse().unwrap();
        let [address, _] = ["2001:db8:a::2", "3fff:fff::1"].map(|text| text.parse().unwrap());
        let sentence = |facts| Cause::Silent.sentence(&name, address, facts);
        assert_ne!(sentence(&facts()), sentence(&Facts::default()));
    }

    #[test]
    fn each_cause_has_a_sentence_and_a_cure() {
        let name: IfName = "eth0.5".parse().unwrap();
        let [address, source] = ["2001:db8:a::2", "3fff:fff::1"].map(|text| text.parse().unwrap());
        let facts = Facts {
            programs_in: vec!["other (TCX)".to_owned()],
            ..facts()
        };
        let causes = [
            Cause::Disabled,
            Cause::NoAddress,
            Cause::ProgramIn,
            Cause::ProgramOut,
            Cause::Xdp,
            Cause::FilterIn,
            Cause::FilterOut,
            Cause::Filter,
            Cause::Ipsec,
            Cause::NoSocket,
            Cause::EchoIgnored,
            Cause::NoRoute("none".to_owned()),
            Cause::RateLimit,
            Cause::LeavesBy("net1".to_owned()),
            Cause::Queue,
            Cause::NotForwarded,
            Cause::NoRouteBehind("none".to_owned()),
            Cause::HostSilent("lan0".to_owned()),
            Cause::Unknown(drop("X", None)),
            Cause::Silent,
        ];
        let mut sentences = std::collections::BTreeSet::new();
        for cause in &causes {
            let sentence = cause.sentence(&name, address, &facts);
            assert!(!cause.cure(&name, address, source).is_empty());
            assert!(sentences.insert(sentence), "{cause:?}");
        }
        assert!(sentences.iter().any(|text| text.contains("(other (TCX))")));
        assert!(
            Cause::Disabled
                .cure(&name, address, source)
                .contains("eth0/5")
        );
    }

    #[test]
    fn the_first_fault_on_the_way_is_the_cause() {
        let works = Forwarding {
            is_on: Some(true),
            route: Ok("lan0".to_owned()),
        };
        let off = Forwarding {
            is_on: Some(false),
            ..works.clone()
        };
        let lost = Forwarding {
            route: Err("no route".to_owned()),
            ..works.clone()
        };
        let reason = "none".to_owned();
        let drop = drop("NOMEM", None);
        let dropped = Trace {
            drops: vec![drop.clone()],
            left_by: None,
        };
        let left = Trace {
            left_by: Some("lan0".to_owned()),
            ..dropped.clone()
        };
        let none = Trace::default();
        for (forwarding, trace, no_route, expected) in [
            (&off, &dropped, None, Cause::NotForwarded),
            (
                &lost,
                &dropped,
                None,
                Cause::NoRouteBehind("no route".to_owned()),
            ),
            (&works, &left, Some(&reason), Cause::NoRoute(reason.clone())),
            (&works, &dropped, None, Cause::Unknown(drop)),
            (&works, &left, None, Cause::HostSilent("lan0".to_owned())),
            (&works, &none, None, Cause::HostSilent("lan0".to_owned())),
        ] {
            assert_eq!(forwarding.cause(trace, no_route), expected);
        }
    }
}
