//! The kernel carries out plans: the result of each step is known, in plans of any size.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sixxs_core::routing::desired::RouteKey;
use sixxs_core::routing::plan::{Route, RouteTarget};
use sixxs_core::routing::{Plan, Step};
use sixxs_core::types::{Metric, Prefix, TableId};
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::lab::{Lab, Spec};
use sixxs_tests::wait;
use sixxs_user::netlink::{FilterTrace, Netlink};

/// Step with this number: an `unreachable` route in a table of its own.
fn step(number: u16) -> Step {
    let destination = std::net::Ipv6Addr::new(0x2001, 0xdb8, 0x77, number, 0, 0, 0, 0);
    Step::AddRoute(Route {
        key: RouteKey {
            table: TableId(77),
            metric: Metric(1),
            destination: Prefix::containing(destination, 64),
            source: Prefix::ALL,
        },
        to: RouteTarget::Unreachable,
    })
}

/// More steps than fit into one call. Some fail, among them the first and the last of a call.
#[test]
fn each_step_is_accounted_for() -> Result<()> {
    let lab = Lab::new(Spec::new(Flavour::Tun))?;
    let occupied = [0, 63, 64, 100, 199];
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start a runtime")?;
        runtime.block_on(async {
            let mut netlink = Netlink::open()?;
            let mut apply = async |numbers: &mut dyn Iterator<Item = u16>| {
                let steps = numbers.map(step).collect();
                netlink
                    .apply(&Plan {
                        steps,
                        ..Plan::default()
                    })
                    .await
            };
            let first = apply(&mut occupied.into_iter()).await;
            let then = apply(&mut (0..200)).await;
            Ok((first, then))
        })
    };
    let (first, then) = lab.host().run(run)?;
    assert_eq!((first.done.len(), first.failed.len()), (5, 0), "{first:?}");
    let failed: Vec<_> = then
        .failed
        .iter()
        .map(|failure| failure.step.clone())
        .collect();
    assert_eq!(failed, occupied.map(step));
    assert!(
        then.failed[0].reason.contains("File exists"),
        "{:?}",
        then.failed
    );
    let done: Vec<_> = (0..200)
        .filter(|number| !occupied.contains(number))
        .map(step)
        .collect();
    assert_eq!(then.done, done);
    let there = lab.host().sh("ip -6 route show table 77")?;
    assert_eq!(there.lines().count(), 200);
    Ok(())
}

/// The table that marks packets for nftables' tracing belongs to the trace.
#[test]
fn a_trace_of_filters_leaves_no_table() -> Result<()> {
    let lab = Lab::new(Spec::new(Flavour::Tun))?;
    let host = lab.host();
    let pair = ["2001:db8::1", "2001:db8::2"].map(str::parse);
    let [one, other] = pair;
    let pair = [one?, other?];
    let before = host.sh("nft list tables")?;
    let trace = host.run(|| FilterTrace::start(pair, 58))?;
    let marked = host.sh("nft list table ip6 sixxs_trace")?;
    for line in [
        "flags owner",
        "type filter hook prerouting priority -1000; policy accept;",
        "type filter hook output priority -1000; policy accept;",
        "ip6 nexthdr ipv6-icmp ip6 saddr 2001:db8::1 ip6 daddr 2001:db8::2 meta nftrace set 1",
        "ip6 nexthdr ipv6-icmp ip6 saddr 2001:db8::2 ip6 daddr 2001:db8::1 meta nftrace set 1",
    ] {
        ensure!(marked.contains(line), "{line}: {marked}");
    }
    ensure!(trace.drops()?.is_empty());
    drop(trace);
    let limit = Duration::from_secs(2);
    wait::until(
        "the table is gone",
        limit,
        || host.sh("nft list tables"),
        |tables| *tables == before,
    )?;
    Ok(())
}
