//! `sixxs doctor` and the traps that hosts have: each is set, seen, taken away by the fix that is printed,
//! and not seen any more.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::bpf::{self, Order};
use sixxs_tests::broker::Kind;
use sixxs_tests::chaos::clock;
use sixxs_tests::lab::Spec;
use sixxs_tests::program::Hook;
use sixxs_tests::topology::{Flavour, UPLINK};
use sixxs_tests::{kernel, nft, probe, shell, wait};

use crate::setting::Setting;

/// What is found that is not as it should be, about something.
fn traps(setting: &Setting, about: &str) -> Result<Vec<Value>> {
    let (_, report) = setting.program.json(&["doctor"])?;
    let findings = report[0]["findings"].as_array().context("findings")?;
    let is_one = |finding: &&Value| finding["about"] == about && finding["verdict"] != "good";
    Ok(findings.iter().filter(is_one).cloned().collect())
}

/// The one trap that is found about something.
fn trap(setting: &Setting, about: &str, verdict: &str) -> Result<Value> {
    let traps = traps(setting, about)?;
    let [trap] = traps.as_slice() else {
        anyhow::bail!("one about {about} is expected: {traps:#?}");
    };
    ensure!(trap["verdict"] == verdict, "{trap:#}");
    Ok(trap.clone())
}

fn fix(trap: &Value) -> Result<String> {
    let fix = trap["fix"].as_str().context("a fix")?;
    // What comes behind is another way, or for good.
    let first = fix
        .split("; or ")
        .next()
        .and_then(|fix| fix.split("; for good").next());
    Ok(first.unwrap_or(fix).to_owned())
}

/// Does what a fix says, in a shell of the host.
fn apply(setting: &Setting, trap: &Value) -> Result<()> {
    let mut sh = setting.host().command("sh");
    shell::capture(sh.args(["-ec", &fix(trap)?]))?;
    Ok(())
}

/// A trap is there, its fix takes it away.
fn is_fixed(setting: &Setting, about: &str, verdict: &str) -> Result<()> {
    let trap = trap(setting, about, verdict)?;
    apply(setting, &trap)?;
    let left = traps(setting, about)?;
    ensure!(left.is_empty(), "after {:?}: {left:#?}", trap["fix"]);
    Ok(())
}

#[test]
fn settings_of_the_kernel() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let daemon = setting.start()?;
    let host = setting.host();
    // Nothing of all this on a host without traps, which is soon said.
    let started = Instant::now();
    for about in [
        "echo",
        "icmp rate",
        "disable_ipv6",
        "accept_ra",
        "forwarding",
        "rp_filter",
        "filters",
        "uplink",
        "address",
        "shadowed",
        "program order",
        "mtu",
        "clock",
        "connects",
        "pins",
    ] {
        let found = traps(&setting, about)?;
        assert!(found.is_empty(), "{about}: {found:#?}");
    }
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "15 looks: {:?}",
        started.elapsed()
    );

    host.sysctl(&[("ipv6/icmp/echo_ignore_all", "1")])?;
    is_fixed(&setting, "echo", "bad")?;

    host.sysctl(&[
        ("ipv6/icmp/ratelimit", "1000"),
        ("ipv6/icmp/ratemask", "0-1,3-129"),
    ])?;
    is_fixed(&setting, "icmp rate", "bad")?;
    host.sysctl(&[("ipv6/icmp/ratelimit", "60000")])?;
    is_fixed(&setting, "icmp rate", "note")?;

    host.sysctl(&[("ipv6/conf/default/disable_ipv6", "1")])?;
    is_fixed(&setting, "disable_ipv6", "bad")?;

    let [tunnel, _] = setting.lab.tunnels();
    let plan = tunnel.plan;
    host.sh(&format!(
        "ip -6 address del {}/64 dev {}",
        plan.address, plan.interface
    ))?;
    is_fixed(&setting, "address", "bad")?;
    setting.outside_is_answered(tunnel)?;

    // A default route that only routers could give, who are not listened to.
    host.sysctl(&[
        ("ipv6/conf/net0/forwarding", "1"),
        ("ipv6/conf/net0/accept_ra", "1"),
    ])?;
    assert!(traps(&setting, "accept_ra")?.is_empty());
    host.sh("ip -6 route del default")?;
    is_fixed(&setting, "accept_ra", "bad")?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A filter that drops what comes in by an interface that does not lead to its source, as firewalld has
/// one: harmless while our rules lead back, deadly without.
#[test]
fn a_reverse_path_filter() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let daemon = setting.start()?;
    nft::load(
        setting.host(),
        "table inet firewalld {
            chain filter_PREROUTING {
                type filter hook prerouting priority -140
                icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
                meta nfproto ipv6 fib saddr . mark . iif oif missing drop
            }
        }",
    )?;
    let [tunnel, _] = setting.lab.tunnels();
    trap(&setting, "filters", "note")?;
    setting.outside_is_answered(tunnel)?;
    assert_eq!(daemon.stop()?, 0);

    setting.delete_own_rules()?;
    let found = trap(&setting, "filters", "bad")?;
    let ping = || probe::ping(setting.lab.outside(), tunnel.plan.address, 3);
    assert_eq!(ping()?.answered, 0, "it does drop");
    apply(&setting, &found)?;
    assert!(traps(&setting, "filters")?.is_empty());
    assert!(ping()?.all_answered(), "the programs catch the answers");

    // A loose one asks for any way back, and there is one.
    nft::load(
        setting.host(),
        "flush ruleset
        table ip6 loose {
            chain pre {
                type filter hook prerouting priority -140
                fib saddr oif missing drop
            }
        }",
    )?;
    assert!(traps(&setting, "filters")?.is_empty());
    assert!(ping()?.all_answered());
    Ok(())
}

#[test]
fn what_leads_elsewhere() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let address = setting.lab.tunnels()[0].plan.address;
    let host = setting.host();
    let rules = [
        format!("from {address} lookup main priority 100"),
        format!("from {address} unreachable priority 100"),
        "not from 2001:db8:b::/48 to 2000::/3 iif lo uidrange 0-0 lookup main priority 100"
            .to_owned(),
    ];
    // Without a daemon, and with one.
    let mut daemon = None;
    for _ in 0..2 {
        // For other packets.
        host.sh("ip -6 rule add fwmark 7 lookup main priority 90")?;
        assert!(traps(&setting, "shadowed")?.is_empty());
        for rule in &rules {
            host.sh(&format!("ip -6 rule add {rule}"))?;
            is_fixed(&setting, "shadowed", "bad").with_context(|| rule.clone())?;
        }
        host.sh("ip -6 rule del fwmark 7 lookup main priority 90")?;
        if daemon.is_none() {
            daemon = Some(setting.start()?);
        }
    }

    // An interface with a default route that nobody named.
    host.ip("link add net1 type veth peer name far1\n\
             link set far1 up\n\
             link set net1 up\n\
             address add 2001:db8:2::1/64 dev net1 nodad\n\
             route add ::/0 via 2001:db8:2::fe dev net1 metric 2048\n")?;
    let found = trap(&setting, "uplink", "bad")?;
    let line = fix(&found)?;
    let line = line.split(" in the").next().unwrap_or_default();
    let config = setting.lab.config("").replace("uplinks = [\"net0\"]", line);
    setting.lab.write_config(&config)?;
    assert!(traps(&setting, "uplink")?.is_empty());
    Ok(())
}

/// Somebody's program before ours may end the matter for us.
#[test]
fn a_program_before_ours() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    let mut daemon = setting.start()?;
    if kernel::has_tcx()? {
        let empty = bpf::load_empty()?;
        let behind = bpf::attach(setting.host(), &empty, UPLINK, false, Order::Last)?;
        assert!(traps(&setting, "program order")?.is_empty());
        drop(behind);
        let _before = bpf::attach(setting.host(), &empty, UPLINK, false, Order::First)?;
        trap(&setting, "program order", "bad")?;
        // As the fix says.
        setting.program.ok(&["down"])?;
        assert_eq!(daemon.wait()?, 0);
        daemon = setting.start()?;
        assert!(traps(&setting, "program order")?.is_empty());
        // Taken away, with nobody to put it back.
        assert_eq!(daemon.stop()?, 0);
        assert!(traps(&setting, "program")?.is_empty());
        for ours in bpf::tcx(setting.host(), UPLINK, false)? {
            bpf::detach(ours.link)?;
        }
        let found = trap(&setting, "program", "bad")?;
        assert!(fix(&found)?.starts_with("sixxs run"));
        daemon = setting.start()?;
        assert!(traps(&setting, "program")?.is_empty());
    }
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn a_filter_before_ours() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Clsact)?;
    let host = setting.host();
    let filter = |pref| {
        format!(
            "tc filter add dev {UPLINK} egress pref {pref} protocol ipv6 u32 match u32 0 0 flowid 1:1"
        )
    };
    host.sh(&format!("tc qdisc add dev {UPLINK} clsact"))?;
    host.sh(&filter(1))?;
    let daemon = setting.start()?;
    let found = trap(&setting, "program order", "bad")?;
    let text = fix(&found)?;
    let delete = text.split("; then").next().unwrap_or_default();
    host.sh(delete)?;
    assert!(traps(&setting, "program order")?.is_empty());
    host.sh(&filter(200))?;
    assert!(traps(&setting, "program order")?.is_empty());
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A path that carries less than the tunnel promises is measured.
#[test]
fn a_path_that_is_too_narrow() -> Result<()> {
    let spec = Spec {
        mtu: 1480,
        ..Spec::new(Flavour::Tun)
    };
    let setting = Setting::of(spec, Hook::Auto, "")?;
    let daemon = setting.start()?;
    assert!(traps(&setting, "mtu")?.is_empty());
    let [tunnel, _] = setting.lab.tunnels();
    // Payloads of more than 1380 bytes: packets of more than 1420.
    nft::load(
        tunnel.pop(),
        "table ip6 narrow {
            chain pre {
                type filter hook prerouting priority -400
                iifname \"host\" ip6 length > 1380 drop
            }
        }",
    )?;
    let started = Instant::now();
    let found = trap(&setting, "mtu", "bad")?;
    assert!(
        started.elapsed() < Duration::from_secs(6),
        "{:?}",
        started.elapsed()
    );
    let line = fix(&found)?;
    let mtu = line.split_whitespace().nth(2).context("mtu = N")?;
    let measured: u32 = mtu.parse()?;
    assert!((1416..=1420).contains(&measured), "{found:#}");
    let config = setting
        .lab
        .config("")
        .replacen("mtu = 1480", &format!("mtu = {mtu}"), 1);
    setting.lab.write_config(&config)?;
    setting.program.ok(&["reload"])?;
    assert!(traps(&setting, "mtu")?.is_empty());
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn networks_behind_a_host_that_does_not_forward() -> Result<()> {
    let spec = Spec {
        lans: true,
        ..Spec::new(Flavour::Tun)
    };
    let setting = Setting::of(spec, Hook::Auto, "rule_mode = \"subtrees\"\n")?;
    assert!(traps(&setting, "forwarding")?.is_empty());
    assert!(traps(&setting, "subtrees")?.is_empty());
    setting
        .host()
        .sysctl(&[("ipv6/conf/all/forwarding", "0")])?;
    let found = traps(&setting, "forwarding")?;
    assert_eq!(
        found.len(),
        2,
        "lan1, and the LAN on the uplink's wire: {found:#?}"
    );
    apply(&setting, found.first().context("one")?)?;
    assert!(traps(&setting, "forwarding")?.is_empty());
    Ok(())
}

/// What the broker sends comes in by one uplink, and the route to it leads out of another.
#[test]
fn strict_filters_of_outer_packets() -> Result<()> {
    let setting = Setting::of(Spec::native([Kind::SixInFour, Kind::Ayiya]), Hook::Auto, "")?;
    setting
        .host()
        .ip("link add net1 type veth peer name far1\n\
                       link set net1 up\n\
                       address add 192.0.2.77/32 dev net1\n")?;
    let remote = "remote4 = \"198.51.100.1\"";
    let config =
        setting
            .lab
            .config("")
            .replacen(remote, &format!("local4 = \"192.0.2.77\"\n{remote}"), 1);
    setting.lab.write_config(&config)?;
    setting.host().sysctl(&[
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/net1/rp_filter", "0"),
    ])?;
    assert!(traps(&setting, "rp_filter")?.is_empty());
    setting.host().sysctl(&[("ipv4/conf/all/rp_filter", "1")])?;
    is_fixed(&setting, "rp_filter", "bad")
}

/// A broker whose clock and ours are too far apart is not understood, nor we.
#[test]
fn a_clock_that_is_off() -> Result<()> {
    let setting = Setting::of(Spec::native([Kind::Ayiya, Kind::Ayiya]), Hook::Auto, "")?;
    let daemon = setting
        .program
        .start_as(setting.program.command(&clock::MOVABLE))?;
    setting.is_up()?;
    let bad = || {
        let traps = traps(&setting, "clock")?.into_iter();
        Ok(traps.filter(|trap| trap["verdict"] == "bad").count())
    };
    assert_eq!(bad()?, 0);
    clock::displace(setting.lab.paths(), -3600, 0)?;
    let limit = Duration::from_secs(10);
    let pinged = || {
        for tunnel in setting.lab.tunnels() {
            probe::ping(setting.lab.outside(), tunnel.plan.address, 1)?;
        }
        bad()
    };
    wait::until("it is seen", limit, pinged, |bad| *bad == 2)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Processes are known by their names, in our network namespace alone.
#[test]
fn who_else_runs() -> Result<()> {
    let setting = Setting::new(Flavour::Tun, Hook::Auto)?;
    for about in ["networkd", "NetworkManager"] {
        assert!(traps(&setting, about)?.is_empty(), "{about}");
    }
    let sleeps = setting.lab.paths().base().join("NetworkManager");
    std::fs::copy("/bin/sleep", &sleeps)?;
    let mut elsewhere = Command::new(&sleeps).arg("60").spawn()?;
    let found = traps(&setting, "NetworkManager");
    elsewhere.kill()?;
    elsewhere.wait()?;
    assert!(found?.is_empty());
    let mut here = setting.host().command(&sleeps).arg("60").spawn()?;
    let found = trap(&setting, "NetworkManager", "note");
    here.kill()?;
    here.wait()?;
    let fix = fix(&found?)?;
    assert!(
        fix.contains("interface-name:sixxs0;interface-name:sixxs1"),
        "{fix}"
    );

    // A second daemon, in directories of its own.
    let daemon = setting.start()?;
    let base = setting.lab.paths().base().to_owned();
    let mut command = setting.program.command(&["run"]);
    for (name, directory) in [("SIXXS_RUN_DIR", "run2"), ("SIXXS_STATE_DIR", "state2")] {
        command.env(name, base.join(directory));
    }
    let other = setting.program.spawn_as(command)?;
    let limit = Duration::from_secs(10);
    let seen = || {
        let all = traps(&setting, "daemon")?.into_iter();
        Ok(all.filter(|t| t["fix"].is_string()).collect::<Vec<_>>())
    };
    let found = wait::until("it is seen", limit, seen, |found| !found.is_empty())?;
    apply(&setting, found.first().context("one")?)?;
    other.wait()?;
    wait::until("it is gone", limit, seen, Vec::is_empty)?;
    assert_eq!(daemon.stop()?, 0);

    let mut nobody = setting.program.command(&["doctor", "--json"]);
    nobody.env("SIXXS_GROUP", "nobody-has-this");
    let report: Value = serde_json::from_str(&shell_output(&mut nobody)?)?;
    let findings = report["findings"].as_array().context("findings")?;
    assert!(
        findings.iter().any(|finding| finding["about"] == "group"),
        "{report:#}"
    );
    Ok(())
}

/// What a command printed, whatever its exit status.
fn shell_output(command: &mut Command) -> Result<String> {
    let output = command.output().context("run it")?;
    Ok(String::from_utf8(output.stdout)?)
}
