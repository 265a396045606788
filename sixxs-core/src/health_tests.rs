use super::*;
use crate::{
    link::Candidate,
    types::{IfIndex, Mtu},
    wireguard::PublicKey,
};

const ADDRESS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 2);

fn good_link() -> Link {
    Link {
        addresses: vec![ADDRESS],
        candidate: Candidate::Settled,
        ..Link::up(IfIndex(7), "sixxs0".parse().unwrap(), Mtu(1280))
    }
}

fn good(link: &Link) -> Facts<'_> {
    Facts {
        follows_addresses: false,
        lacks_sources: false,
        state: &State::Up,
        link: Some(link),
        addresses: &[ADDRESS],
        elsewhere: &[],
        covered_uplink: None,
        is_routed: true,
        has_program: true,
        shadow: None,
        leaks: None,
        broker_sends_to: None,
        unanswered_in_a_row: 0,
        echo_health: EchoHealth::Fine,
        unanswered_peer: None,
        no_answer: None,
        quality: Quality::Good,
    }
}

#[test]
fn a_peer_of_wireguard_that_does_not_answer_is_a_failure() {
    let link = good_link();
    let facts = Facts {
        unanswered_peer: Some(Unanswered {
            peer: PublicKey::new([1; 32]),
            endpoint: Some("198.51.100.2:51820".parse().unwrap()),
            age: Some(Duration::from_secs(226)),
        }),
        ..good(&link)
    };
    assert_eq!(
        judged(&facts),
        "failing; its peer AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE= at 198.51.100.2:51820 does not answer: the \
         latest handshake was 226 s ago; look at its endpoint, the keys of both ends, and firewalls"
    );
}

/// The level and all sentences, in one line.
fn judged(facts: &Facts<'_>) -> String {
    let health = Health::judge(facts);
    let mut parts = vec![health.level.name().to_owned()];
    parts.extend(health.reasons.iter().map(ToString::to_string));
    parts.join("; ")
}

#[test]
fn interfaces_and_addresses() {
    let changed = |change: fn(&mut Link)| {
        let mut link = good_link();
        change(&mut link);
        judged(&good(&link))
    };
    for (change, expected) in [
        ((|_| {}) as fn(&mut Link), "healthy"),
        (
            |link| link.carrier = false,
            "failing; its interface has no carrier; look at the far end of the link",
        ),
        (
            |link| link.mtu = Mtu(1000),
            "failing; its interface has an MTU of 1000 bytes; IPv6 needs 1280",
        ),
        (
            |link| link.addresses.clear(),
            "failing; 2001:db8:a::2 is not on its interface",
        ),
        (
            |link| {
                link.unusable.insert(ADDRESS, Unusable::Tentative);
            },
            "failing; 2001:db8:a::2 is tentative: duplicate address detection has not ended",
        ),
        (
            |link| {
                link.unusable.insert(ADDRESS, Unusable::Duplicate);
            },
            "failing; 2001:db8:a::2 is a duplicate: another host on the link has it",
        ),
    ] {
        assert_eq!(changed(change), expected);
    }
}

#[test]
fn an_address_at_another_interface() {
    let elsewhere = [(ADDRESS, "net0".parse().unwrap())];
    let mut link = good_link();
    for has in [true, false] {
        if !has {
            link.addresses.clear();
        }
        let mut facts = good(&link);
        facts.elsewhere = &elsewhere;
        assert_eq!(
            judged(&facts),
            "failing; 2001:db8:a::2 is an address of net0; it belongs on the tunnel's interface alone"
        );
    }
}

#[test]
fn a_broker_that_sends_to_an_old_address() {
    let link = good_link();
    let mut facts = good(&link);
    facts.broker_sends_to = Some("192.0.2.10".parse().unwrap());
    assert_eq!(
        judged(&facts),
        "failing; the broker sends to 192.0.2.10, but this host now reaches the broker by another address; the line \
         `update` of `sixxs status` names the obstacle"
    );
}

#[test]
fn prefixes_that_cover_an_uplink() {
    let link = good_link();
    let uplink = "net0".parse().unwrap();
    let mut facts = good(&link);
    facts.covered_uplink = Some(&uplink);
    assert_eq!(
        judged(&facts),
        "failing; its addresses and prefixes cover every address of net0: all native traffic goes into the \
         tunnel; correct `addresses` and `prefixes` in the configuration"
    );
}

#[test]
fn a_reason_names_only_some_of_many_addresses() {
    let link = good_link();
    let many: Vec<_> = (0..10_000_u128).map(Ipv6Addr::from).collect();
    let mut facts = good(&link);
    facts.addresses = &many;
    let health = Health::judge(&facts);
    assert_eq!(health.reasons.len(), NAMED + 1);
    let last = "9996 more of its addresses have a fault";
    assert_eq!(health.reasons[NAMED].to_string(), last);
}

#[test]
fn rules_routes_and_programs() {
    let link = good_link();
    let mut facts = good(&link);
    facts.is_routed = false;
    assert_eq!(judged(&facts), "failing; its rules or routes are missing");
    facts.has_program = false;
    let both = "failing; its rules or routes are missing; its program is not attached";
    assert_eq!(judged(&facts), both);
}

#[test]
fn rules_of_others() {
    let link = good_link();
    for (fate, expected) in [
        (
            ShadowFate::Redirected,
            "degraded; a rule before the rules of sixxs (priority 100) routes its packets elsewhere; the program \
             redirects them; `sixxs doctor` shows how to remove that rule or move it behind the rules of sixxs",
        ),
        (
            ShadowFate::Lost,
            "failing; a rule before the rules of sixxs (priority 100) routes its packets elsewhere; `sixxs doctor` shows \
             how to remove that rule or move it behind the rules of sixxs",
        ),
        (
            ShadowFate::Refused,
            "failing; a rule before the rules of sixxs (priority 100) refuses its packets; `sixxs doctor` shows how to \
             remove that rule or move it behind the rules of sixxs",
        ),
    ] {
        let effect = ShadowEffect {
            priority: RulePriority(100),
            fate,
        };
        let mut facts = good(&link);
        facts.shadow = Some(&effect);
        assert_eq!(judged(&facts), expected);
    }
}

#[test]
fn the_worst_reason_comes_first() {
    let link = good_link();
    let effect = ShadowEffect {
        priority: RulePriority(100),
        fate: ShadowFate::Redirected,
    };
    let mut facts = good(&link);
    facts.shadow = Some(&effect);
    facts.echo_health = EchoHealth::Silent {
        requests: 9,
        answered: 0,
    };
    let health = Health::judge(&facts);
    assert_eq!(health.level, Level::Failing);
    let first = "it does not answer: of 9 echo requests in 30 s, 0 got a reply; see `sixxs doctor` for \
                 what may keep this host from replying";
    assert_eq!(health.reasons[0].to_string(), first);
    assert_eq!(health.reasons.len(), 2);
}

#[test]
fn three_requests_in_a_row_without_a_reply() {
    let link = good_link();
    for (row, level) in [
        (0, Level::Healthy),
        (2, Level::Healthy),
        (3, Level::Failing),
        (u64::MAX, Level::Failing),
    ] {
        let mut facts = good(&link);
        facts.unanswered_in_a_row = row;
        assert_eq!(Health::judge(&facts).level, level, "{row}");
    }
}

#[test]
fn a_tunnel_that_is_not_up() {
    let state = State::Waiting("the interface does not exist".to_owned());
    let link = good_link();
    let mut facts = good(&link);
    facts.state = &state;
    facts.link = None;
    let expected = "failing; it is waiting: the interface does not exist";
    assert_eq!(judged(&facts), expected);
}

#[test]
fn lasting_leaks_are_a_problem() {
    let link = good_link();
    for (fate, expected) in [
        (
            Treatment::Redirected,
            "degraded; its packets go to other interfaces; the program redirects them",
        ),
        (
            Treatment::Dropped,
            "failing; its packets go to other interfaces; the program drops them",
        ),
        (
            Treatment::Observed,
            "failing; its packets leave by other interfaces",
        ),
    ] {
        let mut facts = good(&link);
        facts.leaks = Some(fate);
        let judged = judged(&facts);
        assert!(judged.starts_with(expected), "{judged}");
    }
}

#[test]
fn brief_leaks_are_no_problem() {
    let at = Duration::from_millis;
    let fate = Treatment::Redirected;
    let mut leaking = Leaking::begin(at(0), fate);
    leaking.add(at(900), fate);
    assert_eq!(
        leaking.treatment(at(1000)),
        None,
        "a repair may take so long"
    );
    leaking.add(at(1000), fate);
    assert_eq!(leaking.treatment(at(1000)), Some(fate));
    assert_eq!(leaking.treatment(at(6000)), Some(fate));
    assert_eq!(leaking.treatment(at(6001)), None, "they have ended");
    leaking.add(at(7000), fate);
    assert_eq!(leaking.treatment(at(7000)), None, "they begin anew");
}

/// The programs distinguish more treatments than users.
#[test]
fn treatments_are_judged_by_what_becomes_of_the_packets() {
    use Treatment::{Dropped, NoTunnel, Observed, Recursion, Redirected, TooBig, TooBigDropped};
    let link = good_link();
    for (treatment, judged_as, level, text) in [
        (
            Redirected,
            Redirected,
            Level::Degraded,
            "the program redirects them",
        ),
        (
            TooBig,
            Redirected,
            Level::Degraded,
            "the program redirects them",
        ),
        (
            TooBigDropped,
            Redirected,
            Level::Degraded,
            "the program redirects them",
        ),
        (
            Dropped,
            Dropped,
            Level::Failing,
            "the program drops them (`on_leak`)",
        ),
        (
            NoTunnel,
            Dropped,
            Level::Failing,
            "the program drops them (`on_leak`)",
        ),
        (
            Observed,
            Observed,
            Level::Failing,
            "leave by other interfaces (`on_leak`)",
        ),
        (
            Recursion,
            Recursion,
            Level::Failing,
            "its outer packets have its own address",
        ),
    ] {
        let at = Duration::from_secs;
        let mut leaking = Leaking::begin(at(0), treatment);
        leaking.add(at(3), treatment);
        assert_eq!(leaking.treatment(at(3)), Some(judged_as));
        let mut facts = good(&link);
        facts.leaks = Some(treatment);
        let health = Health::judge(&facts);
        assert_eq!(health.level, level, "{treatment:?}");
        let reason = health.reasons[0].to_string();
        assert!(reason.contains(text), "{reason}");
        assert!(reason.ends_with("; `sixxs alerts` names the senders"));
    }
}

#[test]
fn the_states_of_a_tunnel_that_is_not_up() {
    let link = good_link();
    for (state, expected) in [
        (State::Down, "failing; it is down"),
        (State::Connecting(None), "failing; it is connecting"),
        (
            State::Failed("exit status 1".to_owned()),
            "failing; it is failed: exit status 1",
        ),
        (
            State::LockedOut(crate::tunnel::LockedOut {
                until_unix: 0,
                reason: "too often".to_owned(),
            }),
            "failing; it is locked out: too often",
        ),
    ] {
        let mut facts = good(&link);
        facts.state = &state;
        assert_eq!(judged(&facts), expected);
    }
}

#[test]
fn probes_decide_too() {
    let link = good_link();
    for (quality, expected) in [
        (
            Quality::Lossy {
                lost: 8,
                sent: 20,
                window: Duration::from_secs(10),
            },
            "failing; 8 of its 20 probes in 10 s got no reply",
        ),
        (
            Quality::Slow {
                median: Duration::from_millis(812),
                limit: Duration::from_millis(500),
            },
            "failing; its probes are answered after 812 ms, the median; the limit is 500 ms",
        ),
    ] {
        let facts = Facts {
            quality,
            ..good(&link)
        };
        assert_eq!(judged(&facts), expected);
        let down = Facts {
            state: &State::Down,
            ..facts
        };
        assert_eq!(
            judged(&down),
            "failing; it is down",
            "probes say nothing then"
        );
    }
}

#[test]
fn an_inside_test_without_answer_is_a_failure() {
    let link = good_link();
    let no_answer = NoAnswer {
        sentence:
            "2001:db8:a::2: no answer to a ping from 3fff:fff::1: a packet filter drops the request"
                .to_owned(),
        cure: Some("accept it".to_owned()),
    };
    let facts = Facts {
        no_answer: Some(&no_answer),
        ..good(&link)
    };
    assert_eq!(
        judged(&facts),
        "failing; 2001:db8:a::2: no answer to a ping from 3fff:fff::1: a packet filter drops the request; accept it"
    );
}
