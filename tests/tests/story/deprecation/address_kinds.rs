//! Only the preferred lifetime of an address changes, for addresses of all kinds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use super::{
    FAILING, FOREVER, LIMIT, addresses, is_deprecated, lifetimes, refuse, routes, start,
    wait_until, with_two_links, without_lifetimes,
};

/// Whether a lifetime is what is left of another one after some time.
fn is_left(now: u64, before: u64, passed: Duration) -> bool {
    // The kernel counts whole seconds, and each reading and each change may round.
    const ROUNDING: u64 = 3;
    match before {
        FOREVER => now == FOREVER,
        before => now.abs_diff(before.saturating_sub(passed.as_secs())) <= ROUNDING,
    }
}

/// Addresses of all kinds, with their options.
const KINDS: [(&str, &str); 6] = [
    ("2001:db8:a::3", "/64 nodad valid_lft 600 preferred_lft 300"),
    ("2001:db8:a::4", "/64 nodad preferred_lft 300"),
    ("2001:db8:a::5", "/64 nodad preferred_lft 0"),
    (
        "2001:db8:a::6",
        " peer 2001:db8:a::66/128 nodad home metric 77",
    ),
    ("2001:db8:a::7", "/64 nodad noprefixroute mngtmpaddr"),
    (
        "2001:db8:a7::8",
        "/64 nodad valid_lft 600 preferred_lft 300",
    ),
];

/// Other software has deprecated it.
const FOREIGN: &str = "2001:db8:a::5";

/// `ip -6 -d address` and the routes are the same before and after, and only lifetimes differ in between.
#[test]
fn only_the_preferred_lifetime_changes() -> Result<()> {
    let fixture = with_two_links(Hook::Auto, true)?;
    let host = fixture.host();
    for (address, options) in KINDS {
        let add = format!("ip -6 address add {address}{options}");
        host.sh(&add.replacen(" nodad", &format!(" dev {FAILING} nodad"), 1))?;
    }
    // The prefix of the last one is not on the link.
    host.sh(&format!("ip -6 route del 2001:db8:a7::/64 dev {FAILING}"))?;
    let daemon = start(&fixture)?;
    let (read, before) = (Instant::now(), addresses(host, FAILING)?);
    let routes_before = routes(host)?;
    ensure!(before.len() == 1 + KINDS.len(), "{before:#?}");
    refuse(&fixture, "add")?;
    wait_until(&fixture, true, &[]).with_context(|| daemon.log())?;
    let is_same = |info, before| without_lifetimes(info) == without_lifetimes(before);
    let deprecated = addresses(host, FAILING)?;
    ensure!(deprecated.len() == before.len());
    for (name, info) in &deprecated {
        ensure!(is_same(info, &before[name]), "{info:#}\n{:#}", before[name]);
        let [[_, valid], [_, was]] = [lifetimes(info)?, lifetimes(&before[name])?];
        ensure!(is_left(valid, was, read.elapsed()), "{info:#}");
    }
    ensure!(routes(host)? == routes_before);
    refuse(&fixture, "del")?;
    wait_until(&fixture, false, &[FOREIGN]).with_context(|| daemon.log())?;
    let after = addresses(host, FAILING)?;
    ensure!(after.len() == before.len());
    for (name, info) in &after {
        ensure!(is_same(info, &before[name]), "{info:#}\n{:#}", before[name]);
        let passed = read.elapsed();
        let both = lifetimes(info)?.into_iter().zip(lifetimes(&before[name])?);
        for (now, was) in both {
            ensure!(is_left(now, was, passed), "{passed:?}: {info:#}\n{was}");
        }
    }
    ensure!(is_deprecated(&after[FOREIGN]), "{:#}", after[FOREIGN]);
    ensure!(routes(host)? == routes_before);
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// The kernel would replace a route of other software, or add one that other software has removed.
#[test]
fn routes_of_other_software_stay() -> Result<()> {
    let fixture = with_two_links(Hook::Auto, true)?;
    let host = fixture.host();
    let [removed, beside] = ["2001:db8:a8::", "2001:db8:a9::"];
    for prefix in [removed, beside] {
        host.sh(&format!(
            "ip -6 address add {prefix}9/64 dev {FAILING} nodad"
        ))?;
    }
    host.sh(&format!("ip -6 route del {removed}/64 dev {FAILING}"))?;
    host.sh(&format!(
        "ip -6 route add {beside}/64 dev {FAILING} metric 100 proto static"
    ))?;
    let daemon = start(&fixture)?;
    let (before, routes_before) = (addresses(host, FAILING)?, routes(host)?);
    refuse(&fixture, "add")?;
    let last = format!("{beside}9");
    let others = |all: &BTreeMap<String, Value>| {
        let mut others = all.iter().filter(|(name, _)| **name != last);
        others.all(|(_, info)| is_deprecated(info))
    };
    let seen = || addresses(host, FAILING);
    wait::until("the others are deprecated", LIMIT, seen, others)?;
    fixture
        .program
        .status_until("it is a problem", |status| {
            let problem = format!("deprecate {last}: the kernel would change the route");
            status.problems.iter().any(|found| found.contains(&problem))
        })
        .with_context(|| daemon.log())?;
    ensure!(seen()?[&last] == before[&last] && routes(host)? == routes_before);
    refuse(&fixture, "del")?;
    wait_until(&fixture, false, &[]).with_context(|| daemon.log())?;
    let mut after = seen()?;
    let flag = &mut after
        .get_mut(&format!("{removed}9"))
        .context("an address")?["noprefixroute"];
    ensure!(flag.take() == true);
    let mut expected = before;
    expected
        .get_mut(&format!("{removed}9"))
        .context("an address")?["noprefixroute"] = Value::Null;
    ensure!(after == expected && routes(host)? == routes_before);
    fixture
        .program
        .status_until("it is no problem any more", |status| {
            status.problems.is_empty()
        })?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}
