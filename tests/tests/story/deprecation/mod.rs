//! While a link fails, its addresses are deprecated, so that new connections use those of the other link. Afterwards
//! everything is as before.

mod address_kinds;
mod router_advertisements;
mod undone;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::lab::netns::Namespace;
use sixxs_tests::lab::topology::{Flavour, GATEWAY, OUTSIDE, TUNNELS, UPLINK};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::probe::service::{TCP_PORT, read_pattern, write_pattern};
use sixxs_tests::probe::{self, PingStream};
use sixxs_tests::program::{Daemon, Hook};
use sixxs_tests::wait;

use crate::fixture::Fixture;

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
    // The far end has lost the router's address. While no router answers there, the kernel may prefer the other link's route.
    let pop = first.pop();
    pop.sh(&format!("ip -6 address add {GATEWAY}/64 dev host nodad"))?;
    let router = format!("ping -c 1 -W 5 {GATEWAY}%{FAILING}");
    wait::until(
        "the router answers",
        LIMIT,
        || Ok(host.sh(&router).is_ok()),
        |answers| *answers,
    )?;
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
