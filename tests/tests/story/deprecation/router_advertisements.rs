//! Router advertisements set the lifetimes of addresses.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::lab::advertiser::Advertised;
use sixxs_tests::lab::netns::Namespace;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;
use sixxs_tests::program::status::Status;
use sixxs_tests::wait;

use super::{
    FAILING, LIMIT, addresses, alerts, config, is_deprecated, lifetimes, refuse, routes, start,
    wait_until, without_lifetimes,
};
use crate::fixture::Fixture;
use crate::two_providers::{advertises, take_addresses};

/// The routes to the advertised prefix, with the kernel's flags (`RTF_…`): some mark a route as that of the router
/// advertisements.
fn route_flags(host: &Namespace) -> Result<Vec<String>> {
    let table = host.run(|| {
        let table = std::fs::read_to_string("/proc/thread-self/net/ipv6_route");
        table.context("read the routes")
    })?;
    let its = table
        .lines()
        .filter(|line| line.starts_with("20010db8000a0000") && line.ends_with(FAILING));
    // Without the counts of uses.
    let columns = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [to, bits, .., metric, _, _, flags, _] = words[..] else {
            anyhow::bail!("{line}");
        };
        Ok([to, bits, metric, flags].join(" "))
    };
    its.map(columns).collect()
}

/// A router refreshes the lifetimes every three seconds, also while the link fails.
#[test]
fn router_advertisements_while_a_link_fails() -> Result<()> {
    const ADVERTISED: u32 = 300;
    let fixture = Fixture::new(Flavour::Veth, Hook::Auto)?;
    fixture.lab.write_config(&config(true))?;
    take_addresses(&fixture)?;
    let host = fixture.host();
    // The kernel adds a temporary address (RFC 8981), and keeps its lifetimes.
    host.sysctl(&[(&format!("ipv6/conf/{FAILING}/use_tempaddr"), "2")])?;
    let prefix = |prefix| {
        [Advertised {
            prefix,
            preferred: ADVERTISED,
        }]
    };
    let _radvd = [
        advertises(&fixture, 0, &prefix("2001:db8:a::/64"))?,
        advertises(&fixture, 1, &prefix("2001:db8:b::/64"))?,
    ];
    let seen = || addresses(host, FAILING);
    wait::until("both addresses are there", LIMIT, seen, |all| {
        all.len() == 2
    })?;
    let daemon = start(&fixture)?;
    let before = seen()?;
    let (routes_before, flags_before) = (routes(host)?, route_flags(host)?);
    ensure!(!flags_before.is_empty());
    refuse(&fixture, "add")?;
    wait_until(&fixture, true, &[]).with_context(|| daemon.log())?;

    // Watches three advertisements: the longest time for which an address was preferred.
    let (mut refreshed, mut last_valid) = (0, 0);
    let (mut since, mut longest) = (None, Duration::ZERO);
    let begun = Instant::now();
    while refreshed < 3 {
        ensure!(begun.elapsed() < LIMIT * wait::patience(), "{refreshed}");
        let now = seen()?;
        let valid = now.values().map(lifetimes).collect::<Result<Vec<_>>>()?;
        let valid = valid.iter().map(|[_, valid]| *valid).max().unwrap_or(0);
        refreshed += u32::from(valid > last_valid && last_valid > 0);
        last_valid = valid;
        if now.values().all(is_deprecated) {
            since = None;
        } else {
            let since = *since.get_or_insert_with(Instant::now);
            longest = longest.max(since.elapsed());
        }
    }
    println!("preferred for {longest:?} at most");
    ensure!(
        longest < Duration::from_secs(1) * wait::patience(),
        "{longest:?}"
    );
    wait_until(&fixture, true, &[])?;
    // One alert, not one per advertisement.
    ensure!(alerts(&fixture)?.len() == 1, "{:?}", alerts(&fixture)?);

    refuse(&fixture, "del")?;
    // An advertisement makes the addresses preferred, too, until the daemon deprecates them again.
    let is_undone = |status: &Status| status.tunnel(FAILING).deprecated.is_empty();
    fixture.program.status_until("it is undone", is_undone)?;
    wait_until(&fixture, false, &[]).with_context(|| daemon.log())?;
    let after = seen()?;
    for (name, info) in &after {
        // That of the newest advertisement.
        let [preferred, _] = lifetimes(info)?;
        let newest = u64::from(ADVERTISED).saturating_sub(preferred);
        ensure!(newest < 20 * u64::from(wait::patience()), "{info:#}");
        let expected = before.get(name).map(without_lifetimes);
        ensure!(Some(without_lifetimes(info)) == expected, "{info:#}");
    }
    ensure!(routes(host)? == routes_before);
    let flags = route_flags(host)?;
    ensure!(flags == flags_before, "{flags_before:?}, then {flags:?}");
    ensure!(daemon.stop()? == 0);
    Ok(())
}
