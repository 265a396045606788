use super::{
    brokers::{Clock, Standing},
    daemon::{Daemon, NotWritable, WhyNot},
    filters::NotListed,
    host::{Host, Pins, Refused},
    managers::read_networkd,
    marked::{Fate, Marked, MarkedTunnel},
    paths::Path,
    routing::{Address, AddressFault, EarlierHandler, Shadow},
    ruleset::{Action as FilterAction, Chain, Condition, Home, Policy, Reverse, Rule, Tool},
    settings::{Outer, Uplink},
    sockets::{Service, Sockets},
    *,
};
use crate::{
    explain::rules::{Action, PolicyRule, Selector},
    types::{RulePriority, TableId},
};

fn a_rule() -> PolicyRule {
    PolicyRule {
        priority: RulePriority(100),
        is_ours: false,
        selector: Selector::ALL,
        action: Action::Lookup(TableId(254), None),
    }
}

fn a_marked_rule() -> Marked {
    Marked {
        rule: PolicyRule {
            selector: Selector {
                mark: Some((7, 7)),
                ..Selector::ALL
            },
            ..a_rule()
        },
        fate: Fate::Refused,
        tunnels: vec![MarkedTunnel {
            name: "sixxs0".to_owned(),
            source: "2001:db8:a::2".parse().unwrap(),
            table: TableId(200),
        }],
    }
}

fn good() -> Facts {
    Facts {
        host: Host {
            release: "6.18.0".to_owned(),
            ipv6: true,
            rules: Some(true),
            subtrees: Some(Some(true)),
            programs: Some(true),
            bpffs: true,
            pins: Pins {
                mounted: true,
                ..Pins::default()
            },
            tun: Some(true),
            wireguard: Some(true),
            carried_by_daemon: Vec::new(),
            without_xdp: Vec::new(),
        },
        routing: routing::RoutingFacts {
            uplink: Some(true),
            ..routing::RoutingFacts::default()
        },
        daemon: Daemon {
            problems: Some(Vec::new()),
            ..Daemon::default()
        },
        ..Facts::default()
    }
}

/// The finding about a subject with a fault or a note.
fn found(facts: &Facts, about: &str) -> Finding {
    let findings = examine(facts);
    let is_it = |finding: &&Finding| finding.about == about && finding.verdict != Verdict::Good;
    let found = findings.iter().find(is_it);
    found
        .unwrap_or_else(|| panic!("{about}: {findings:#?}"))
        .clone()
}

#[test]
fn a_host_without_problems_has_no_findings() {
    for finding in examine(&good()) {
        assert_eq!(finding.verdict, Verdict::Good, "{finding:?}");
    }
}

#[test]
#[rustfmt::skip] // one table is easier to read
fn each_trap_is_found_and_has_a_fix() {
    use Verdict::{Bad, Note};
    type Trap = fn(&mut Facts);
    let traps: [(&str, Verdict, Trap); 64] = [
        ("configuration", Bad, |f| f.configuration = Some(Configuration::Wrong("sixxs.toml:3: unknown key".into()))),
        ("configuration", Bad, |f| { f.configuration = Some(Configuration::Missing("/typo.toml".into())); f.daemon.problems = None; }),
        ("configuration", Note, |f| f.configuration = Some(Configuration::Missing("/typo.toml".into()))),
        ("configuration", Note, |f| f.configuration = Some(Configuration::NotPermitted("/s.toml".into()))),
        ("kernel", Bad, |f| f.host.release = "5.10.0-30".into()),
        ("kernel", Note, |f| f.host.release = "unknown".into()),
        ("ipv6", Bad, |f| f.host.ipv6 = false),
        ("rules", Bad, |f| f.host.rules = Some(false)),
        ("subtrees", Bad, |f| f.host.subtrees = Some(Some(false))),
        ("programs", Bad, |f| f.host.programs = Some(false)),
        ("programs", Note, |f| f.host.programs = None),
        ("bpffs", Bad, |f| f.host.bpffs = false),
        ("pins", Bad, |f| { f.host.pins.mounted = false; f.host.pins.mountable = Some(false); }),
        ("pins", Note, |f| f.host.pins.mounted = false),
        ("pins", Note, |f| f.host.pins.left = vec!["v2".into()]),
        ("pins", Bad, |f| f.host.pins.refused = Some(Refused { why: "/a: Read-only file system".into(), read_only: Some("/a".into()) })),
        ("pins", Bad, |f| f.host.pins.refused = Some(Refused { why: "/a is no directory".into(), read_only: None })),
        ("pins", Note, |f| f.host.pins.strange = vec!["/a/maps/FEW".into()]),
        ("tun", Bad, |f| f.host.tun = Some(false)),
        ("carrier", Note, |f| f.host.carried_by_daemon = vec!["sixxs0".to_owned()]),
        ("carrier", Note, |f| {
            f.host.carried_by_daemon = vec!["sixxs0".to_owned()];
            f.host.release = "6.1.0".to_owned();
        }),
        ("xdp", Note, |f| f.host.without_xdp = vec![("net0".to_owned(), "it would turn off rx-lro".to_owned())]),
        ("disable_ipv6", Bad, |f| f.settings.disabled = vec!["all".into()]),
        ("forwarding", Bad, |f| { f.settings.forwarding = Some(false); f.settings.behind = vec![("lan1".into(), "sixxs1".into())]; }),
        ("accept_ra", Bad, |f| f.settings.uplinks = vec![Uplink { name: "net0".into(), accept_ra: Some(1), forwarding: true, has_lasting_default: false }]),
        ("echo", Bad, |f| f.settings.icmp.echo_ignore_all = true),
        ("icmp rate", Bad, |f| { f.settings.icmp.ratelimit_ms = Some(1); f.settings.icmp.ratemask = Some("0-1,129".into()); }),
        ("icmp rate", Bad, |f| { f.settings.icmp.ratelimit_ms = Some(1); f.settings.icmp.ratemask = Some("0-127".into()); }),
        ("icmp rate", Note, |f| f.settings.icmp.ratelimit_ms = Some(60_000)),
        ("rp_filter", Bad, |f| f.settings.outer = vec![Outer { tunnel: "sixxs0".into(), comes_by: "net1".into(), rp_filter: 1, leaves_by: "net0".into() }]),
        ("filters", Note, |f| f.filters.not_listed = vec![NotListed { asked: "nft", why: Some("not permitted".into()) }]),
        ("filters", Note, |f| f.filters.not_listed = vec![NotListed { asked: "ip6tables-legacy-save", why: None }]),
        ("filters", Bad, |f| {
            f.filters.tunnels = vec![filters::Tunnel { name: "sixxs0".into(), is_led_back: false }];
            let home = Home { tool: Tool::Nft, family: "inet".into(), table: "firewalld".into() };
            let drop = Rule { number: 9, conditions: vec![Condition::Reverse(Reverse::Strict, false)], action: FilterAction::Drop };
            f.filters.chains = vec![Chain { home, name: "filter_PREROUTING".into(), base: Some(Policy::Accept), rules: vec![drop] }];
        }),
        ("uplink", Bad, |f| f.routing.uplink = Some(false)),
        ("uplink", Bad, |f| f.routing.unguarded = vec!["net1".into()]),
        ("shadowed", Bad, |f| f.routing.shadows = vec![Shadow { tunnel: "sixxs0".into(), source: "2001:db8:a::2".parse().unwrap(), rule: a_rule(), leaves_by: None }]),
        ("marked", Note, |f| f.routing.marked = vec![a_marked_rule()]),
        ("enforcement", Bad, |f| f.routing.not_enforced = vec!["uplink net9 does not exist".into()]),
        ("program", Bad, |f| f.routing.without_program = vec!["net0".into()]),
        ("program order", Bad, |f| f.routing.earlier_handlers = vec![EarlierHandler { interface: "net0".into(), what: "a filter".into(), fix: "tc filter del".into() }]),
        ("address", Bad, |f| f.routing.addresses = vec![Address { tunnel: "sixxs0".into(), address: "2001:db8:a::2".parse().unwrap(), bits: 64, fault: AddressFault::Nowhere }]),
        ("address", Bad, |f| f.routing.addresses = vec![Address { tunnel: "sixxs0".into(), address: "2001:db8:a::2".parse().unwrap(), bits: 64, fault: AddressFault::Duplicate }]),
        ("address", Note, |f| f.routing.addresses = vec![Address { tunnel: "sixxs0".into(), address: "2001:db8:1::2".parse().unwrap(), bits: 64, fault: AddressFault::OnUplink { prefix: "2001:db8:1::/64".parse().unwrap(), interface: "net0".into() } }]),
        ("address", Note, |f| f.routing.addresses = vec![Address { tunnel: "sixxs0".into(), address: "2001:db8:a::2".parse().unwrap(), bits: 64, fault: AddressFault::Tentative }]),
        ("networkd", Bad, |f| f.managers.networkd = Some(read_networkd([]))),
        ("networkd", Bad, |f| f.managers.networkd = Some(read_networkd(["ManageForeignRoutes=no"]))),
        ("networkd", Bad, |f| f.managers.networkd = Some(read_networkd(["ManageForeignRoutingPolicyRules=no"]))),
        ("NetworkManager", Note, |f| f.managers.network_manager = Some(vec!["sixxs0".into()])),
        ("mtu", Bad, |f| f.paths = vec![Path { tunnel: "sixxs0".into(), mtu: 1480, fits: 1452 }]),
        ("mtu", Bad, |f| f.paths = vec![Path { tunnel: "sixxs0".into(), mtu: 1280, fits: 1200 }]),
        ("clock", Note, |f| f.brokers.clock = Some(Clock { synchronised: Some(false), ..Clock::default() })),
        ("clock", Bad, |f| f.brokers.clock = Some(Clock { refused: vec![("sixxs0".into(), 3)], ..Clock::default() })),
        ("connects", Bad, |f| f.brokers.standings = vec![Standing { name: "192.0.2.1".into(), locked_out_until: Some("2026-01-01T00:00:00Z".into()), has_slot: false }]),
        ("connects", Note, |f| f.brokers.standings = vec![Standing { name: "192.0.2.1".into(), locked_out_until: None, has_slot: false }]),
        ("udp services", Note, |f| f.sockets = Sockets { services: vec![Service { port: 53, program: None }], address: Some("2001:db8:a::2".into()), uplink: Some("net0".into()) }),
        ("clock", Bad, |f| f.brokers.clock = Some(Clock { wrong: vec![("sixxs0".into(), "an hour behind".into())], ..Clock::default() })),
        ("state", Bad, |f| f.daemon.not_writable = Some(NotWritable { directory: "/a/b".into(), why: WhyNot::ReadOnly("/a".into()) })),
        ("state", Bad, |f| f.daemon.not_writable = Some(NotWritable { directory: "/a/b".into(), why: WhyNot::InTheWay("/a/b".into()) })),
        ("state", Bad, |f| f.daemon.not_writable = Some(NotWritable { directory: "/a/b".into(), why: WhyNot::Other("no".into()) })),
        ("state", Note, |f| f.daemon.not_writable = Some(NotWritable { directory: "/a/b".into(), why: WhyNot::NotAsked })),
        ("group", Note, |f| f.daemon.group = Some(("sixxs".into(), false))),
        ("daemon", Bad, |f| f.daemon.silent = Some("no answer".into())),
        ("daemon", Note, |f| f.daemon.not_asked = Some("may not connect".into())),
        ("daemon", Bad, |f| f.daemon.others = vec![77]),
    ];
    for (about, verdict, set) in traps {
        let mut facts = good();
        set(&mut facts);
        let finding = found(&facts, about);
        assert_eq!(finding.verdict, verdict, "{finding:?}");
        assert!(finding.fix.is_some(), "{finding:?}");
    }
    let mut facts = good();
    facts.daemon.problems = Some(vec!["uplink net9 does not exist".to_owned()]);
    assert_eq!(found(&facts, "daemon").verdict, Bad);
}

#[test]
#[rustfmt::skip] // one table is easier to read
fn harmless_settings_are_not_reported() {
    type Set = fn(&mut Facts);
    let sets: [(&str, Set); 18] = [
        ("a kernel with clsact filters only", |f| f.host.release = "6.1.0-31-amd64".into()),
        ("a place for pins that is mounted at the start", |f| { f.host.pins.mounted = false; f.host.pins.mountable = Some(true); }),
        ("no need for source-specific routes", |f| f.host.subtrees = None),
        ("no need for TUN devices", |f| f.host.tun = None),
        ("an uplink that is not known", |f| f.routing.uplink = None),
        ("NetworkManager without a tunnel", |f| f.managers.network_manager = Some(Vec::new())),
        ("networkd that leaves all alone", |f| f.managers.networkd = Some(read_networkd(["ManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no"]))),
        ("a path that carries the MTU", |f| f.paths = vec![Path { tunnel: "sixxs0".into(), mtu: 1480, fits: 1480 }]),
        ("a clock that is synchronised", |f| f.brokers.clock = Some(Clock { synchronised: Some(true), ..Clock::default() })),
        ("a clock that the kernel does not report", |f| f.brokers.clock = Some(Clock::default())),
        ("a broker with a slot", |f| f.brokers.standings = vec![Standing { name: "192.0.2.1".into(), locked_out_until: None, has_slot: true }]),
        ("no UDP services", |f| f.sockets = Sockets { services: Vec::new(), address: Some("2001:db8:a::2".into()), uplink: Some("net0".into()) }),
        ("UDP services without a tunnel", |f| f.sockets = Sockets { services: vec![Service { port: 53, program: None }], address: None, uplink: Some("net0".into()) }),
        ("rp_filter where the way back is the same", |f| f.settings.outer = vec![Outer { tunnel: "sixxs0".into(), comes_by: "net0".into(), rp_filter: 1, leaves_by: "net0".into() }]),
        ("loose rp_filter", |f| f.settings.outer = vec![Outer { tunnel: "sixxs0".into(), comes_by: "net1".into(), rp_filter: 2, leaves_by: "net0".into() }]),
        ("no forwarding, and nothing behind", |f| f.settings.forwarding = Some(false)),
        ("a static default route", |f| f.settings.uplinks = vec![Uplink { name: "net0".into(), accept_ra: Some(1), forwarding: true, has_lasting_default: true }]),
        ("the kernel's usual limits", |f| { f.settings.icmp.ratelimit_ms = Some(1000); f.settings.icmp.ratemask = Some("0-1,3-127\n".into()); }),
    ];
    for (name, set) in sets {
        let mut facts = good();
        set(&mut facts);
        let findings = examine(&facts);
        assert!(findings.iter().all(|finding| finding.verdict == Verdict::Good), "{name}: {findings:#?}");
    }
}

/// An ordinary user is advised to run the check as root, and gets no findings about facts that are
/// not visible.
#[test]
fn an_unprivileged_user_is_told_to_use_root() {
    let mut facts = good();
    facts.configuration = Some(Configuration::NotPermitted("/s.toml".into()));
    facts.host.pins.mounted = false;
    facts.daemon.problems = None;
    for about in ["configuration", "pins"] {
        let found = found(&facts, about);
        assert_eq!(found.fix.as_deref(), Some("run it as root"), "{found:?}");
    }
    assert_eq!(found(&facts, "daemon").fix.as_deref(), Some("sixxs run"));
}

/// A command that cannot work is not suggested.
#[test]
fn without_a_configuration_there_is_nothing_to_run() {
    let mut facts = good();
    facts.configuration = Some(Configuration::Missing("/typo.toml".into()));
    facts.daemon.problems = None;
    assert_eq!(
        found(&facts, "configuration").detail,
        "there is no /typo.toml"
    );
    for missing in [0, 2] {
        facts.daemon.missing = missing;
        let fix = found(&facts, "daemon").fix;
        let expected = "sixxs run, once there is a configuration";
        assert_eq!(fix.as_deref(), Some(expected));
    }
}

/// The pins are explained once: a reason that nothing can be pinned is more precise than a missing file system.
#[test]
fn a_place_that_refuses_pins_is_named_once() {
    let mut facts = good();
    facts.host.pins.mounted = false;
    facts.host.pins.mountable = Some(true);
    facts.host.pins.refused = Some(Refused {
        why: "/a is no directory".to_owned(),
        read_only: None,
    });
    let findings = examine(&facts);
    let pins: Vec<_> = findings.iter().filter(|f| f.about == "pins").collect();
    assert_eq!(pins.len(), 1, "{pins:#?}");
    assert_eq!(pins[0].verdict, Verdict::Bad);
    // Without the file system in the kernel, its mount point is not the problem.
    facts.host.bpffs = false;
    assert!(examine(&facts).iter().all(|f| f.about != "pins"));
}

#[test]
fn kernels_are_told_apart_by_two_numbers() {
    for (release, is_too_old, attaches_by_tcx) in [
        ("5.19.17", true, false),
        ("6.0.19", true, false),
        ("6.1.0-31-amd64", false, false),
        ("6.5.13", false, false),
        ("6.6.0", false, true),
        ("6.18", false, true),
        ("7.0.0-rc1", false, true),
        ("10.0", false, true),
        ("unknown", false, false),
        ("6", false, false),
        ("", false, false),
    ] {
        let warning = too_old(release);
        assert_eq!(warning.is_some(), is_too_old, "{release}");
        assert!(warning.is_none_or(|text| text.starts_with(&format!("Linux {release} is older"))));
        assert_eq!(has_tcx(release), attaches_by_tcx, "{release}");
        let mut facts = good();
        facts.host.release = release.to_owned();
        let findings = examine(&facts);
        let kernel = findings.iter().find(|f| f.about == "kernel").unwrap();
        assert_eq!(kernel.verdict == Verdict::Bad, is_too_old, "{release}");
        let is_tcx = kernel.detail.ends_with("TCX links");
        assert_eq!(is_tcx, attaches_by_tcx, "{release}");
    }
}

#[test]
fn an_uplink_that_is_not_named_is_added_to_the_others() {
    let mut facts = good();
    facts.routing.named = vec!["net0".to_owned(), "net1".to_owned()];
    facts.routing.unguarded = vec!["net2".to_owned()];
    let fix = found(&facts, "uplink").fix.unwrap_or_default();
    let expected =
        "uplinks = [\"net0\", \"net1\", \"net2\"] in the configuration; or leave uplinks out";
    assert_eq!(fix, expected);
}

#[test]
fn the_advised_mtu_is_one_that_ipv6_allows() {
    for (mtu, fits, expected) in [
        (1480, 1479, Some("mtu = 1479 for sixxs0; and at the broker")),
        (1480, 1280, Some("mtu = 1280 for sixxs0; and at the broker")),
        (1480, 1279, Some("IPv6 needs 1280 bytes")),
        (1480, 1480, None),
        (1480, 1481, None),
    ] {
        let mut facts = good();
        let tunnel = "sixxs0".to_owned();
        facts.paths = vec![Path { tunnel, mtu, fits }];
        let findings = examine(&facts);
        let finding = findings.iter().find(|f| f.about == "mtu").unwrap();
        let fix = finding.fix.as_deref();
        assert_eq!(fix.is_some(), expected.is_some(), "{fits}");
        let starts = fix.zip(expected).is_none_or(|(fix, e)| fix.starts_with(e));
        assert!(starts, "{fits}: {fix:?}");
    }
}

#[test]
fn some_udp_services_are_named_and_the_others_counted() {
    for (count, expected) in [
        (1, "on [::]: port 1 (named). One"),
        (2, "on [::]: port 1 (named), port 2. One"),
        (
            8,
            "port 2, port 3, port 4, port 5, port 6, port 7, port 8. One",
        ),
        (9, "port 7, port 8, 1 more. One"),
        (12, "port 7, port 8, 4 more. One"),
    ] {
        let mut facts = good();
        let service = |port| Service {
            port,
            program: (port == 1).then(|| "named".to_owned()),
        };
        facts.sockets = Sockets {
            services: (1..=count).map(service).collect(),
            address: Some("2001:db8:a::2".to_owned()),
            uplink: Some("net0".to_owned()),
        };
        let found = found(&facts, "udp services");
        assert!(found.detail.contains(expected), "{found:?}");
        assert!(found.fix.is_some_and(|fix| fix.contains("src port 1'")));
    }
}
