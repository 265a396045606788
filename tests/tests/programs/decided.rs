//! The kernel program decides exactly as the pure function `decide`, for all hosts and all packets.

use std::cell::RefCell;
use std::net::Ipv6Addr;

use anyhow::{Context as _, Result, anyhow, ensure};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use sixxs_common::address::{Address, Prefix as SharedPrefix};
use sixxs_common::decide::{Exit, Tables, Verdict, decide};
use sixxs_common::layout;
use sixxs_common::packet;
use sixxs_common::stat::Stat;
use sixxs_core::config::OnLeak;
use sixxs_core::enforce::{Home, Role, SourceKind};
use sixxs_core::types::Prefix;
use sixxs_tests::kernel::program_harness::{Direction, Host, LOOPBACK, Programs};
use sixxs_tests::probe::packets::{
    AUTHENTICATION, DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ICMPV6, IPV6_TYPE, ROUTING,
    SERVICE_VLAN_TYPE, TCP, UDP, VLAN_TYPE, ipv6, udp,
};

use crate::golden::{NEXT, NOBODY, REDIRECT, SHOT, address, host, read, wire};

/// Names of the tunnels of generated hosts.
const MADE_UP: [&str; 4] = ["t0", "t1", "t2", "t3"];

/// A host as the pure function reads it.
#[derive(Default)]
struct Model {
    sources: Vec<(SharedPrefix, layout::Source)>,
    directs: Vec<(u32, SharedPrefix)>,
    /// The slots whose entries lead to the loopback interface, where the program runs.
    leading_here: Vec<u32>,
}

impl Tables for Model {
    fn source(&self, address: Address) -> Option<layout::Source> {
        let mut sources = self.sources.iter();
        let found = sources.find(|(prefix, _)| address.within(prefix));
        found.map(|(_, source)| *source)
    }

    fn is_direct(&self, tunnel: u32, destination: Address) -> bool {
        let mut directs = self.directs.iter();
        directs.any(|(of, prefix)| *of == tunnel && destination.within(prefix))
    }

    fn leads_here(&self, tunnel: u32) -> bool {
        self.leading_here.contains(&tunnel)
    }
}

impl Model {
    fn new(host: &Host, programs: &Programs) -> Result<Self> {
        let shared = |prefix: Prefix| {
            SharedPrefix::new(
                Address::from_octets(prefix.address().octets()),
                prefix.bits(),
            )
        };
        let slot = |name| programs.kernel.slot(name).context("no slot");
        let mut model = Self::default();
        for source in &host.0.sources {
            let entry = source.entry(slot(&source.tunnel)?);
            model.sources.push((shared(source.prefix), entry));
        }
        for (name, target) in &host.0.tunnels {
            if target.index == Some(LOOPBACK) {
                model.leading_here.push(slot(name)?);
            }
        }
        for (name, prefix) in &host.0.directs {
            model.directs.push((slot(name)?, shared(*prefix)));
        }
        Ok(model)
    }
}

/// Addresses that are close enough to be in each other's prefixes.
fn addresses() -> impl Strategy<Value = Ipv6Addr> {
    let close = (0..3_u128, 0..3_u128, 0..3_u128)
        .prop_map(|(a, b, c)| 0x2001_0db8 << 96 | a << 80 | b << 64 | c);
    prop_oneof![
        8 => close,
        1 => any::<u128>(),
        1 => any::<u128>().prop_map(|any| 0xfe80 << 112 | any >> 16),
        1 => any::<u128>().prop_map(|any| 0xff02 << 112 | any >> 16),
    ]
    .prop_map(Ipv6Addr::from_bits)
}

fn prefixes() -> impl Strategy<Value = Prefix> {
    let bits = prop_oneof![Just(128), Just(64), Just(48), 1..=128_u8];
    (addresses(), bits).prop_map(|(address, bits)| Prefix::containing(address, bits))
}

fn homes() -> impl Strategy<Value = Home> {
    prop_oneof![
        Just(Home::Nowhere),
        Just(Home::Uplink(LOOPBACK)),
        Just(Home::Uplink(NOBODY)),
        Just(Home::Several),
    ]
}

fn kinds() -> impl Strategy<Value = SourceKind> {
    prop_oneof![
        4 => Just(SourceKind::Own),
        1 => Just(SourceKind::OnLink),
        2 => Just(SourceKind::OfGroup),
    ]
}

/// Hosts whose loopback interface is an uplink or the first tunnel. They let leaks pass.
fn hosts() -> impl Strategy<Value = (Role, Host)> {
    // The program compares few sources one by one, and looks up more in the trie.
    let of_one = (0..MADE_UP.len(), homes(), kinds());
    let sources = prop::collection::btree_map(prefixes(), of_one, 0..=24);
    let directs = prop::collection::btree_set((0..MADE_UP.len(), prefixes()), 0..=4);
    (any::<bool>(), sources, directs).prop_map(|(uplink, sources, directs)| {
        let role = if uplink { Role::Uplink } else { Role::Tunnel };
        let mut host = Host::new(if uplink { "net0" } else { MADE_UP[0] }, role);
        for name in MADE_UP {
            // The last one is elsewhere.
            let index = if name == MADE_UP[3] { NOBODY } else { LOOPBACK };
            host = host.and_then(|host| {
                host.tunnel(name, Some(index), OnLeak::Observe, Ipv6Addr::UNSPECIFIED)
            });
        }
        let name = |tunnel: usize| MADE_UP[tunnel].parse().expect("a name");
        let sources = sources
            .into_iter()
            .map(|(prefix, (tunnel, home, kind))| (prefix, name(tunnel), home, kind));
        let mut host = host.expect("good names").sources(sources);
        let directs = directs.into_iter();
        let directs = directs.map(|(tunnel, prefix)| (name(tunnel), prefix));
        host.0.directs.extend(directs);
        (role, host)
    })
}

/// The program's verdict on a packet, determined by the counters that change.
fn verdict(programs: &Programs, packet: &[u8]) -> Result<Verdict> {
    let before = read(programs)?;
    programs.run(Direction::Egress, &wire(packet), 1)?;
    let mut found = Vec::new();
    for (name, counters) in read(programs)? {
        for stat in Stat::ALL.iter().copied() {
            if counters[stat.index()] != before[&name][stat.index()] {
                found.extend(match stat {
                    Stat::VerdictOther => Some(Verdict::OtherProtocol),
                    Stat::VerdictUnparsed => Some(Verdict::Unparsed),
                    Stat::VerdictNotOurs => Some(Verdict::NotOurs),
                    Stat::VerdictExempt => Some(Verdict::Exempt),
                    Stat::VerdictOwn => Some(Verdict::Own),
                    Stat::VerdictStray => Some(Verdict::Stray),
                    Stat::VerdictLoop => Some(Verdict::Loop),
                    Stat::LeakObserved => {
                        let slot = programs.kernel.slot(&name.parse()?);
                        Some(Verdict::Leak(slot.context("no slot")?))
                    }
                    _ => None,
                });
            }
        }
    }
    ensure!(found.len() == 1, "not one verdict: {found:?}");
    Ok(found[0])
}

/// For all sources, the program in the kernel decides as the same code does in user space. Each host replaces
/// the former one, of which the programs still remember addresses.
#[test]
fn the_kernel_decides_as_the_pure_decision_does() -> Result<()> {
    let programs = RefCell::new(Programs::load()?);
    let packets = prop::collection::vec((addresses(), addresses()), 8);
    let mut runner = TestRunner::new(Config {
        cases: 200,
        failure_persistence: None,
        ..Config::default()
    });
    let compare = |(role, host): &(Role, Host), pairs: &[(Ipv6Addr, Ipv6Addr)]| -> Result<()> {
        let mut programs = programs.borrow_mut();
        programs.kernel.write_maps(&host.0)?;
        let model = Model::new(host, &programs)?;
        let exit = match role {
            Role::Uplink => Exit::Uplink(LOOPBACK.0),
            _ => {
                let slot = programs.kernel.slot(&MADE_UP[0].parse()?);
                Exit::Tunnel(slot.context("no slot")?)
            }
        };
        for (from, to) in pairs {
            let packet = ipv6(*from, *to, UDP, &udp(4000, 8));
            let header = packet::ipv6(packet.as_slice(), 0);
            let expected = decide(header.as_ref().map_err(|fault| *fault), exit, &model);
            let found = verdict(&programs, &packet)?;
            ensure!(
                found == expected,
                "{from} to {to}: {found:?}, not {expected:?}"
            );
        }
        Ok(())
    };
    runner
        .run(&(hosts(), packets), |(host, packets)| {
            compare(&host, &packets).map_err(|error| TestCaseError::fail(format!("{error:#}")))
        })
        .map_err(|error| anyhow!("{error}"))
}

/// Frames of random bytes. Most of them get valid fields, so that the programs parse more of them.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let types = prop::sample::select(vec![IPV6_TYPE, VLAN_TYPE, SERVICE_VLAN_TYPE]);
    let headers = prop::sample::select(vec![
        HOP_BY_HOP,
        TCP,
        UDP,
        ROUTING,
        FRAGMENT,
        AUTHENTICATION,
        ICMPV6,
        DESTINATION_OPTIONS,
    ]);
    let sources = prop::sample::select(vec!["2001:db8:a::2", "2001:db8:b::2", "2001:db8:d::2"]);
    let bytes = prop::collection::vec(any::<u8>(), 54..1600);
    let apply_environment = prop::option::of((types, headers, sources));
    (bytes, apply_environment).prop_map(|(mut bytes, apply_environment)| {
        if let Some((kind, header, source)) = apply_environment {
            bytes[12..14].copy_from_slice(&kind.to_be_bytes());
            bytes[14] = 0x60;
            // A length near the real one, so that some are too large and most fit.
            bytes[18] &= 0x07;
            bytes[20] = header;
            bytes[22..38].copy_from_slice(&address(source).octets());
        }
        bytes
    })
}

#[test]
fn any_bytes_get_one_verdict() -> Result<()> {
    let mut programs = Programs::load()?;
    programs.kernel.write_maps(&host("net0", Role::Uplink)?.0)?;
    let verdicts = |programs: &Programs| -> Result<u64> {
        let counters = programs.counters("net0")?;
        Ok(Stat::VERDICTS
            .iter()
            .map(|stat| counters[stat.index()])
            .sum())
    };
    let check = |frame: &[u8]| -> Result<()> {
        let before = verdicts(&programs)?;
        let run = programs.run(Direction::Egress, frame, 1)?;
        ensure!(matches!(run.verdict, NEXT | SHOT | REDIRECT), "{run:?}");
        ensure!(verdicts(&programs)? == before + 1, "not one verdict");
        let run = programs.run(Direction::Ingress, frame, 1)?;
        ensure!(run.verdict == NEXT && run.packet == frame, "in: {run:?}");
        Ok(())
    };
    let mut runner = TestRunner::new(Config {
        cases: 10_000,
        failure_persistence: None,
        ..Config::default()
    });
    runner
        .run(&frames(), |frame| {
            check(&frame).map_err(|error| TestCaseError::fail(format!("{error:#}")))
        })
        .map_err(|error| anyhow!("{error}"))
}
