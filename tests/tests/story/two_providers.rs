//! Two providers without any tunnel: each has a router that advertises a prefix, and drops foreign sources.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::lab::Tunnel;
use sixxs_tests::lab::advertiser::{self, Advertised, Advertiser};
use sixxs_tests::lab::nft;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, UPLINK};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::probe::{self, ping};
use sixxs_tests::program::Hook;
use sixxs_tests::program::status::Status;
use sixxs_tests::wait;
use socket2::{Domain, Socket, Type};

use crate::fixture::Fixture;

/// Advertisements come every four seconds.
const LIMIT: Duration = Duration::from_secs(20);

/// The prefixes of the first provider, before and after a change, and that of the second.
const FIRST: &str = "2001:db8:a::/64";
const CHANGED: &str = "2001:db8:a1::/64";
const SECOND: &str = "2001:db8:b::/64";

const PROVIDERS: [&str; 2] = ["sixxs0", "sixxs1"];

const CONFIG: &str = "\
[[link]]
name = \"sixxs0\"
kind = \"interface\"
address = \"auto\"
gateway = \"auto\"

[[link]]
name = \"sixxs1\"
kind = \"interface\"
address = \"auto\"
gateway = \"auto\"
";

pub(crate) const fn preferred(prefix: &'static str) -> Advertised {
    Advertised {
        prefix,
        preferred: 300,
    }
}

/// A host with two providers and no other uplink, whose interfaces have no addresses yet.
fn with_two_providers(hook: Hook) -> Result<Fixture> {
    let fixture = Fixture::new(Flavour::Veth, hook)?;
    fixture.lab.write_config(CONFIG)?;
    take_addresses(&fixture)?;
    let [first, _] = fixture.lab.tunnels();
    is_reached_by(&fixture, first, CHANGED)?;
    first
        .pop()
        .ip("address add 2001:db8:a1::1/64 dev host nodad\n")?;
    Ok(fixture)
}

/// Both links take their addresses from router advertisements. There is no other uplink.
pub(crate) fn take_addresses(fixture: &Fixture) -> Result<()> {
    let host = fixture.host();
    host.sh(&format!("ip link set {UPLINK} down"))?;
    for tunnel in fixture.lab.tunnels() {
        let name = tunnel.plan.interface;
        host.sh(&format!("ip -6 address flush dev {name} scope global"))?;
        host.sh(&format!("sysctl -q -w net.ipv6.conf.{name}.accept_ra=2"))?;
        host.sh(&format!("sysctl -q -w net.ipv6.conf.{name}.autoconf=1"))?;
        host.sh(&format!("ip link set dev {name} mtu 1500"))?;
        tunnel.pop().sh("ip link set dev host mtu 1500")?;
    }
    Ok(())
}

/// A provider accepts another prefix from the host, and the internet reaches that by the provider.
pub(crate) fn is_reached_by(fixture: &Fixture, provider: &Tunnel, prefix: &str) -> Result<()> {
    provider.pop().sh("nft delete table ip6 broker")?;
    nft::load(provider.pop(), &provider.plan.pop_rules(Some(prefix)))?;
    fixture.lab.core().ip(&format!(
        "route add {prefix} via fe80::2 dev {}\n",
        provider.plan.pop
    ))
}

/// A provider advertises these prefixes from now on.
pub(crate) fn advertises(
    fixture: &Fixture,
    provider: usize,
    prefixes: &[Advertised],
) -> Result<Advertiser> {
    let pop = fixture.lab.tunnels()[provider].pop();
    Advertiser::start(pop, "host", fixture.lab.paths().base(), 600, prefixes)
}

/// The addresses of a provider, by the daemon's status.
fn addresses(status: &Status, provider: &str) -> Result<Vec<Ipv6Addr>> {
    let addresses = status.tunnel(provider).addresses.iter();
    let addresses: Result<Vec<_>, _> = addresses.map(|address| address.parse()).collect();
    addresses.context("an address")
}

/// Waits until each provider has this number of addresses, with routing in place. Returns them.
fn wait_for(fixture: &Fixture, counts: [usize; 2]) -> Result<[Vec<Ipv6Addr>; 2]> {
    let status = fixture
        .program
        .status_until("addresses are there", |status| {
            let is_there = |(name, count): (&&str, usize)| {
                let tunnel = status.tunnel(name);
                tunnel.is_whole() && tunnel.addresses.len() == count
            };
            PROVIDERS.iter().zip(counts).all(is_there)
        })?;
    let [first, second] = PROVIDERS.map(|name| addresses(&status, name));
    Ok([first?, second?])
}

variants!(each_provider_gets_its_own_addresses: tcx(Veth, Auto), clsact(Veth, Clsact));

fn each_provider_gets_its_own_addresses(_: Flavour, hook: Hook) -> Result<()> {
    let fixture = with_two_providers(hook)?;
    let daemon = fixture.start()?;
    let _radvd = [
        advertises(&fixture, 0, &[preferred(FIRST)])?,
        advertises(&fixture, 1, &[preferred(SECOND)])?,
    ];
    let found = wait_for(&fixture, [1, 1]).with_context(|| daemon.log())?;
    let outside = fixture.lab.outside();
    let own: Vec<_> = found.iter().flatten().copied().collect();
    for address in &own {
        let pings = ping(outside, *address, 10)?;
        ensure!(pings.all_answered(), "{address}: {pings:?}");
        probe::tcp_transfer(outside, *address, 2_000_000, 2_000_000, LIMIT)?;
    }
    // What is sent by the wrong provider's interface is redirected to the router of the right one.
    let before = fixture.program.status()?;
    for (address, other) in [(own[0], PROVIDERS[1]), (own[1], PROVIDERS[0])] {
        let socket = leak::udp_socket(fixture.host(), address, Cause::Device(other))?;
        leak::send(&socket, OUTSIDE, 20, 100)?;
    }
    fixture.program.status_until("leaks are caught", |status| {
        PROVIDERS.iter().all(|name| {
            let caught = |status: &Status| status.tunnel(name).leaks.redirected;
            caught(status) == caught(&before) + 20
        })
    })?;
    fixture.ensure_nothing_lost()?;
    let status = fixture.program.status()?;
    ensure!(status.healthy && status.problems.is_empty(), "{status:#?}");
    let doctor = fixture.program.run(&["doctor"])?;
    ensure!(doctor.code == 0, "{}", doctor.stdout);
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// A thousand prefixes a second, for three seconds, cost neither the other link nor the host.
#[test]
fn a_flood_of_prefixes() -> Result<()> {
    const FLOOD: u16 = 3000;
    let fixture = with_two_providers(Hook::Auto)?;
    let daemon = fixture.start()?;
    let _radvd = [
        advertises(&fixture, 0, &[preferred(FIRST)])?,
        advertises(&fixture, 1, &[preferred(SECOND)])?,
    ];
    let [first, second] = wait_for(&fixture, [1, 1]).with_context(|| daemon.log())?;
    let outside = fixture.lab.outside();
    let stream = probe::PingStream::start(outside, second[0], Duration::from_millis(20))?;
    let (begun, used) = (Instant::now(), daemon.processor_time()?);
    let (memory, descriptors) = (daemon.resident_kib()?, daemon.descriptors()?);
    advertiser::flood(fixture.lab.tunnels()[0].pop(), "host", 0xf1, FLOOD)?;
    let used = daemon.processor_time()?.saturating_sub(used);
    let share = used.as_secs_f64() / begun.elapsed().as_secs_f64();
    let status = fixture.program.status()?;
    let followed = status.tunnel(PROVIDERS[0]).addresses.len();
    println!("{share:.2} of a processor, {followed} addresses");
    // The kernel stops at `max_addresses`. The daemon spaces its rounds out.
    ensure!((2..=256).contains(&followed), "{followed} addresses");
    ensure!(share < 0.5, "{share:.2} of a processor");
    let pings = stream.stop()?;
    ensure!(pings.all_answered(), "{pings:?}");
    for address in [first[0], second[0]] {
        let pings = ping(outside, address, 10)?;
        ensure!(pings.all_answered(), "{address}: {pings:?}");
    }
    wait::until(
        "memory is free again",
        LIMIT,
        || daemon.resident_kib(),
        |now| *now < memory + 8 * 1024,
    )?;
    ensure!(daemon.descriptors()? <= descriptors + 2);
    fixture.ensure_nothing_lost()?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// The first provider changes its prefix while connections of the old one continue.
#[test]
fn a_prefix_changes() -> Result<()> {
    let fixture = with_two_providers(Hook::Auto)?;
    let daemon = fixture.start()?;
    let radvd = advertises(&fixture, 0, &[preferred(FIRST)])?;
    let _second = advertises(&fixture, 1, &[preferred(SECOND)])?;
    let [first, second] = wait_for(&fixture, [1, 1]).with_context(|| daemon.log())?;
    let outside = fixture.lab.outside();
    let stream = probe::PingStream::start(outside, first[0], Duration::from_millis(20))?;
    drop(radvd);
    let old = Advertised {
        prefix: FIRST,
        preferred: 0,
    };
    let _radvd = advertises(&fixture, 0, &[old, preferred(CHANGED)])?;
    // The old address is deprecated, and stays as long as it is there.
    let [both, _] = wait_for(&fixture, [2, 1]).with_context(|| daemon.log())?;
    let new = both.iter().find(|address| !first.contains(address));
    let new = *new.context("a new address")?;
    wait::until(
        "the old one is deprecated",
        LIMIT,
        || {
            fixture
                .host()
                .sh("ip -6 -o address show dev sixxs0 deprecated")
        },
        |shown| shown.contains(&first[0].to_string()),
    )?;
    for address in [first[0], new, second[0]] {
        let pings = ping(outside, address, 10)?;
        ensure!(pings.all_answered(), "{address}: {pings:?}");
        probe::tcp_transfer(outside, address, 2_000_000, 2_000_000, LIMIT)?;
    }
    let pings = stream.stop()?;
    ensure!(pings.all_answered(), "{pings:?}");
    fixture.ensure_nothing_lost()?;

    // It goes.
    let host = fixture.host();
    host.sh(&format!("ip -6 address del {}/64 dev sixxs0", first[0]))?;
    let [left, _] = wait_for(&fixture, [1, 1])?;
    ensure!(left == [new], "{left:?}");
    // Its users get errors, and no provider gets their packets.
    let socket = host.run(|| {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
        socket.set_freebind_v6(true)?;
        socket.bind(&SocketAddrV6::new(first[0], 0, 0, 0).into())?;
        Ok(socket)
    })?;
    let sent = socket.send_to(b"lost", &SocketAddrV6::new(OUTSIDE, 9, 0, 0).into());
    let error = sent.err().context("no error")?;
    ensure!(
        error.kind() == std::io::ErrorKind::HostUnreachable,
        "{error}"
    );
    fixture.ensure_nothing_lost()?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// An address of a known network is guarded before a daemon knows it. A new daemon knows the addresses that are lost.
#[test]
fn what_a_daemon_has_not_seen() -> Result<()> {
    let fixture = with_two_providers(Hook::Auto)?;
    let daemon = fixture.start()?;
    let _radvd = [
        advertises(&fixture, 0, &[preferred(FIRST)])?,
        advertises(&fixture, 1, &[preferred(SECOND)])?,
    ];
    wait_for(&fixture, [1, 1]).with_context(|| daemon.log())?;
    let host = fixture.host();
    let set = |verb: &str, address: &str| {
        let nodad = if verb == "add" { " nodad" } else { "" };
        host.ip(&format!("address {verb} {address}/64 dev sixxs0{nodad}\n"))
    };
    set("add", "2001:db8:a::66")?;
    wait_for(&fixture, [2, 1])?;
    set("del", "2001:db8:a::66")?;
    wait_for(&fixture, [1, 1])?;
    let refused = "unreachable default from 2001:db8:a::66";
    let is_refused = || -> Result<bool> { Ok(fixture.own_routes()?.contains(refused)) };
    ensure!(is_refused()?, "{}", fixture.own_routes()?);

    daemon.kill()?;
    set("add", "2001:db8:a::77")?;
    let [first, _] = fixture.lab.tunnels();
    let came = || first.broker_counters()?.get("from_host");
    let before = came()?;
    let address = "2001:db8:a::77".parse()?;
    let socket = leak::udp_socket(host, address, Cause::Device(PROVIDERS[1]))?;
    leak::send(&socket, OUTSIDE, 20, 100)?;
    wait::until("all are redirected", LIMIT, came, |now| *now >= before + 20)?;
    fixture.ensure_nothing_lost()?;

    let daemon = fixture.start()?;
    wait_for(&fixture, [2, 1]).with_context(|| daemon.log())?;
    ensure!(is_refused()?, "{}", fixture.own_routes()?);
    ensure!(daemon.stop()? == 0);
    Ok(())
}
