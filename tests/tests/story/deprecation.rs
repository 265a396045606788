//! While a link fails, its addresses are deprecated, so that new connections use those of the other link. Afterwards
//! everything is as before.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::lab::advertiser::Advertised;
use sixxs_tests::lab::netns::Namespace;
use sixxs_tests::lab::topology::{Flavour, GATEWAY, OUTSIDE, TUNNELS, UPLINK};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::probe::service::{TCP_PORT, read_pattern, write_pattern};
use sixxs_tests::probe::{self, PingStream};
use sixxs_tests::program::{Daemon, Hook};
use sixxs_tests::wait;

use crate::fixture::Fixture;
use crate::two_providers::{advertises, take_addresses};

/// A change counts after one second, or after five; then the daemon runs a round.
const LIMIT: Duration = Duration::from_secs(20);

/// Missing replies count for half a minute.
const ANSWERS_LIMIT: Duration = Duration::from_secs(60);

const OPTION: &str = "deprecate_when_failing = true\n";

/// A foreign rule that refuses the packets of the first link: it fails.
const REFUSAL: &str = "from 2001:db8:a::/64 priority 100 prohibit";

/// The link that fails.
const FAILING: &str = "sixxs0";

const FOREVER: u64 = 4_294_967_295;

/// Both links, with the addresses of the lab or `"auto"`.
fn config(is_auto: bool) -> String {
    let link = |plan: &sixxs_tests::lab::topology::TunnelPlan| {
        let (address, gateway) = match is_auto {
            true => ("auto".to_owned(), "auto".to_owned()),
            false => (format!("{}/64", plan.address), GATEWAY.to_string()),
        };
        format!(
            "[[link]]\nname = \"{}\"\nkind = \"interface\"\naddress = \"{address}\"\ngateway = \"{gateway}\"\n{OPTION}\n",
            plan.interface
        )
    };
    TUNNELS.iter().map(link).collect()
}

/// A host with two links and no other uplink. The default route leads to the first one.
fn with_two_links(hook: Hook, is_auto: bool) -> Result<Fixture> {
    let fixture = Fixture::new(Flavour::Veth, hook)?;
    fixture.lab.write_config(&config(is_auto))?;
    let host = fixture.host();
    host.sh(&format!("ip link set {UPLINK} down"))?;
    for (plan, metric) in TUNNELS.iter().zip([1024, 2048]) {
        let via = format!("via {GATEWAY} dev {}", plan.interface);
        host.sh(&format!("ip -6 route add default {via} metric {metric}"))?;
    }
    Ok(fixture)
}

fn start(fixture: &Fixture) -> Result<Daemon> {
    let daemon = fixture.start()?;
    fixture
        .program
        .status_until("all is healthy", |status| status.healthy)
        .with_context(|| daemon.log())?;
    Ok(daemon)
}

/// The source address that a program gets which selects none.
fn selected_source(host: &Namespace) -> Result<Ipv6Addr> {
    let udp = host.run(|| {
        let socket = UdpSocket::bind("[::]:0")?;
        socket.connect(SocketAddrV6::new(OUTSIDE, 9, 0, 0))?;
        Ok(socket.local_addr()?.ip())
    })?;
    let IpAddr::V6(udp) = udp else {
        anyhow::bail!("{udp}");
    };
    Ok(udp)
}

/// The same for TCP, with a transfer.
fn transfer_with_selected_source(host: &Namespace) -> Result<Ipv6Addr> {
    let stream = host.run(|| {
        let to = SocketAddrV6::new(OUTSIDE, TCP_PORT, 0, 0);
        TcpStream::connect_timeout(&to.into(), LIMIT).context("connect")
    })?;
    let IpAddr::V6(source) = stream.local_addr()?.ip() else {
        anyhow::bail!("{stream:?}");
    };
    transfer(stream)?;
    Ok(source)
}

/// Transfers data in both directions.
fn transfer(mut stream: TcpStream) -> Result<()> {
    const BYTES: u64 = 500_000;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    for _ in 0..2 {
        stream.write_all(&BYTES.to_be_bytes())?;
    }
    write_pattern(&mut stream, BYTES)?;
    read_pattern(&mut stream, BYTES)
}

/// The global addresses of an interface, as `ip` shows them.
fn addresses(host: &Namespace, interface: &str) -> Result<BTreeMap<String, Value>> {
    let shown = host.sh(&format!(
        "ip -j -6 -d address show dev {interface} scope global"
    ))?;
    let shown: Value = serde_json::from_str(&shown).context("read the output of ip")?;
    let all = shown[0]["addr_info"].as_array().cloned();
    // It prints an empty object for an address that it leaves out.
    let named = all.unwrap_or_default().into_iter().filter_map(|info| {
        let name = info["local"].as_str()?.to_owned();
        Some((name, info))
    });
    Ok(named.collect())
}

fn is_deprecated(info: &Value) -> bool {
    info["deprecated"] == true && info["preferred_life_time"] == 0
}

/// An address without its lifetimes. At one with a limited valid lifetime, the flag `noprefixroute` has no effect.
fn without_lifetimes(info: &Value) -> Value {
    let is_dynamic = info["dynamic"] == true;
    let mut info = info.clone();
    if let Some(keys) = info.as_object_mut() {
        for key in ["deprecated", "preferred_life_time", "valid_life_time"] {
            keys.remove(key);
        }
        if is_dynamic {
            keys.remove("noprefixroute");
        }
    }
    info
}

/// The routes of the failing link, except those of sixxs, without the times at which they end.
fn routes(host: &Namespace) -> Result<Vec<Value>> {
    let shown = host.sh(&format!("ip -j -6 -d route show table all dev {FAILING}"))?;
    let mut routes: Vec<Value> = serde_json::from_str(&shown).context("read the output of ip")?;
    for route in &mut routes {
        if let Some(keys) = route.as_object_mut() {
            keys.remove("expires");
        }
    }
    routes.retain(|route| route["protocol"] != "116");
    routes.sort_by_key(Value::to_string);
    Ok(routes)
}

/// Waits until all addresses of the failing link are deprecated, or none is except these.
fn wait_until(fixture: &Fixture, deprecated: bool, except: &[&str]) -> Result<()> {
    wait_longer_until(fixture, deprecated, except, LIMIT)
}

fn wait_longer_until(
    fixture: &Fixture,
    deprecated: bool,
    except: &[&str],
    limit: Duration,
) -> Result<()> {
    let what = match deprecated {
        true => "the addresses are deprecated",
        false => "the addresses are preferred again",
    };
    wait::until(
        what,
        limit,
        || addresses(fixture.host(), FAILING),
        |all| {
            let is_other = |(name, _): &(&String, _)| !except.contains(&name.as_str());
            let mut others = all.iter().filter(is_other);
            !all.is_empty() && others.all(|(_, info)| is_deprecated(info) == deprecated)
        },
    )?;
    Ok(())
}

fn refuse(fixture: &Fixture, verb: &str) -> Result<()> {
    fixture.host().sh(&format!("ip -6 rule {verb} {REFUSAL}"))?;
    Ok(())
}

/// The alerts about the addresses of the failing link: whether they are deprecated, and why.
fn alerts(fixture: &Fixture) -> Result<Vec<(bool, String)>> {
    let (_, alerts) = fixture.program.json(&["alerts"])?;
    let ours = alerts
        .iter()
        .filter(|alert| alert["kind"] == "deprecation" && alert["tunnel"] == FAILING);
    let alert = |alert: &Value| {
        let reason = alert["reason"].as_str().unwrap_or_default().to_owned();
        (alert["deprecated"] == true, reason)
    };
    Ok(ours.map(alert).collect())
}

variants!(new_connections_use_the_other_link: tcx(Veth, Auto), clsact(Veth, Clsact));

fn new_connections_use_the_other_link(_: Flavour, hook: Hook) -> Result<()> {
    let fixture = with_two_links(hook, false)?;
    let [first, second] = fixture.lab.tunnels().each_ref().map(|tunnel| tunnel.plan);
    let daemon = start(&fixture)?;
    let host = fixture.host();
    ensure!(selected_source(host)? == first.address);
    ensure!(transfer_with_selected_source(host)? == first.address);
    let present = leak::tcp_connect(host, first.address, Cause::Rules, OUTSIDE, LIMIT)?;
    let all = || {
        TUNNELS
            .each_ref()
            .map(|plan| addresses(host, plan.interface))
    };
    let [before, other_before] = all();
    let (before, other_before, routes_before) = (before?, other_before?, routes(host)?);

    // Replies get lost.
    host.sh("nft add table ip6 f")?;
    host.sh("nft add chain ip6 f o { type filter hook output priority 0; }")?;
    let lost = format!("ip6 saddr {} icmpv6 type echo-reply drop", first.address);
    host.sh(&format!("nft add rule ip6 f o {lost}"))?;
    let pings = PingStream::start(
        fixture.lab.outside(),
        first.address,
        Duration::from_millis(100),
    )?;
    wait_longer_until(&fixture, true, &[], ANSWERS_LIMIT).with_context(|| daemon.log())?;
    ensure!(selected_source(host)? == second.address);
    ensure!(transfer_with_selected_source(host)? == second.address);
    transfer(present.into()).context("a present connection")?;
    probe::tcp_transfer(
        fixture.lab.outside(),
        first.address,
        500_000,
        500_000,
        LIMIT,
    )?;
    let [deprecated, other] = all();
    ensure!(other? == other_before);
    for (name, info) in &deprecated? {
        let expected = before.get(name).map(without_lifetimes);
        ensure!(Some(without_lifetimes(info)) == expected, "{info:#}");
        ensure!(info["valid_life_time"] == FOREVER, "{info:#}");
    }
    ensure!(routes(host)? == routes_before);
    let status = fixture.program.status()?;
    ensure!(status.tunnel(FAILING).deprecated == [first.address.to_string()]);
    ensure!(status.tunnel(second.interface).deprecated.is_empty());
    let shown = fixture.program.run(&["status"])?.stdout;
    ensure!(
        shown.contains(&format!("{} (deprecated)", first.address)),
        "{shown}"
    );
    let told = alerts(&fixture)?;
    let [(true, reason)] = &told[..] else {
        anyhow::bail!("{told:?}");
    };
    ensure!(reason.contains("echo requests got no reply"), "{reason}");

    host.sh("nft delete table ip6 f")?;
    wait_longer_until(&fixture, false, &[], ANSWERS_LIMIT).with_context(|| daemon.log())?;
    let [after, other] = all();
    ensure!((after?, other?, routes(host)?) == (before, other_before, routes_before));
    ensure!(selected_source(host)? == first.address);
    ensure!(transfer_with_selected_source(host)? == first.address);
    let told = alerts(&fixture)?;
    ensure!(
        told.len() == 2 && told[1] == (false, "it does not fail any more".to_owned()),
        "{told:?}"
    );
    ensure!(
        fixture
            .program
            .status()?
            .tunnel(FAILING)
            .deprecated
            .is_empty()
    );
    pings.stop()?;
    fixture.ensure_nothing_lost()?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

#[test]
fn a_link_without_carrier() -> Result<()> {
    let fixture = with_two_links(Hook::Auto, false)?;
    let [first, second] = fixture.lab.tunnels();
    let daemon = start(&fixture)?;
    let host = fixture.host();
    first.pop().sh("ip link set host down")?;
    wait_until(&fixture, true, &[])?;
    ensure!(selected_source(host)? == second.plan.address);
    first.pop().sh("ip link set host up")?;
    wait_until(&fixture, false, &[])?;
    ensure!(selected_source(host)? == first.plan.address);
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// Both links fail: all addresses are equal again.
#[test]
fn all_links_fail() -> Result<()> {
    let fixture = with_two_links(Hook::Auto, false)?;
    let daemon = start(&fixture)?;
    let host = fixture.host();
    let refusals = [REFUSAL, "from 2001:db8:b::/64 priority 100 prohibit"];
    for refusal in refusals {
        host.sh(&format!("ip -6 rule add {refusal}"))?;
    }
    wait_until(&fixture, true, &[])?;
    wait::until(
        "the other link fails too",
        LIMIT,
        || addresses(host, TUNNELS[1].interface),
        |all| all.values().all(is_deprecated),
    )?;
    ensure!(selected_source(host)? == TUNNELS[0].address);
    for refusal in refusals {
        host.sh(&format!("ip -6 rule del {refusal}"))?;
    }
    wait_until(&fixture, false, &[])?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// The lifetimes of an address, in seconds: preferred, valid.
fn lifetimes(info: &Value) -> Result<[u64; 2]> {
    let lifetime = |key: &str| info[key].as_u64().with_context(|| format!("{key}: {info}"));
    Ok([
        lifetime("preferred_life_time")?,
        lifetime("valid_life_time")?,
    ])
}

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

#[test]
fn it_is_undone_without_the_option_and_at_the_end() -> Result<()> {
    let fixture = with_two_links(Hook::Auto, false)?;
    let host = fixture.host();
    let before = addresses(host, FAILING)?;
    let is_undone = |why: &str| -> Result<()> {
        let now = addresses(host, FAILING)?;
        ensure!(now == before, "{why}: {now:#?}");
        Ok(())
    };
    let mut daemon = start(&fixture)?;
    refuse(&fixture, "add")?;
    wait_until(&fixture, true, &[])?;
    // The answer comes after the round.
    let whole = config(false);
    fixture.lab.write_config(&whole.replacen(OPTION, "", 1))?;
    fixture.program.run_ok(&["reload"])?;
    is_undone("reload")?;
    fixture.lab.write_config(&whole)?;
    fixture.program.run_ok(&["reload"])?;
    wait_until(&fixture, true, &[])?;
    fixture.program.run_ok(&["stop", FAILING])?;
    is_undone("stop")?;
    fixture.program.run_ok(&["start", FAILING])?;
    wait_until(&fixture, true, &[])?;
    let reasons: Vec<_> = alerts(&fixture)?
        .into_iter()
        .filter_map(|(deprecated, reason)| (!deprecated).then_some(reason))
        .collect();
    ensure!(
        reasons == ["`deprecate_when_failing` is off", "it is stopped"],
        "{reasons:?}"
    );
    let log = daemon.log();
    ensure!(
        log.contains("preferred again: 2001:db8:a::2: it is stopped"),
        "{log}"
    );
    ensure!(daemon.stop()? == 0);
    is_undone("the end by a signal")?;
    ensure!(!record(&fixture).exists());
    daemon = fixture.start()?;
    wait_until(&fixture, true, &[])?;
    fixture.program.run_ok(&["down"])?;
    ensure!(daemon.wait()? == 0);
    is_undone("down")
}

fn record(fixture: &Fixture) -> std::path::PathBuf {
    fixture.lab.paths().run().join("deprecated")
}

#[test]
fn after_a_crash() -> Result<()> {
    let fixture = with_two_links(Hook::Auto, false)?;
    let host = fixture.host();
    let before = addresses(host, FAILING)?;
    let daemon = start(&fixture)?;
    refuse(&fixture, "add")?;
    wait_until(&fixture, true, &[])?;
    daemon.kill()?;
    ensure!(record(&fixture).exists());

    // It still fails: the next daemon keeps it, and knows the former lifetime.
    let daemon = fixture.start()?;
    let status = fixture.program.status()?;
    ensure!(status.tunnel(FAILING).deprecated.len() == 1, "{status:#?}");
    wait_until(&fixture, true, &[])?;
    refuse(&fixture, "del")?;
    wait_until(&fixture, false, &[]).with_context(|| daemon.log())?;
    ensure!(addresses(host, FAILING)? == before && !record(&fixture).exists());
    let told = alerts(&fixture)?;
    ensure!(
        told == [(false, "it does not fail any more".to_owned())],
        "{told:?}"
    );

    // It has recovered meanwhile.
    refuse(&fixture, "add")?;
    wait_until(&fixture, true, &[])?;
    daemon.kill()?;
    refuse(&fixture, "del")?;
    let daemon = start(&fixture)?;
    wait_until(&fixture, false, &[]).with_context(|| daemon.log())?;
    ensure!(addresses(host, FAILING)? == before && !record(&fixture).exists());

    // No daemon starts again.
    refuse(&fixture, "add")?;
    wait_until(&fixture, true, &[])?;
    daemon.kill()?;
    fixture.program.run_ok(&["down"])?;
    ensure!(addresses(host, FAILING)? == before && !record(&fixture).exists());
    Ok(())
}

/// What other software sets while no daemon runs stays.
#[test]
fn other_software_changes_an_address_after_a_crash() -> Result<()> {
    let fixture = with_two_links(Hook::Auto, true)?;
    let host = fixture.host();
    let more = ["2001:db8:a::3", "2001:db8:a::4", "2001:db8:a::5"];
    for address in more {
        host.sh(&format!(
            "ip -6 address add {address}/64 dev {FAILING} nodad"
        ))?;
    }
    let daemon = start(&fixture)?;
    refuse(&fixture, "add")?;
    wait_until(&fixture, true, &[])?;
    daemon.kill()?;
    for (address, set) in more.into_iter().zip(["0", "500"]) {
        host.sh(&format!(
            "ip -6 address change {address}/64 dev {FAILING} nodad preferred_lft {set}"
        ))?;
    }
    // Another address with the same number.
    host.sh(&format!("ip -6 address del {}/64 dev {FAILING}", more[2]))?;
    host.sh(&format!(
        "ip -6 address add {}/64 dev {FAILING} nodad preferred_lft 0",
        more[2]
    ))?;
    fixture.program.run_ok(&["down"])?;
    let after = addresses(host, FAILING)?;
    for (address, deprecated) in more.into_iter().zip([true, false, true]) {
        ensure!(is_deprecated(&after[address]) == deprecated, "{after:#?}");
    }
    let [preferred, _] = lifetimes(&after[more[1]])?;
    ensure!((400..=500).contains(&preferred), "{after:#?}");
    let own = &after[&TUNNELS[0].address.to_string()];
    ensure!(lifetimes(own)? == [FOREVER, FOREVER], "{own:#}");
    Ok(())
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
