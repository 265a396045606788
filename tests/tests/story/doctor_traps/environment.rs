//! Paths, the clock, and other running programs.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::Value;
use sixxs_tests::broker::Kind;
use sixxs_tests::broker::tic::{Fault, Stage};
use sixxs_tests::chaos::clock;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::nft;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;
use sixxs_tests::{probe, wait};

use super::{apply, fix, shell_output, trap, traps};
use crate::fixture::{Fixture, mixed_config};

/// The doctor measures a path whose MTU is smaller than the tunnel's.
#[test]
fn a_path_that_is_too_narrow() -> Result<()> {
    let spec = Spec {
        mtu: 1480,
        ..Spec::new(Flavour::Tun)
    };
    let fixture = Fixture::with_spec(spec, Hook::Auto, "")?;
    let daemon = fixture.start()?;
    assert!(traps(&fixture, "mtu")?.is_empty());
    let [tunnel, _] = fixture.lab.tunnels();
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
    let found = trap(&fixture, "mtu", "bad")?;
    assert!(
        started.elapsed() < Duration::from_secs(6),
        "{:?}",
        started.elapsed()
    );
    let line = fix(&found)?;
    let mtu = line.split_whitespace().nth(2).context("mtu = N")?;
    let measured: u32 = mtu.parse()?;
    assert!((1416..=1420).contains(&measured), "{found:#}");
    let config = fixture
        .lab
        .config("")
        .replacen("mtu = 1480", &format!("mtu = {mtu}"), 1);
    fixture.lab.write_config(&config)?;
    fixture.program.run_ok(&["reload"])?;
    assert!(traps(&fixture, "mtu")?.is_empty());
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A broker and a client whose clocks differ too much reject each other's packets.
#[test]
fn a_clock_that_is_off() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::native([Kind::Ayiya, Kind::Ayiya]), Hook::Auto, "")?;
    let daemon = fixture
        .program
        .start_as(fixture.program.command(&clock::MOVABLE))?;
    fixture.wait_until_up()?;
    let bad = || {
        let traps = traps(&fixture, "clock")?.into_iter();
        Ok(traps.filter(|trap| trap["verdict"] == "bad").count())
    };
    assert_eq!(bad()?, 0);
    clock::displace(fixture.lab.paths(), -3600, 0)?;
    let limit = Duration::from_secs(10);
    let pinged = || {
        for tunnel in fixture.lab.tunnels() {
            probe::ping(fixture.lab.outside(), tunnel.plan.address, 1)?;
        }
        bad()
    };
    wait::until("it is seen", limit, pinged, |bad| *bad == 2)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The clocks are compared before a broker is queried about a tunnel.
#[test]
fn a_clock_that_differs_from_the_brokers_is_found() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::native([Kind::Ayiya, Kind::Ayiya]), Hook::Auto, "")?;
    let lab = &fixture.lab;
    lab.write_config(&mixed_config(lab, "")?)?;
    // The machine itself may not synchronise its clock: that is only a note.
    let bad = || {
        let traps = traps(&fixture, "clock")?.into_iter();
        Ok(traps
            .filter(|trap| trap["verdict"] == "bad")
            .collect::<Vec<_>>())
    };
    lab.tic()?.set_time_ahead(3600);
    let daemon = fixture.start()?;
    let limit = Duration::from_secs(10);
    let found = wait::until("it is seen", limit, bad, |bad| !bad.is_empty())?;
    let [trap] = found.as_slice() else {
        anyhow::bail!("one tunnel asks its broker: {found:#?}");
    };
    let detail = trap["detail"].as_str().context("detail")?;
    let name = lab.tunnels()[0].plan.interface;
    assert!(
        detail.starts_with(name) && detail.contains("s behind the server's"),
        "{detail}"
    );
    assert!(fix(trap)?.starts_with("timedatectl set-ntp true"));
    // The effect of the fix: both clocks agree.
    lab.tic()?.set_time_ahead(0);
    fixture.program.run_ok(&["restart", name])?;
    fixture.wait_until_up()?;
    assert!(bad()?.is_empty());
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A broker that refuses too frequent connects gets no connects until the refusal expires.
#[test]
fn a_broker_that_refuses_us() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::native([Kind::Ayiya, Kind::Ayiya]), Hook::Auto, "")?;
    let lab = &fixture.lab;
    lab.write_config(&mixed_config(lab, "")?)?;
    let refusal = Fault::Say("500 You connect too often".to_owned());
    lab.tic()?.misbehave(Stage::Greeting, refusal);
    let daemon = fixture
        .program
        .start_as(fixture.program.command(&clock::MOVABLE))?;
    let bad = || {
        let traps = traps(&fixture, "connects")?.into_iter();
        Ok(traps
            .filter(|trap| trap["verdict"] == "bad")
            .collect::<Vec<_>>())
    };
    let limit = Duration::from_secs(10);
    let found = wait::until("it is seen", limit, bad, |bad| !bad.is_empty())?;
    let [trap] = found.as_slice() else {
        anyhow::bail!("one broker refuses: {found:#?}");
    };
    let detail = trap["detail"].as_str().context("detail")?;
    assert!(detail.contains(" refuses this host until 20"), "{detail}");
    // The fix is to wait. The clock that includes suspended time moves forward, so this ends at once.
    assert!(fix(trap)?.starts_with("wait;"));
    lab.tic()?.behave();
    let connects = lab.tic()?.connects().len();
    clock::displace(lab.paths(), 0, 3600)?;
    wait::until("it is over", limit, bad, Vec::is_empty)?;
    assert_eq!(lab.tic()?.connects().len(), connects, "it was left alone");
    fixture
        .program
        .run_ok(&["restart", lab.tunnels()[0].plan.interface])?;
    fixture.wait_until_up()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Processes are identified by their names, and only in the same network namespace.
#[test]
fn other_daemons_in_the_namespace_are_found() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    for about in ["networkd", "NetworkManager"] {
        assert!(traps(&fixture, about)?.is_empty(), "{about}");
    }
    let sleeps = fixture.lab.paths().base().join("NetworkManager");
    // Another process copies: the children of other tests would inherit a descriptor of this one, and a file that is open
    // for writing cannot be run.
    let copy = |from: &str, to: &Path| fixture.host().sh(&format!("cp {from} {}", to.display()));
    copy("/bin/sleep", &sleeps)?;
    let mut elsewhere = Command::new(&sleeps).arg("60").spawn()?;
    let found = traps(&fixture, "NetworkManager");
    elsewhere.kill()?;
    elsewhere.wait()?;
    assert!(found?.is_empty());
    let mut here = fixture.host().command(&sleeps).arg("60").spawn()?;
    let found = trap(&fixture, "NetworkManager", "note");
    here.kill()?;
    here.wait()?;
    let fix = fix(&found?)?;
    assert!(
        fix.contains("interface-name:sixxs0;interface-name:sixxs1"),
        "{fix}"
    );

    // A second daemon of an older version, with its own directories and without the check for a first one. It
    // is a copy of the shell, because a second daemon of this version would refuse to start.
    let daemon = fixture.start()?;
    let older = fixture.lab.paths().base().join("sixxs");
    copy("/bin/sh", &older)?;
    let mut other = fixture.host().command(&older);
    other.args(["-c", "while :; do sleep 0.2; done", "run"]);
    let mut other = other.spawn()?;
    let limit = Duration::from_secs(10);
    let seen = || {
        let all = traps(&fixture, "daemon")?.into_iter();
        Ok(all.filter(|t| t["fix"].is_string()).collect::<Vec<_>>())
    };
    let found = wait::until("it is seen", limit, seen, |found| !found.is_empty())?;
    apply(&fixture, found.first().context("one")?)?;
    other.wait()?;
    wait::until("it is gone", limit, seen, Vec::is_empty)?;
    assert_eq!(daemon.stop()?, 0);

    let mut nobody = fixture.program.command(&["doctor", "--json"]);
    nobody.env("SIXXS_GROUP", "nobody-has-this");
    let report: Value = serde_json::from_str(&shell_output(&mut nobody)?)?;
    let findings = report["findings"].as_array().context("findings")?;
    assert!(
        findings.iter().any(|finding| finding["about"] == "group"),
        "{report:#}"
    );
    Ok(())
}

/// Other programs that hang or print too much delay the doctor only for a short time.
#[test]
fn programs_that_hang_or_print_too_much_are_cut_off() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let scripts = fixture.lab.paths().base().join("scripts");
    std::fs::create_dir(&scripts)?;
    let path = format!("{}:{}", scripts.display(), std::env::var("PATH")?);
    for (script, expected) in [
        ("sleep 60", "longer than 2 s"),
        ("cat /dev/zero", "more than"),
        ("echo nonsense", "parse"),
        ("exit 3", "lists nothing"),
    ] {
        let nft = scripts.join("nft");
        std::fs::write(&nft, format!("#!/bin/sh\n{script}\n"))?;
        std::fs::set_permissions(&nft, std::fs::Permissions::from_mode(0o755))?;
        let mut doctor = fixture.program.command(&["doctor", "--json"]);
        doctor.env("PATH", &path);
        let started = Instant::now();
        let report: Value = serde_json::from_str(&shell_output(&mut doctor)?)?;
        assert!(
            started.elapsed() < Duration::from_secs(5),
            "{script}: {:?}",
            started.elapsed()
        );
        let said = report.to_string();
        assert!(
            said.contains("not checked") && said.contains(expected),
            "{script}: {report:#}"
        );
    }
    daemon.signal(Signal::SIGSTOP)?;
    let started = Instant::now();
    let found = trap(&fixture, "daemon", "bad");
    let explained = fixture
        .program
        .run(&["explain", "2001:db8:a::2", "2001:db8:ffff::9"]);
    daemon.signal(Signal::SIGCONT)?;
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "{:?}",
        started.elapsed()
    );
    assert!(
        found?["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("is it stopped?"))
    );
    assert!(explained?.stdout.contains("leaves by sixxs0"));
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A UDP service on the wildcard address replies from the uplink's address.
#[test]
fn a_udp_service_on_the_wildcard_address() -> Result<()> {
    const PORT: u16 = 5300;
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    // The lab's own discard service is also reported.
    let named = || -> Result<bool> {
        let found = trap(&fixture, "udp services", "note")?;
        Ok(found["detail"].to_string().contains("port 5300"))
    };
    assert!(!named()?);
    let [tunnel, _] = fixture.lab.tunnels();
    let server = fixture.host().run(|| Ok(UdpSocket::bind(("::", PORT))?))?;
    let client = fixture
        .lab
        .outside()
        .run(|| Ok(UdpSocket::bind(("::", 0))?))?;
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    }
    client.send_to(b"?", (tunnel.plan.address, PORT))?;
    let mut buffer = [0; 8];
    let (_, asker) = server.recv_from(&mut buffer)?;
    server.send_to(b"!", asker)?;
    let (_, answerer) = client.recv_from(&mut buffer)?;
    assert_ne!(answerer.ip(), tunnel.plan.address, "as it was asked");

    assert!(named()?);
    let fix = fix(&trap(&fixture, "udp services", "note")?)?;
    assert!(fix.contains("tcpdump -ni net0"), "{fix}");
    drop(server);
    // A process that another test is starting may have a copy of the socket for a moment.
    let limit = Duration::from_secs(5);
    wait::until("it is gone", limit, named, |named| !named)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
