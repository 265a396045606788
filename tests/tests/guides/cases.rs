//! A test per guide, each on a host that fits the guide.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::broker::Kind;
use sixxs_tests::kernel;
use sixxs_tests::lab::advertiser::{Advertised, Advertiser};
use sixxs_tests::lab::topology::{Flavour, UPLINK};
use sixxs_tests::lab::{Lab, Spec, nft};
use sixxs_tests::network_managers::networkd::Networkd;
use sixxs_tests::shell;
use sixxs_tests::wait;

use crate::markdown::{Action, Guide};
use crate::runner::{NETWORKD_SETTINGS, Runner};

/// Includes a guide, so that the test runs without the checkout.
macro_rules! guide {
    ($name:literal) => {
        Guide::read(
            concat!("docs/guides/", $name),
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../docs/guides/",
                $name
            )),
        )
    };
}

/// Number of blocks in all guides that are not run. A new one needs a good reason.
const NOT_RUN: usize = 4;

/// Both ends have the MTU of Hurricane Electric's tunnels.
fn hurricane_electric_lab() -> Result<Lab> {
    Lab::new(Spec {
        mtu: 1480,
        ..Spec::native([Kind::SixInFour, Kind::SixInFour])
    })
}

/// The chapter about a tunnel that another program makes.
const BY_OTHERS: &str = "If something else makes the tunnel";

#[test]
fn hurricane_electric() -> Result<()> {
    let lab = hurricane_electric_lab()?;
    Runner::new(&lab)?.follow(&guide!("hurricane-electric.md")?, |chapter| {
        chapter != BY_OTHERS
    })
}

#[test]
fn hurricane_electric_by_others() -> Result<()> {
    if !kernel::has_sit() {
        println!("skipped: this kernel has no sit");
        return Ok(());
    }
    let lab = hurricane_electric_lab()?;
    let guide = guide!("hurricane-electric.md")?;
    has_chapters(&guide, &[BY_OTHERS])?;
    Runner::new(&lab)?.follow(&guide, |chapter| chapter == BY_OTHERS)
}

/// The chapters about the existing files, and about the old client's commands.
const FILES: &str = "What you have";
const OLD_COMMANDS: &str = "With the old commands";

fn account_lab() -> Result<Lab> {
    Lab::new(Spec::native([Kind::Ayiya, Kind::Heartbeat]))
}

#[test]
fn aiccu() -> Result<()> {
    let lab = account_lab()?;
    Runner::new(&lab)?.follow(&guide!("aiccu.md")?, |chapter| chapter != OLD_COMMANDS)
}

#[test]
fn aiccu_by_its_commands() -> Result<()> {
    let lab = account_lab()?;
    let guide = guide!("aiccu.md")?;
    has_chapters(&guide, &[FILES, OLD_COMMANDS])?;
    Runner::new(&lab)?.follow(&guide, |chapter| [FILES, OLD_COMMANDS].contains(&chapter))
}

#[test]
fn networkd() -> Result<()> {
    let lab = hurricane_electric_lab()?;
    let networkd = Networkd::new(&lab, &[])?;
    Runner::with_networkd(&lab, networkd, &[UPLINK])?.follow(&guide!("networkd.md")?, |_| true)
}

/// The guide and the package have the same settings.
#[test]
fn networkd_settings_are_the_package_s() -> Result<()> {
    let settings = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    };
    let guide = guide!("networkd.md")?;
    let text = guide.steps.iter().find_map(|step| match &step.action {
        Action::File { path, text } if path.ends_with(NETWORKD_SETTINGS) => Some(text),
        _ => None,
    });
    let text = text.context("the guide has no such file")?;
    let packaged = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../deploy/networkd.conf"
    ));
    assert_eq!(settings(text), settings(packaged));
    Ok(())
}

/// The host has LANs, but does not forward for them yet.
#[test]
fn routed_prefixes() -> Result<()> {
    let lab = Lab::new(Spec {
        mtu: 1480,
        lans: true,
        ..Spec::native([Kind::SixInFour, Kind::SixInFour])
    })?;
    lab.host().sysctl(&[("ipv6/conf/all/forwarding", "0")])?;
    lab.host()
        .ip("address delete 2001:db8:bb:1::1/64 dev lan1\n\
         address delete 2001:db8:bb:2::1/64 dev net0\n")?;
    Runner::new(&lab)?.follow(&guide!("routed-prefixes.md")?, |_| true)
}

/// Two providers, whose routers advertise prefixes. The host has the address `::5` in each.
#[test]
fn two_providers() -> Result<()> {
    let lab = Lab::new(Spec::new(Flavour::Veth))?;
    let host = lab.host();
    host.ip(&format!("link set {UPLINK} down\n"))?;
    let mut advertisers = Vec::new();
    for (tunnel, name) in lab.tunnels().iter().zip(["dsl0", "cable0"]) {
        let (plan, pop) = (tunnel.plan, tunnel.pop());
        host.ip(&format!(
            "link set {0} down\nlink set {0} name {name}\nlink set {name} mtu 1500\n",
            plan.interface
        ))?;
        pop.ip("link set host mtu 1500\n")?;
        for (setting, value) in [
            ("accept_ra", "2"),
            ("autoconf", "1"),
            ("router_solicitations", "3"),
        ] {
            host.sysctl(&[(&format!("ipv6/conf/{name}/{setting}"), value)])?;
        }
        host.ip(&format!("link set {name} up\ntoken set ::5 dev {name}\n"))?;
        let prefix = match name {
            "dsl0" => "2001:db8:a::/64",
            _ => "2001:db8:b::/64",
        };
        let prefix = Advertised {
            prefix,
            preferred: 300,
        };
        let started = Advertiser::start(pop, "host", lab.paths().base(), 600, &[prefix])?;
        advertisers.push(started);
    }
    wait::until(
        "both addresses are there",
        Duration::from_secs(20),
        || host.sh("ip -6 -o address show scope global -tentative"),
        |shown| {
            ["2001:db8:a::5/64", "2001:db8:b::5/64"]
                .iter()
                .all(|a| shown.contains(a))
        },
    )?;
    Runner::new(&lab)?.follow(&guide!("two-providers.md")?, |_| true)
}

/// Two tunnels that other software has made, to which the broker routes the same prefix.
#[test]
fn failover() -> Result<()> {
    let lab = Lab::new(Spec {
        mtu: 1480,
        ..Spec::new(Flavour::Tun)
    })?;
    let (host, prefix) = (lab.host(), "2001:db8:cc::/48");
    host.ip("address add 2001:db8:cc::1/128 dev lo nodad\n")?;
    for (tunnel, name) in lab.tunnels().iter().zip(["he1", "he2"]) {
        let (plan, pop) = (tunnel.plan, tunnel.pop());
        host.ip(&format!(
            "link set {0} down\nlink set {0} name {name}\nlink set {name} up\n\
             address replace {1}/64 dev {name} nodad\n",
            plan.interface, plan.address
        ))?;
        pop.sh("nft delete table ip6 broker")?;
        nft::load(pop, &plan.pop_rules(Some(prefix)))?;
        pop.ip(&format!(
            "route add {prefix} via {} dev host\n",
            plan.address
        ))?;
    }
    lab.core()
        .ip(&format!("route add {prefix} via fe80::2 dev pop1\n"))?;
    Runner::new(&lab)?.follow(&guide!("failover.md")?, |_| true)
}

/// The far end's private key in the guide.
const PEER_KEY: &str = "GJ/F4b2/GR7x8i2ei+g/muOZgAGN2Oa5hPD4n+J/V0I=";
/// The public key of the private key in the guide.
const OWN_KEY: &str = "F+AiHkqYBtJ64XLj7FWoKupndrPEO/+MY650FFSJjU4=";

#[test]
fn wireguard() -> Result<()> {
    if !kernel::has_wireguard()? {
        println!("skipped: this kernel has no WireGuard");
        return Ok(());
    }
    let lab = Lab::new(Spec {
        mtu: 1420,
        ..Spec::new(Flavour::WireGuard)
    })?;
    // The guide replaces the lab's tunnels and uses the far end of the second one.
    for tunnel in lab.tunnels() {
        tunnel.delete()?;
    }
    let [_, tunnel] = lab.tunnels();
    let old = tunnel.pop().sh("wg show host peers")?;
    let mut wg = tunnel.pop().command("wg");
    wg.args(["set", "host", "private-key", "/dev/stdin"])
        .args(["peer", old.trim(), "remove"])
        .args(["peer", OWN_KEY, "allowed-ips", "::/0"]);
    shell::capture_with_input(&mut wg, PEER_KEY)?;
    Runner::new(&lab)?.follow(&guide!("wireguard.md")?, |_| true)
}

fn has_chapters(guide: &Guide, chapters: &[&str]) -> Result<()> {
    for chapter in chapters {
        let is_there = guide.steps.iter().any(|step| step.chapter == *chapter);
        ensure!(is_there, "{}: no chapter {chapter:?}", guide.name);
    }
    Ok(())
}

#[test]
fn what_is_not_run_does_not_get_more() -> Result<()> {
    let guides = [
        guide!("aiccu.md")?,
        guide!("hurricane-electric.md")?,
        guide!("networkd.md")?,
        guide!("routed-prefixes.md")?,
        guide!("wireguard.md")?,
    ];
    let why: Vec<_> = guides.iter().flat_map(|guide| &guide.not_run).collect();
    ensure!(why.len() == NOT_RUN, "{why:#?}");
    Ok(())
}
