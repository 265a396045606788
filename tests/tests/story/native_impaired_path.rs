//! A path that loses, repeats and reorders packets: each packet that arrives is unaltered and delivered
//! once.

use std::collections::BTreeMap;
use std::net::{SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sixxs_tests::broker::Kind;
use sixxs_tests::broker::impairment::Impairment;
use sixxs_tests::lab::{Lab, Spec, Tunnel};
use sixxs_tests::probe;
use sixxs_tests::program::Hook;

use crate::fixture::Fixture;

const DATAGRAMS: u64 = 3000;

#[test]
fn loss_order_and_repeats() -> Result<()> {
    let kinds = [Kind::Ayiya, Kind::SixInFour];
    let fixture = Fixture::with_spec(Spec::native(kinds), Hook::Auto, "")?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    let bad = |seed| Impairment {
        loss: 1.0,
        reorder: 2.0,
        duplicate: 2.0,
        seed,
    };
    for (tunnel, kind) in fixture.lab.tunnels().iter().zip(kinds) {
        let pop = tunnel.broker()?;
        pop.impair(bad(1), bad(2));
        let (outside, address) = (fixture.lab.outside(), tunnel.plan.address);
        let limit = Duration::from_secs(20);
        let took = probe::tcp_transfer(outside, address, 1_000_000, 1_000_000, limit)?;
        println!("{}: a megabyte each way in {took:?}", kind.name());

        let before = pop.impaired()[1];
        let received = numbered(&fixture.lab, tunnel)?;
        let after = pop.impaired()[1];
        let lost = after.lost - before.lost;
        assert!(lost > 0 && after.duplicated > before.duplicated && after.reordered > 0);
        let distinct = received.len() as u64;
        // Some of the lost packets may belong to TCP, which retransmits on a busy machine.
        let expected = DATAGRAMS - lost..=DATAGRAMS;
        assert!(
            expected.contains(&distinct),
            "{}: {distinct} of {expected:?}",
            kind.name()
        );
        // 6in4 cannot detect duplicates: that is left to the inner protocols.
        if kind == Kind::Ayiya {
            let twice: Vec<_> = received.iter().filter(|(_, count)| **count > 1).collect();
            assert!(twice.is_empty(), "{twice:?}");
        }
        pop.impair(Impairment::default(), Impairment::default());
    }
    fixture.wait_until_up()?;
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Sends numbered datagrams through a tunnel to the host. Returns how many times each one arrived.
fn numbered(lab: &Lab, tunnel: &Tunnel) -> Result<BTreeMap<u64, u32>> {
    /// Number of datagrams that are sent before the receiver reads.
    const BURST: u64 = 30;
    let address = tunnel.plan.address;
    let open = |at| move || UdpSocket::bind(SocketAddrV6::new(at, 0, 0, 0)).context("open");
    let to_host = lab.host().run(open(address))?;
    let from = lab.outside().run(open(std::net::Ipv6Addr::UNSPECIFIED))?;
    from.connect(to_host.local_addr()?)?;
    let quiet = Duration::from_millis(300);
    let mut received = BTreeMap::new();
    let mut take = |patience: Duration, until: u64| -> Result<()> {
        let deadline = Instant::now() + patience;
        let mut last = None;
        while last.is_none_or(|last| last < until) {
            let left = deadline.saturating_duration_since(Instant::now());
            to_host.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut number = [0; 8];
            if to_host.recv(&mut number).is_err() {
                break;
            }
            let number = u64::from_be_bytes(number);
            *received.entry(number).or_default() += 1;
            last = Some(number);
        }
        Ok(())
    };
    for number in 0..DATAGRAMS {
        from.send(&number.to_be_bytes())?;
        if number % BURST == BURST - 1 {
            // The last datagrams may be lost.
            take(Duration::from_millis(15), number)?;
        }
    }
    take(quiet, u64::MAX)?;
    Ok(received)
}
