//! Router advertisements set the lifetimes of addresses.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::lab::advertiser::Advertised;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use super::{
    FAILING, LIMIT, addresses, alerts, config, is_deprecated, lifetimes, refuse, routes, start,
    wait_until, without_lifetimes,
};
use crate::fixture::Fixture;
use crate::two_providers::{advertises, take_addresses};

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
    let routes_before = routes(host)?;
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
    ensure!(daemon.stop()? == 0);
    Ok(())
}
