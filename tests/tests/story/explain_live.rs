//! `sixxs explain --live` sends a packet, keeps it from the wire, and shows what the kernel did with it beside the prediction.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::kernel;
use sixxs_tests::kernel::bpf::{self, Order};
use sixxs_tests::lab::netns::Namespace;
use sixxs_tests::lab::nft;
use sixxs_tests::lab::topology::{Flavour, HOST, OUTSIDE, TUNNELS, UPLINK};
use sixxs_tests::program::Hook;

use crate::fixture::Fixture;

const NAME: &str = TUNNELS[0].interface;

/// Counts echo requests of the host where it has sent them.
const SEEN: &str = "table inet seen { counter requests {};
chain in { type filter hook prerouting priority -400; icmpv6 type echo-request counter name requests; }; }";

/// What the kernel did with a packet, which the prediction agrees with or not.
fn lived(fixture: &Fixture, agrees: bool, arguments: &[&str]) -> Result<Value> {
    let all = [&["explain", "--live"], arguments].concat();
    let (status, mut values) = fixture.program.json(&all)?;
    ensure!(status == 0, "{status}: {values:#?}");
    let explained = values.pop().context("an explanation")?;
    let live = explained["live"].clone();
    ensure!(live["agrees"] == agrees, "{explained:#}");
    ensure!(live["difference"].is_null() == agrees, "{explained:#}");
    Ok(live)
}

/// Where the packet was routed to, and what became of it.
fn ends(live: &Value) -> [Option<&str>; 2] {
    ["interface", "outcome"].map(|key| live[key].as_str())
}

/// A packet that something drops, for this reason.
fn is_dropped(fixture: &Fixture, arguments: &[&str], reason: &str, words: &str) -> Result<()> {
    let live = lived(fixture, true, arguments)?;
    ensure!(live["outcome"] == "dropped", "{live:#}");
    ensure!(live["reason"] == reason, "{live:#}");
    let sentence = live["sentence"].as_str().unwrap_or_default();
    ensure!(sentence.contains(words), "{live:#}");
    ensure!(live["cure"].is_string(), "{live:#}");
    Ok(())
}

/// The namespaces that the packets of the host reach.
fn neighbours(fixture: &Fixture) -> [&Namespace; 3] {
    let [first, second] = fixture.lab.tunnels();
    [fixture.lab.isp(), first.pop(), second.pop()]
}

variants!(the_real_way_is_the_predicted_one: tun(Tun, Auto), veth(Veth, Auto), tun_clsact(Tun, Clsact));

fn the_real_way_is_the_predicted_one(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let host = fixture.host();
    for namespace in neighbours(&fixture) {
        nft::load(namespace, SEEN)?;
    }
    let counted = || -> Result<Value> {
        let (_, mut values) = fixture.program.json(&["status"])?;
        let status = values.pop().context("a status")?;
        let tunnel = &status["tunnels"][0];
        let keys = ["echo", "proof", "leaks", "strays", "loops", "recursions"];
        ensure!(keys.iter().all(|key| !tunnel[key].is_null()), "{tunnel:#}");
        Ok(Value::from(keys.map(|key| tunnel[key].clone()).to_vec()))
    };
    let before = counted()?;
    let (source, to) = (&*TUNNELS[0].address.to_string(), &*OUTSIDE.to_string());
    host.sh("ip -6 rule add fwmark 0x77 lookup main priority 100")?;
    host.sh("ip -6 rule add uidrange 1234-1234 lookup main priority 101")?;
    host.sh("ip link add bare0 type veth peer name bare1")?;
    host.sh("ip link set bare0 up")?;
    host.sh("ip link set bare1 up")?;
    host.sh("ip -6 route add 2001:db8:77::/64 via fe80::77 dev bare0")?;
    host.sh("ip -6 neigh add fe80::77 dev bare0 lladdr 02:00:00:00:00:77")?;
    host.sh(&format!(
        "ip -6 route add 2001:db8:78::/64 via fe80::78 dev {UPLINK}"
    ))?;
    nft::load(host, &SEEN.replace("icmpv6", "iifname bare1 icmpv6"))?;
    let native = &*HOST.to_string();
    for (arguments, expected) in [
        (&[source, to][..], [Some(NAME), Some("leaves")]),
        (&[native, to], [Some(UPLINK), Some("leaves")]),
        (&[source, native], [Some("lo"), Some("stays")]),
        (
            &[source, to, "--oif", UPLINK],
            [Some(UPLINK), Some("leaks")],
        ),
        (
            &[source, to, "--mark", "0x77"],
            [Some(UPLINK), Some("leaks")],
        ),
        (
            &[source, to, "--uid", "1234"],
            [Some(UPLINK), Some("leaks")],
        ),
        (&[source, to, "--size", "1400"], [None, Some("refused")]),
        (
            &[source, to, "--size", "1280"],
            [Some(NAME), Some("leaves")],
        ),
        (&[native, "2001:db8:77::1"], [Some("bare0"), Some("leaves")]),
        // Its next hop does not exist.
        (
            &[source, "2001:db8:78::1", "--oif", UPLINK],
            [Some(UPLINK), Some("late")],
        ),
    ] {
        let live = lived(&fixture, true, arguments)?;
        ensure!(ends(&live) == expected, "{arguments:?}: {live:#}");
    }
    // Nothing reached the wire, and nothing was counted.
    for namespace in neighbours(&fixture).into_iter().chain([host]) {
        ensure!(nft::read(namespace)?.get("requests")? == 0);
    }
    ensure!(counted()? == before, "{before:#} {:#}", counted()?);
    let printed = fixture.program.run_ok(&["explain", "--live", source, to])?;
    let lines = printed.stdout;
    ensure!(
        lines.contains(
            "\nlive     routed to sixxs0, where the program finds it to be the tunnel's own\n"
        ) && lines.ends_with("\n         as predicted\n"),
        "{lines}"
    );
    // Real packets pass as before.
    fixture.ensure_outside_answered(&fixture.lab.tunnels()[0])?;
    ensure!(nft::read(fixture.lab.tunnels()[0].pop())?.get("requests")? > 0);
    ensure!(daemon.stop()? == 0);
    Ok(())
}

#[test]
fn what_drops_a_packet_is_named() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let _daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let host = fixture.host();
    let (source, to) = (&*TUNNELS[0].address.to_string(), &*OUTSIDE.to_string());
    let arguments = &[source, to];
    for hook in ["output", "postrouting"] {
        let chain = format!("type filter hook {hook} priority 0; icmpv6 type echo-request drop;");
        nft::load(host, &format!("table inet f {{ chain c {{ {chain} }}; }}"))?;
        is_dropped(
            &fixture,
            arguments,
            "NETFILTER_DROP",
            "a packet filter drops it",
        )?;
        host.sh("nft delete table inet f")?;
    }
    let has_policies = host.sh("ip xfrm policy list").is_ok();
    if kernel::can_run("xfrm", has_policies)? {
        let policy = format!("dir out src {source}/128 dst ::/0");
        host.sh(&format!("ip xfrm policy add {policy} action block"))?;
        let live = lived(&fixture, false, arguments)?;
        ensure!(live["outcome"] == "refused", "{live:#}");
        host.sh(&format!("ip xfrm policy delete {policy}"))?;
    }
    if kernel::can_run("tcx", kernel::has_tcx()?)? {
        let program = bpf::load_dropping()?;
        let link = bpf::attach(host, &program, NAME, false, Order::First)?;
        is_dropped(&fixture, arguments, "TC_EGRESS", "at the egress of sixxs0")?;
        drop(link);
    }
    let live = lived(&fixture, true, arguments)?;
    ensure!(ends(&live) == [Some(NAME), Some("leaves")], "{live:#}");
    Ok(())
}

/// A control group of this test, with the processes that a command starts in it.
struct Group(PathBuf);

impl Group {
    fn make() -> Result<Option<Self>> {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let mut roots = roots.into_iter();
        let root = roots.find(|root| {
            root.join("cgroup.procs").is_file() && root.join("cgroup.controllers").is_file()
        });
        if !kernel::can_run("cgroup2", root.is_some())? {
            return Ok(None);
        }
        let group = root
            .context("a root")?
            .join(format!("sixxs-live-{}", std::process::id()));
        std::fs::create_dir(&group)?;
        Ok(Some(Self(group)))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir(&self.0);
    }
}

/// A program of other software for the control group of the command.
#[test]
fn a_program_at_a_control_group_is_named() -> Result<()> {
    let Some(group) = Group::make()? else {
        return Ok(());
    };
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let _daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let _link = bpf::attach_dropping_to_group(&group.0)?;
    let (source, to) = (&*TUNNELS[0].address.to_string(), &*OUTSIDE.to_string());
    let explain = fixture
        .program
        .command(&["explain", "--live", "--json", source, to]);
    let program = explain.get_program().to_owned();
    let mut inside = fixture.host().command("sh");
    fixture.program.apply_environment(&mut inside);
    let enter = format!(
        "echo $$ > {}; exec \"$@\"",
        group.0.join("cgroup.procs").display()
    );
    inside
        .args(["-c", &enter, "sh"])
        .arg(program)
        .args(explain.get_args());
    let output = inside.output()?;
    let explained: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let live = &explained["live"];
    ensure!(
        live["outcome"] == "dropped" && live["interface"] == NAME,
        "{live:#}"
    );
    // Linux 6.1 has no reason of its own for it.
    let reason = live["reason"].as_str().unwrap_or_default();
    ensure!(
        ["BPF_CGROUP_EGRESS", "NOT_SPECIFIED"].contains(&reason),
        "{live:#}"
    );
    Ok(())
}

/// Runs the program without tracefs, and without the permission to mount it.
fn without_tracefs(fixture: &Fixture, arguments: &[&str]) -> Command {
    let hide =
        "mount -t tmpfs none /sys/kernel/tracing && exec setpriv --bounding-set -sys_admin \"$@\"";
    let program = fixture.program.command(arguments);
    let mut command = fixture.host().command("unshare");
    fixture.program.apply_environment(&mut command);
    command
        .args(["--mount", "sh", "-c", hide, "sh"])
        .arg(program.get_program())
        .args(program.get_args());
    command
}

/// Without tracefs there are no reasons, and the sentences do not hide that.
#[test]
fn missing_reasons_are_told() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture
        .program
        .start_as(without_tracefs(&fixture, &["run"]))?;
    fixture.wait_until_up()?;
    nft::load(
        fixture.host(),
        "table inet f { chain c { type filter hook output priority 0; meta l4proto icmpv6 drop; }; };",
    )?;
    let (source, to) = (&*TUNNELS[0].address.to_string(), &*OUTSIDE.to_string());
    let words =
        "the kernel's reasons are not known: tracefs is not writable at /sys/kernel/tracing";
    let output =
        without_tracefs(&fixture, &["explain", "--live", "--json", source, to]).output()?;
    let explained: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let live = &explained["live"];
    let sentence = live["sentence"].as_str().unwrap_or_default();
    ensure!(
        live["outcome"] == "dropped" && live["reason"].is_null(),
        "{live:#}"
    );
    ensure!(sentence.contains(words), "{live:#}");
    let (_, mut values) = fixture.program.json(&["check", NAME])?;
    let report = values.pop().context("a report")?;
    let checks = report["checks"].as_array().context("checks")?;
    let inside = checks.iter().find(|check| check["check"] == "inside");
    let inside = &inside.context("an inside test")?["inside"];
    let sentence = inside["sentence"].as_str().unwrap_or_default();
    ensure!(
        inside["pass"] == false && inside["reason"].is_null(),
        "{inside:#}"
    );
    ensure!(sentence.contains(words), "{inside:#}");
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// The prediction does not know what other software changes behind the routing. `explain` shows where they differ.
#[test]
fn a_difference_is_told() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let _daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let host = fixture.host();
    host.sh("ip -6 rule add fwmark 0x77 lookup main priority 100")?;
    nft::load(
        host,
        "table inet m { chain c { type route hook output priority -150; meta mark set 0x77; }; }",
    )?;
    let (source, to) = (&*TUNNELS[0].address.to_string(), &*OUTSIDE.to_string());
    let live = lived(&fixture, false, &[source, to])?;
    ensure!(ends(&live) == [Some(UPLINK), Some("leaks")], "{live:#}");
    let difference = live["difference"].as_str().unwrap_or_default();
    ensure!(
        difference.starts_with(
            "predicted: routed to sixxs0, where the program finds it to be the tunnel's own. ",
        ) && difference.contains("a chain of type route"),
        "{live:#}"
    );
    fixture.ensure_nothing_lost()?;
    host.sh("nft delete table inet m")?;

    // NAT comes before the program that keeps the packet from the wire, which finds it all the same.
    nft::load(fixture.lab.isp(), SEEN)?;
    nft::load(
        host,
        "table ip6 n { chain c { type nat hook postrouting priority 100; icmpv6 type echo-request masquerade; }; }",
    )?;
    let bound = &[source, to, "--oif", UPLINK];
    let live = lived(&fixture, false, bound)?;
    ensure!(ends(&live) == [Some(UPLINK), Some("leaves")], "{live:#}");
    ensure!(nft::read(fixture.lab.isp())?.get("requests")? == 0);
    Ok(())
}

#[test]
fn what_cannot_be_sent_is_refused() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let (source, to) = (&*TUNNELS[0].address.to_string(), &*OUTSIDE.to_string());
    let foreign = fixture.program.run(&["explain", "--live", to, source])?;
    ensure!(
        foreign.code == 1
            && foreign
                .stderr
                .contains("a live packet needs a source that this host has"),
        "{foreign:#?}"
    );
    let forwarded = fixture
        .program
        .run(&["explain", "--live", source, to, "--iif", UPLINK])?;
    ensure!(
        forwarded.code == 2 && forwarded.stderr.contains("--iif"),
        "{forwarded:#?}"
    );
    ensure!(daemon.stop()? == 0);
    let alone = fixture.program.run(&["explain", "--live", source, to])?;
    ensure!(
        alone.code != 0 && alone.stderr.contains("no daemon answers"),
        "{alone:#?}"
    );
    Ok(())
}
