//! Golden packets: each with its verdict, the resulting bytes, and exactly the counters that change. Also the
//! hosts that they belong to.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use anyhow::{Context as _, Result, ensure};
use sixxs_common::stat::{Counters, Stat};
use sixxs_core::config::OnLeak;
use sixxs_core::enforce::{Home, Role, SourceKind};
use sixxs_core::types::{IfIndex, Mtu, Prefix};
use sixxs_tests::kernel::program_harness::{Direction, Host, LOOPBACK, Programs};
use sixxs_tests::probe::packets::{ETHERNET_BYTES, IPV6_TYPE, UDP, ethernet, ipv6, udp};

pub(crate) const NEXT: i32 = -1;
pub(crate) const SHOT: i32 = 2;
pub(crate) const REDIRECT: i32 = 7;

/// An interface index that does not exist.
pub(crate) const NOBODY: IfIndex = IfIndex(4242);

pub(crate) const OUTSIDE: &str = "2001:db8:ffff::9";
pub(crate) const NATIVE: &str = "2001:db8:1::1";
pub(crate) const GATEWAY: &str = "fe80::1";
pub(crate) const GATED_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

pub(crate) fn address(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

/// The tunnels of the golden packets, each with its own address, on a host with this name for its loopback
/// interface. With eight sources the program still compares them one by one.
pub(crate) fn host(name: &str, role: Role) -> Result<Host> {
    let router = address("2001:db8:a::1");
    let here = Some(LOOPBACK);
    let mut host = Host::new(name, role)?
        .tunnel("plain", here, OnLeak::Redirect, router)?
        .tunnel("gated", here, OnLeak::Redirect, address("2001:db8:b::1"))?
        .tunnel("gone", None, OnLeak::Redirect, router)?
        .tunnel("dropping", here, OnLeak::Drop, router)?
        .tunnel("watching", here, OnLeak::Observe, router)?
        .source("2001:db8:a::2", "plain", Home::Nowhere)?
        .source("2001:db8:b::2", "gated", Home::Nowhere)?
        .source("2001:db8:bb::/48", "gated", Home::Nowhere)?
        .source("2001:db8:bb:3::/64", "plain", Home::Nowhere)?
        .source("2001:db8:bb:2::1", "gated", Home::Uplink(LOOPBACK))?
        .source("2001:db8:c::2", "gone", Home::Nowhere)?
        .source("2001:db8:d::2", "dropping", Home::Nowhere)?
        .source("2001:db8:e::2", "watching", Home::Nowhere)?;
    let gated = host.0.tunnels.get_mut(&"gated".parse()?);
    let gated = gated.context("just added")?;
    gated.mac = Some(GATED_MAC);
    gated.gateway = Some(address(GATEWAY));
    gated.mtu = Mtu(1400);
    for direct in ["2001:db8:bb::/48", "2001:db8:5::/48"] {
        host.0.directs.push(("gated".parse()?, direct.parse()?));
    }
    Ok(host)
}

/// The same with enough sources for a lookup in the trie.
pub(crate) fn host_of_many(name: &str, role: Role) -> Result<Host> {
    let more = (0..100_u128).map(|number| {
        let address = address("2001:db8:f000::").to_bits() | number << 64;
        let prefix = Prefix::containing(Ipv6Addr::from_bits(address), 64);
        Ok((prefix, "plain".parse()?, Home::Nowhere, SourceKind::Own))
    });
    Ok(host(name, role)?.sources(more.collect::<Result<Vec<_>>>()?))
}

/// Changes of counters: the interface or tunnel, the counter and the amount. Times are only expected to be
/// set.
pub(crate) type Moves = Vec<(&'static str, Stat, u64)>;

/// A packet, and its expected result.
pub(crate) struct Golden {
    pub(crate) name: &'static str,
    pub(crate) direction: Direction,
    pub(crate) frame: Vec<u8>,
    pub(crate) verdict: i32,
    pub(crate) moves: Moves,
    /// The resulting packet; `None` if it does not change.
    pub(crate) becomes: Option<Vec<u8>>,
}

impl Golden {
    /// A frame that passes, out of the loopback interface.
    pub(crate) fn passes(
        name: &'static str,
        interface: &'static str,
        stat: Stat,
        frame: Vec<u8>,
    ) -> Self {
        let bytes = (frame.len() - ETHERNET_BYTES) as u64;
        Self {
            name,
            direction: Direction::Egress,
            moves: vec![(interface, stat, 1), (interface, Stat::OutBytes, bytes)],
            frame,
            verdict: NEXT,
            becomes: None,
        }
    }

    /// A frame that does not pass.
    pub(crate) fn caught(
        name: &'static str,
        (verdict, interface, caught): (i32, &'static str, Stat),
        (tunnel, leak): (&'static str, Stat),
        frame: Vec<u8>,
    ) -> Self {
        Self {
            name,
            direction: Direction::Egress,
            frame,
            verdict,
            moves: vec![(interface, caught, 1), (tunnel, leak, 1)],
            becomes: None,
        }
    }

    /// A leak from net0 into a tunnel.
    pub(crate) fn redirected(name: &'static str, tunnel: &'static str, frame: Vec<u8>) -> Self {
        Self::caught(
            name,
            (REDIRECT, "net0", Stat::VerdictRedirected),
            (tunnel, Stat::LeakRedirected),
            frame,
        )
    }

    /// An oversized leak from net0.
    pub(crate) fn too_big(
        name: &'static str,
        verdict: i32,
        tunnel: &'static str,
        frame: Vec<u8>,
    ) -> Self {
        Self::caught(
            name,
            (verdict, "net0", Stat::VerdictTooBig),
            (tunnel, Stat::LeakTooBig),
            frame,
        )
    }

    /// A frame that arrives at the loopback interface.
    pub(crate) fn arrives(name: &'static str, interface: &'static str, frame: Vec<u8>) -> Self {
        let bytes = (frame.len() - ETHERNET_BYTES) as u64;
        Self {
            name,
            direction: Direction::Ingress,
            moves: vec![
                (interface, Stat::InPackets, 1),
                (interface, Stat::InBytes, bytes),
            ],
            frame,
            verdict: NEXT,
            becomes: None,
        }
    }

    pub(crate) fn and(mut self, interface: &'static str, stat: Stat) -> Self {
        self.moves.push((interface, stat, 1));
        self
    }

    pub(crate) fn becoming(mut self, packet: Vec<u8>) -> Self {
        self.becomes = Some(packet);
        self
    }

    pub(crate) fn check(&self, programs: &Programs) -> Result<()> {
        let before = read(programs)?;
        let run = programs.run(self.direction, &self.frame, 1)?;
        let after = read(programs)?;
        ensure!(run.verdict == self.verdict, "verdict {}", run.verdict);
        let packet = self.becomes.as_ref().unwrap_or(&self.frame);
        ensure!(
            run.packet == *packet,
            "the packet became\n{:02x?}\nand not\n{packet:02x?}",
            run.packet
        );
        let mut moves = self.moves.clone();
        for (name, counters) in &after {
            for stat in Stat::ALL.iter().copied() {
                let there = counters[stat.index()];
                let moved = there - before[name][stat.index()];
                let expected = moves
                    .extract_if(.., |(on, what, _)| on == name && *what == stat)
                    .next();
                let said = expected.map_or(0, |(_, _, amount)| amount);
                let right = if stat.is_time() && said != 0 {
                    there != 0
                } else {
                    moved == said
                };
                ensure!(
                    right,
                    "{name}: {} moved by {moved}, not {said}",
                    stat.name()
                );
            }
        }
        ensure!(moves.is_empty(), "no such counters: {moves:?}");
        if self.direction == Direction::Egress {
            let verdicts = |all: &BTreeMap<String, Counters>| -> u64 {
                let each = |counters: &Counters| Stat::VERDICTS.map(|stat| counters[stat.index()]);
                all.values().flat_map(each).sum()
            };
            ensure!(
                verdicts(&after) - verdicts(&before) == 1,
                "more or less than one verdict was counted"
            );
        }
        Ok(())
    }
}

pub(crate) fn read(programs: &Programs) -> Result<BTreeMap<String, Counters>> {
    let slots = programs.kernel.slots();
    slots
        .iter()
        .map(|(name, slot)| Ok((name.to_string(), programs.kernel.counters(*slot)?)))
        .collect()
}

/// Checks the packets on a host with few sources and on one with many.
pub(crate) fn check_all(name: &str, role: Role, all: &[Golden]) -> Result<()> {
    let mut programs = Programs::load()?;
    println!("loaded in {:?}", programs.load_time);
    let mut wrong = Vec::new();
    for (sources, host) in [
        ("few", host(name, role)?),
        ("many", host_of_many(name, role)?),
    ] {
        programs.kernel.write_maps(&host.0)?;
        for golden in all {
            if let Err(error) = golden.check(&programs) {
                wrong.push(format!("{} ({sources} sources): {error:#}", golden.name));
            }
        }
    }
    ensure!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    Ok(())
}

/// A UDP packet in an Ethernet frame.
pub(crate) fn from_to(from: &str, to: &str) -> Vec<u8> {
    wire(&ipv6(address(from), address(to), UDP, &udp(4000, 64)))
}

/// A packet to the outside in an Ethernet frame.
pub(crate) fn out(from: &str, next_header: u8, payload: &[u8]) -> Vec<u8> {
    wire(&ipv6(address(from), address(OUTSIDE), next_header, payload))
}

pub(crate) fn wire(packet: &[u8]) -> Vec<u8> {
    ethernet(&[], IPV6_TYPE, packet)
}
