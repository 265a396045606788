//! Prefixes that a provider delegates by DHCPv6, for a LAN behind the host: real clients, and a real server.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::delegating_server::DelegatingServer;
use sixxs_tests::lab::netns::Namespace;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE};
use sixxs_tests::network_managers::dhcpcd::Dhcpcd;
use sixxs_tests::network_managers::network_manager::NetworkManager;
use sixxs_tests::network_managers::networkd::Networkd;
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::probe::ping;
use sixxs_tests::program::Hook;
use sixxs_tests::program::status::Status;
use sixxs_tests::wait;

use crate::fixture::Fixture;
use crate::two_providers::{advertises, is_reached_by, preferred, take_addresses};

/// Clients wait some seconds before they ask, and renew their lease every three seconds.
const LIMIT: Duration = Duration::from_secs(40);

/// The prefixes that the first provider may delegate, and the pools before and after a change.
const ALL: &str = "2001:db8:100::/40";
const POOL: (&str, u8) = ("2001:db8:100::/48", 56);
const CHANGED_POOL: (&str, u8) = ("2001:db8:101::/48", 56);

/// The interface of the LAN.
const LAN: &str = "lan1";

const AUTO: &str = "prefixes = \"auto\"";

const CONFIG: &str = "\
[[link]]
name = \"sixxs0\"
kind = \"interface\"
address = \"auto\"
gateway = \"auto\"
prefixes = \"auto\"

[[link]]
name = \"sixxs1\"
kind = \"interface\"
address = \"auto\"
gateway = \"auto\"
prefixes = []
";

/// A host with two providers. The first one delegates prefixes. The LAN has no addresses yet.
fn with_delegation(config: &str) -> Result<Fixture> {
    let spec = Spec {
        lans: true,
        ..Spec::new(Flavour::Veth)
    };
    let fixture = Fixture::with_spec(spec, Hook::Auto, "")?;
    fixture.lab.write_config(config)?;
    take_addresses(&fixture)?;
    let [first, _] = fixture.lab.tunnels();
    is_reached_by(&fixture, first, ALL)?;
    let host = fixture.host();
    let of_host = link_local(host, "sixxs0")?;
    first
        .pop()
        .ip(&format!("route add {ALL} via {of_host} dev host\n"))?;
    host.sh(&format!("ip -6 address flush dev {LAN} scope global"))?;
    host.sh("sysctl -q -w net.ipv6.conf.all.forwarding=1")?;
    Ok(fixture)
}

fn link_local(at: &Namespace, interface: &str) -> Result<Ipv6Addr> {
    address_of(at, interface, "scope link")?.context("no link-local address")
}

/// The first address of an interface.
fn address_of(at: &Namespace, interface: &str, which: &str) -> Result<Option<Ipv6Addr>> {
    let shown = at.sh(&format!(
        "ip -6 -oneline address show dev {interface} {which}"
    ))?;
    let mut words = shown.split_whitespace().skip_while(|word| *word != "inet6");
    let Some(address) = words.nth(1) else {
        return Ok(None);
    };
    let (address, _) = address.split_once('/').context("an address")?;
    Ok(Some(address.parse()?))
}

fn delegates(fixture: &Fixture, pool: (&str, u8)) -> Result<DelegatingServer> {
    let pop = fixture.lab.tunnels()[0].pop();
    let directory = fixture.lab.paths().base();
    DelegatingServer::start(pop, "host", directory, "2001:db8:a::/64", pool)
}

/// Waits until the first link has one prefix, inside this one. Returns it.
fn wait_for_prefix(fixture: &Fixture, inside: &str) -> Result<String> {
    let start = inside.trim_end_matches("::/48");
    let is_there = |status: &Status| {
        let tunnel = status.tunnel("sixxs0");
        let prefixes = &tunnel.prefixes;
        tunnel.is_whole() && prefixes.len() == 1 && prefixes[0].starts_with(start)
    };
    let status = || fixture.program.status();
    let status = wait::until("the delegated prefix is there", LIMIT, status, is_there)?;
    Ok(status.tunnel("sixxs0").prefixes[0].clone())
}

/// Gives the LAN's host the address `::2` of the LAN's network. Returns it.
fn address_in_lan(fixture: &Fixture, lan: &Namespace, inside: &str) -> Result<Ipv6Addr> {
    let start = inside.trim_end_matches(":/48");
    let own = || {
        let shown = fixture
            .host()
            .sh(&format!("ip -6 -o address show dev {LAN} scope global"))?;
        let mut words = shown.split_whitespace();
        let own = words.find(|word| word.starts_with(start));
        Ok(own.map(str::to_owned))
    };
    let own = wait::until("the LAN has its prefix", LIMIT, own, Option::is_some)?;
    let own = own.context("an address")?;
    let (own, bits) = own.split_once('/').context("a length")?;
    ensure!(bits == "64", "{own}/{bits}");
    let own: Ipv6Addr = own.parse()?;
    let network = own.to_bits() >> 64 << 64;
    let address = Ipv6Addr::from_bits(network | 2);
    lan.ip(&format!("address add {address}/64 dev host nodad\n"))?;
    let router = link_local(fixture.host(), LAN)?;
    lan.ip(&format!("route replace default via {router} dev host\n"))?;
    Ok(address)
}

/// A host of the LAN is reached from outside, and each provider gets only its own sources.
fn ensure_lan_is_reached(fixture: &Fixture, address: Ipv6Addr) -> Result<()> {
    let pings = ping(fixture.lab.outside(), address, 10)?;
    ensure!(pings.all_answered(), "{address}: {pings:?}");
    fixture.ensure_nothing_lost()
}

/// Software that gets a delegated prefix and gives the LAN a part of it.
enum Client {
    Networkd(Networkd),
    Dhcpcd(Dhcpcd),
    NetworkManager(NetworkManager),
    /// OpenWrt's `odhcp6c` has no package in Debian. The test makes the routes that netifd makes for it.
    Netifd,
}

impl Client {
    fn networkd(fixture: &Fixture) -> Result<Self> {
        let wan = "[Match]\nName=sixxs0\n[Network]\nDHCP=ipv6\nIPv6AcceptRA=yes\n\
                   [DHCPv6]\nWithoutRA=solicit\nUseAddress=no\n[Link]\nMTUBytes=1500\n";
        let lan =
            format!("[Match]\nName={LAN}\n[Network]\nDHCPPrefixDelegation=yes\nIPv6AcceptRA=no\n");
        let files = [("10-wan.network", wan.to_owned()), ("20-lan.network", lan)];
        let mut networkd = Networkd::new(&fixture.lab, &files)?;
        println!("{}", networkd.version()?);
        networkd.start(&["sixxs0", LAN])?;
        Ok(Self::Networkd(networkd))
    }

    fn dhcpcd(fixture: &Fixture) -> Result<Self> {
        let mut dhcpcd = Dhcpcd::new(&fixture.lab, "sixxs0", LAN)?;
        dhcpcd.start("sixxs0")?;
        Ok(Self::Dhcpcd(dhcpcd))
    }

    fn network_manager(fixture: &Fixture) -> Result<Self> {
        let connection = |name: &str, number: u32, method: &str| {
            format!(
                "[connection]\nid={name}\ntype=ethernet\ninterface-name={name}\n\
                 uuid=00000000-0000-4000-8000-00000000000{number}\n[ethernet]\nmtu=1500\n\
                 [ipv4]\nmethod=disabled\n[ipv6]\nmethod={method}\n"
            )
        };
        let files = [
            connection("sixxs0", 1, "auto"),
            connection(LAN, 2, "shared"),
        ];
        let mut manager = NetworkManager::new(&fixture.lab, &files)?;
        println!("{}", manager.version()?);
        manager.start(&["sixxs0", LAN])?;
        Ok(Self::NetworkManager(manager))
    }

    fn netifd(fixture: &Fixture) -> Result<Self> {
        netifd_sets(fixture, "add", "2001:db8:100")?;
        Ok(Self::Netifd)
    }

    /// Has it take the prefix that the server delegates now.
    fn renumber(&mut self, fixture: &Fixture) -> Result<()> {
        match self {
            // It asks for its old prefix for a long time (systemd issue 15455).
            Self::Networkd(networkd) => networkd
                .networkctl(&["reconfigure", "sixxs0", LAN])
                .map(drop),
            Self::NetworkManager(manager) => {
                // It leaves its addresses, and a new one would take them over.
                manager.stop()?;
                let flush = format!("ip -6 address flush dev {LAN} scope global");
                fixture.host().sh(&flush)?;
                manager.start(&["sixxs0", LAN])
            }
            Self::Dhcpcd(dhcpcd) => {
                dhcpcd.stop()?;
                dhcpcd.start("sixxs0")
            }
            Self::Netifd => {
                netifd_sets(fixture, "del", "2001:db8:100")?;
                netifd_sets(fixture, "add", "2001:db8:101")?;
                // The network stays for a while, with a deprecated address.
                fixture.host().ip(&format!(
                    "address add 2001:db8:100:0:1::1/64 dev {LAN} preferred_lft 0\n"
                ))
            }
        }
    }
}

/// Adds or removes the routes that netifd has for a prefix, and the LAN's address.
fn netifd_sets(fixture: &Fixture, verb: &str, prefix: &str) -> Result<()> {
    fixture.host().ip(&format!(
        "route {verb} unreachable {prefix}::/56 dev lo proto static metric 2147483647\n\
         route {verb} default from {prefix}::/56 via fe80::1 dev sixxs0 proto static metric 512\n\
         address {verb} {prefix}:0:1::1/64 dev {LAN}\n"
    ))
}

/// The life of a delegation: it comes, the LAN works, another prefix takes its place.
fn delegation_is_followed(start: fn(&Fixture) -> Result<Client>) -> Result<()> {
    prefix_is_followed(CONFIG, "no delegated prefix is known", start)
}

/// The same with another configuration. `problem` is reported while there is no prefix.
fn prefix_is_followed(
    config: &str,
    problem: &str,
    start: fn(&Fixture) -> Result<Client>,
) -> Result<()> {
    let fixture = with_delegation(config)?;
    let daemon = fixture.start()?;
    let _radvd = [
        advertises(&fixture, 0, &[preferred("2001:db8:a::/64")])?,
        advertises(&fixture, 1, &[preferred("2001:db8:b::/64")])?,
    ];
    fixture
        .program
        .status_until("there is no prefix", |status| has_problem(status, problem))?;
    let server = delegates(&fixture, POOL)?;
    let mut client = start(&fixture)?;
    let prefix = wait_for_prefix(&fixture, POOL.0).with_context(|| daemon.log())?;
    println!("{prefix}");
    let [lan, _] = fixture.lab.lans()?;
    let address = address_in_lan(&fixture, lan, POOL.0)?;
    ensure_lan_is_reached(&fixture, address)?;
    let status = fixture.program.status()?;
    ensure!(status.healthy && status.problems.is_empty(), "{status:#?}");
    let preview = fixture.program.run(&["reload", "--check"])?;
    ensure!(preview.code == 0, "{preview:#?}");

    // Another prefix takes its place.
    drop(server);
    let _server = delegates(&fixture, CHANGED_POOL)?;
    client.renumber(&fixture)?;
    let changed = wait_for_prefix(&fixture, CHANGED_POOL.0).with_context(|| daemon.log())?;
    println!("{changed}");
    let new = address_in_lan(&fixture, lan, CHANGED_POOL.0)?;
    ensure_lan_is_reached(&fixture, new)?;
    // What still comes from the lost one reaches no provider. Its users get errors, if the host still has their network.
    let socket = leak::udp_socket(lan, address, Cause::Rules)?;
    leak::report_errors(&socket)?;
    socket.connect(&SocketAddrV6::new(OUTSIDE, 9, 0, 0).into())?;
    let mut errors = 0;
    for _ in 0..100 {
        errors += u32::from(socket.send(b"lost").is_err());
    }
    if let Client::Netifd = client {
        wait::until(
            "an error",
            Duration::from_secs(10),
            || Ok(errors > 0 || socket.send(b"lost").is_err()),
            |is_error| *is_error,
        )?;
    }
    fixture.ensure_nothing_lost()?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

fn has_problem(status: &Status, text: &str) -> bool {
    let mut problems = status.problems.iter();
    problems.any(|problem| problem.contains(text))
}

#[test]
fn networkd() -> Result<()> {
    delegation_is_followed(Client::networkd)
}

#[test]
fn dhcpcd() -> Result<()> {
    delegation_is_followed(Client::dhcpcd)
}

/// Version 1.42 makes no route for the whole prefix, so the network of the LAN is taken.
#[test]
fn network_manager() -> Result<()> {
    let config = CONFIG.replace(AUTO, &format!("prefix_from = \"{LAN}\""));
    prefix_is_followed(&config, "no global address on", Client::network_manager)
}

#[test]
fn netifd() -> Result<()> {
    delegation_is_followed(Client::netifd)
}

/// Both links may have got the prefix, until a route or the configuration shows which.
#[test]
fn a_prefix_of_one_of_two_links() -> Result<()> {
    let config = CONFIG.replace("prefixes = []", AUTO);
    let fixture = with_delegation(&config)?;
    let host = fixture.host();
    let _daemon = fixture.start()?;
    host.ip("route add unreachable 2001:db8:100::/56 dev lo proto 16 metric 1024\n")?;
    let unclear = "2001:db8:100::/56 is delegated to this host, by one of sixxs0, sixxs1";
    fixture
        .program
        .status_until("it is unclear", |status| has_problem(status, unclear))?;
    let has = |status: &Status, [first, second]: [&[&str]; 2]| {
        status.tunnel("sixxs0").prefixes == first && status.tunnel("sixxs1").prefixes == second
    };
    ensure!(has(&fixture.program.status()?, [&[], &[]]));
    host.ip("route add default from 2001:db8:100::/56 via fe80::1 dev sixxs1 proto 16\n")?;
    fixture.program.status_until("a route shows it", |status| {
        has(status, [&[], &["2001:db8:100::/56"]]) && !has_problem(status, unclear)
    })?;
    host.ip("route del default from 2001:db8:100::/56 dev sixxs1 proto 16\n")?;
    // Nothing shows it any more, but nothing shows another one.
    fixture.program.status_until("it stays", |status| {
        has(status, [&[], &["2001:db8:100::/56"]])
    })?;
    let rules = host.sh("ip -6 rule show")?;
    ensure!(
        rules.contains("from 2001:db8:100::/56 lookup 201"),
        "{rules}"
    );

    // The interface of the LAN shows it.
    let config = CONFIG.replace(AUTO, &format!("prefix_from = \"{LAN}\""));
    fixture.lab.write_config(&config)?;
    fixture.program.run_ok(&["reload"])?;
    let nothing = format!("sixxs0: no global address on {LAN} (`prefix_from`)");
    fixture
        .program
        .status_until("the LAN has none", |status| has_problem(status, &nothing))?;
    host.ip(&format!(
        "address add 2001:db8:100:7::1/64 dev {LAN} nodad\n"
    ))?;
    fixture.program.status_until("the LAN shows it", |status| {
        has(status, [&["2001:db8:100::/56"], &[]])
    })?;
    host.ip("route del unreachable 2001:db8:100::/56 dev lo proto 16\n")?;
    fixture
        .program
        .status_until("the LAN's network is left", |status| {
            has(status, [&["2001:db8:100:7::/64"], &[]])
        })?;
    Ok(())
}
