//! Tunnels by WireGuard that the program makes and keeps.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::chaos::clock;
use sixxs_tests::kernel;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::probe::PingStream;
use sixxs_tests::program::status::Status;
use sixxs_tests::program::{Daemon, Hook};
use sixxs_tests::{shell, wait};

use crate::fixture::Fixture;

/// Limit for what is repaired at the next look at an interface, which comes within 10 s.
const REPAIRED: Duration = Duration::from_secs(30);

/// A lab where the program is to make both tunnels, by files of `wg-quick` after `edit`. `None`: the kernel has no
/// WireGuard.
fn fixture(edit: impl Fn(String) -> String) -> Result<Option<Fixture>> {
    if !kernel::can_run("wireguard", kernel::has_wireguard()?)? {
        return Ok(None);
    }
    let fixture = Fixture::with_spec(Spec::new(Flavour::WireGuard), Hook::Auto, "")?;
    for tunnel in fixture.lab.tunnels() {
        tunnel.delete()?;
    }
    let config = fixture.lab.write_quick_files(edit)?;
    fixture.lab.write_config(&config)?;
    Ok(Some(fixture))
}

/// Waits until both tunnels are up, and each has had a handshake. A handshake that was lost is repeated after 5 s.
fn wait_for_handshakes(fixture: &Fixture) -> Result<Status> {
    let status = wait::until(
        "both tunnels have had a handshake",
        REPAIRED,
        || fixture.program.status(),
        |status| {
            status.tunnels.iter().all(|tunnel| {
                let wireguard = tunnel.wireguard.as_ref();
                let handshake = wireguard.and_then(|known| known.latest_handshake_seconds_ago);
                tunnel.is_whole() && handshake.is_some()
            })
        },
    )?;
    fixture.wait_for_addresses()?;
    Ok(status)
}

/// Waits until a stream has had this many more answers.
fn wait_for_answers(stream: &PingStream, more: u64) -> Result<()> {
    let before = stream.state().pings.answered;
    wait::until(
        "pings are answered",
        REPAIRED,
        || Ok(stream.state().pings.answered),
        |answered| *answered >= before + more,
    )?;
    Ok(())
}

fn stream(fixture: &Fixture, index: usize) -> Result<PingStream> {
    let address = fixture.lab.tunnels()[index].plan.address;
    PingStream::start(fixture.lab.outside(), address, Duration::from_millis(10))
}

/// The configuration of an interface, with its keys.
fn configuration(fixture: &Fixture, name: &str) -> Result<String> {
    fixture.host().sh(&format!("wg showconf {name}"))
}

/// The private keys of the lab's files.
fn private_keys(fixture: &Fixture) -> Result<Vec<String>> {
    let tunnels = fixture.lab.tunnels().iter();
    let key = |text: String| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("PrivateKey = "));
        line.map(str::to_owned).context("a file has a key")
    };
    tunnels.map(|tunnel| key(tunnel.quick_file()?)).collect()
}

#[test]
fn every_reply_takes_its_tunnel() -> Result<()> {
    let Some(fixture) = fixture(|file| file + "# PostUp is noted\n[Interface]\n")? else {
        return Ok(());
    };
    // The second [Interface] is a fault, which the daemon reports.
    let faulty = fixture.program.run(&["run"])?;
    assert_eq!(faulty.code, 2, "{faulty:?}");
    ensure!(
        faulty.stderr.contains("expected one section [Interface]"),
        "{faulty:?}"
    );
    let noted = |file: String| file.replace("[Peer]", "PostUp = touch /tmp/was-run\n[Peer]");
    let config = fixture.lab.write_quick_files(noted)?;
    fixture.lab.write_config(&config)?;
    let daemon = fixture.start()?;
    let status = wait_for_handshakes(&fixture).with_context(|| daemon.log())?;
    for (tunnel, shown) in fixture.lab.tunnels().iter().zip(&status.tunnels) {
        fixture
            .ensure_outside_answered(tunnel)
            .with_context(|| daemon.log())?;
        assert_eq!(shown.kind, "wireguard");
        assert_eq!(shown.mtu, Some(1280));
        let wireguard = shown.wireguard.clone().context("it has peers")?;
        let remote = format!(
            "{}:{}",
            tunnel.plan.remote4,
            wireguard.listen_port.unwrap_or(0)
        );
        assert_eq!(wireguard.endpoint.as_ref(), Some(&remote), "{wireguard:?}");
        assert_eq!(wireguard.peers.len(), 1);
        assert_eq!(wireguard.peers[0].keepalive_seconds, Some(10));
    }
    fixture.ensure_nothing_lost()?;
    ensure!(
        daemon.log().contains("PostUp has no effect"),
        "{}",
        daemon.log()
    );
    // The outer packets are counted.
    let (_, printed) = fixture.program.json(&["status"])?;
    for tunnel in printed[0]["tunnels"].as_array().into_iter().flatten() {
        let packets = &tunnel["outer"]["packets"];
        let is_some = |count: &Value| count.as_u64().is_some_and(|count| count > 20);
        ensure!(
            is_some(&packets["in"]) && is_some(&packets["out"]),
            "{tunnel:#}"
        );
    }
    let mut shown = vec![daemon.log()];
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["plan"],
        &["check"],
        &["alerts"],
        &["doctor"],
    ] {
        let printed = fixture.program.run(arguments)?;
        shown.push(printed.stdout + &printed.stderr);
    }
    for key in private_keys(&fixture)? {
        ensure!(shown.iter().all(|text| !text.contains(&key)), "{shown:#?}");
    }
    fixture.program.run_ok(&["down"])?;
    let links = fixture.host().sh("ip -brief link show")?;
    assert!(!links.contains("sixxs"), "{links}");
    assert_eq!(daemon.wait()?, 0);
    Ok(())
}

#[test]
fn a_restart_loses_nothing() -> Result<()> {
    let Some(fixture) = fixture(|file| file)? else {
        return Ok(());
    };
    let mut daemon = fixture.start()?;
    let before = wait_for_handshakes(&fixture)?;
    let streams = [stream(&fixture, 0)?, stream(&fixture, 1)?];
    let ends: [fn(Daemon) -> Result<()>; 3] = [
        Daemon::kill,
        |daemon| {
            assert_eq!(daemon.stop()?, 0);
            Ok(())
        },
        Daemon::kill,
    ];
    for end in ends {
        for stream in &streams {
            wait_for_answers(stream, 30)?;
        }
        end(daemon)?;
        for stream in &streams {
            wait_for_answers(stream, 30)?;
        }
        daemon = fixture.start()?;
        println!("ready after {:?}", daemon.ready_after());
        wait_for_handshakes(&fixture)?;
    }
    let after = fixture.program.status()?;
    for (index, stream) in streams.into_iter().enumerate() {
        let pings = stream.stop()?;
        println!("{pings:?}");
        ensure!(pings.all_answered(), "{pings:?}");
        assert_eq!(after.tunnels[index].ifindex, before.tunnels[index].ifindex);
    }
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn what_others_change_is_restored() -> Result<()> {
    let Some(fixture) = fixture(|file| file)? else {
        return Ok(());
    };
    let daemon = fixture.start()?;
    wait_for_handshakes(&fixture)?;
    let [first, second] = fixture.lab.tunnels();
    let name = first.plan.interface;
    let whole = configuration(&fixture, name)?;
    let peer = fixture.host().sh(&format!("wg show {name} peers"))?;
    let peer = peer.trim();
    let strange = "F+AiHkqYBtJ64XLj7FWoKupndrPEO/+MY650FFSJjU4=";
    for damage in [
        format!("wg set {name} peer {peer} remove"),
        format!("wg genkey | wg set {name} private-key /dev/stdin"),
        format!("wg set {name} peer {peer} allowed-ips 2001:db8:77::/48"),
        format!("wg set {name} peer {peer} persistent-keepalive off"),
        format!("wg genpsk | wg set {name} peer {peer} preshared-key /dev/stdin"),
        format!("wg set {name} listen-port 40000 fwmark 7"),
        format!("wg set {name} peer {strange} allowed-ips 192.0.2.0/24"),
        format!("ip -6 address delete {}/64 dev {name}", first.plan.address),
        format!("ip link set {name} down"),
        format!("ip link delete {name}"),
    ] {
        let before = fixture.program.status()?;
        let mut shell = fixture.host().command("sh");
        shell::capture(shell.args(["-c", &damage]))?;
        wait::until(
            &format!("{damage}: it is restored"),
            REPAIRED,
            || Ok((configuration(&fixture, name)?, fixture.program.status()?)),
            |(found, status)| {
                let is_new = status.corrections > before.corrections
                    || status.tunnel(name).ifindex != before.tunnel(name).ifindex;
                is_new && *found == whole && status.tunnel(name).is_whole()
            },
        )
        .with_context(|| daemon.log())?;
        let stream = stream(&fixture, 0)?;
        wait_for_answers(&stream, 3).with_context(|| damage.clone())?;
        stream.stop()?;
    }
    let alerts = fixture.program.run_ok(&["alerts"])?.stdout;
    ensure!(
        alerts.contains(&format!("wireguard {name}: peer {peer} added")),
        "{alerts}"
    );
    fixture.ensure_outside_answered(second)?;
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Other peers, with the same interface and without a lost packet.
#[test]
fn a_reload_changes_peers_alone() -> Result<()> {
    let Some(fixture) = fixture(|file| file)? else {
        return Ok(());
    };
    let daemon = fixture.start()?;
    let before = wait_for_handshakes(&fixture)?;
    let stream = stream(&fixture, 0)?;
    wait_for_answers(&stream, 30)?;
    let more = "[Peer]\nPublicKey = F+AiHkqYBtJ64XLj7FWoKupndrPEO/+MY650FFSJjU4=\n\
                AllowedIPs = 192.0.2.0/24\n";
    let changed = |file: String| {
        let file = file.replace("PersistentKeepalive = 10", "PersistentKeepalive = 20");
        file.replace("AllowedIPs = ::/0", "AllowedIPs = ::/0, 10.0.0.0/8") + more
    };
    fixture.lab.write_quick_files(changed)?;
    let check = fixture.program.run(&["reload", "--check"])?;
    assert_eq!(check.code, 3, "{check:?}");
    ensure!(!check.stdout.contains("restart"), "{check:?}");
    fixture.program.run_ok(&["reload"])?;
    let name = fixture.lab.tunnels()[0].plan.interface;
    wait::until(
        "the peers are as in the files",
        REPAIRED,
        || configuration(&fixture, name),
        |found| {
            found.contains("F+Ai")
                && found.contains("PersistentKeepalive = 20")
                && found.contains("10.0.0.0/8")
        },
    )?;
    wait_for_answers(&stream, 30)?;
    fixture.lab.write_quick_files(|file| file)?;
    fixture.program.run_ok(&["reload"])?;
    wait::until(
        "the second peer is gone",
        REPAIRED,
        || configuration(&fixture, name),
        |found| !found.contains("F+Ai") && found.contains("PersistentKeepalive = 10"),
    )?;
    wait_for_answers(&stream, 30)?;
    let pings = stream.stop()?;
    ensure!(pings.all_answered(), "{pings:?}");
    let after = fixture.program.status()?;
    assert_eq!(after.tunnel(name).ifindex, before.tunnel(name).ifindex);
    assert_eq!(after.corrections, before.corrections, "{}", daemon.log());
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn a_foreign_interface_stays_as_it_is() -> Result<()> {
    let Some(fixture) = fixture(|file| file)? else {
        return Ok(());
    };
    let [first, second] = fixture.lab.tunnels();
    let name = first.plan.interface;
    first.create()?;
    let before = configuration(&fixture, name)?;
    let daemon = fixture.start()?;
    let status = fixture
        .program
        .status_until("it is reported", |status| {
            let reason = status.tunnel(name).reason.as_deref();
            let is_told =
                reason.is_some_and(|reason| reason.contains("an interface with that name exists"));
            is_told && status.tunnel(second.plan.interface).is_whole()
        })
        .with_context(|| daemon.log())?;
    assert_eq!(status.tunnel(name).state, "failed");
    assert_eq!(configuration(&fixture, name)?, before);
    fixture.program.run_ok(&["down"])?;
    assert_eq!(daemon.wait()?, 0);
    assert_eq!(configuration(&fixture, name)?, before);
    // As soon as it is gone, the daemon makes its own.
    let daemon = fixture.start()?;
    fixture
        .program
        .status_until("it is reported again", |status| {
            status.tunnel(name).state == "failed"
        })?;
    first.delete()?;
    wait_for_handshakes(&fixture).with_context(|| daemon.log())?;
    fixture.ensure_outside_answered(first)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The name gets another address, over IPv6, while packets pass. It is looked up when the handshake is older than
/// 180 s.
#[test]
fn a_name_that_moves() -> Result<()> {
    let by_name = |file: String| {
        file.replace("Endpoint = 198.51.100.1", "Endpoint = vpn.example")
            .replace("Endpoint = 198.51.100.2", "Endpoint = missing.example")
    };
    let Some(fixture) = fixture(by_name)? else {
        return Ok(());
    };
    let [first, second] = fixture.lab.tunnels();
    let [name, other] = [first, second].map(|tunnel| tunnel.plan.interface);
    let hosts = fixture.lab.paths().config().with_file_name("hosts");
    fs::write(&hosts, "198.51.100.1 vpn.example\n")?;
    // The daemon has its own /etc/hosts, in a mount namespace.
    let script = format!(
        "mount -o bind {} /etc/hosts && exec {} {}",
        hosts.display(),
        fixture.program.binary().display(),
        clock::MOVABLE.join(" ")
    );
    let mut command = fixture.host().command("unshare");
    fixture.program.apply_environment(&mut command);
    command.args(["-m", "sh", "-c", &script]);
    let daemon = fixture.program.start_as(command)?;
    let endpoint_is = |wanted: &str| {
        wait::until(
            &format!("the endpoint is {wanted}"),
            2 * REPAIRED,
            || fixture.program.status(),
            |status| {
                let wireguard = status.tunnel(name).wireguard.as_ref();
                wireguard.is_some_and(|known| {
                    let is_there = known.endpoint.as_deref() == Some(wanted);
                    is_there && known.latest_handshake_seconds_ago.is_some()
                })
            },
        )
        .with_context(|| daemon.log())
    };
    let status = endpoint_is("198.51.100.1:51820")?;
    let unknown = status.tunnel(other);
    assert_eq!(unknown.state, "connecting");
    let reason = unknown.reason.clone().unwrap_or_default();
    ensure!(reason.contains("missing.example"), "{reason}");

    fixture.wait_for_addresses()?;
    let stream = stream(&fixture, 0)?;
    wait_for_answers(&stream, 10)?;
    fs::write(
        &hosts,
        format!(
            "{} vpn.example\n198.51.100.2 missing.example\n",
            first.plan.remote6
        ),
    )?;
    clock::displace(fixture.lab.paths(), 0, 200)?;
    endpoint_is(&format!("[{}]:51820", first.plan.remote6))?;
    wait_for_answers(&stream, 30)?;
    let pings = stream.stop()?;
    ensure!(pings.all_answered(), "{pings:?}");
    // The programs know the new endpoint: they count its packets, and keep them out of the tunnel.
    let expected = format!("[{}]:51820", first.plan.remote6);
    wait::until(
        "the programs know the new endpoint",
        REPAIRED,
        || Ok(fixture.program.json(&["status"])?.1),
        |printed| printed[0]["tunnels"][0]["outer"]["endpoints"][0] == expected.as_str(),
    )?;
    // The name that was missing is there now.
    fixture
        .program
        .status_until("the second tunnel is up", |status| {
            status.tunnel(other).is_whole()
        })?;
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The far end does not answer: with keepalives that is certain after a time.
#[test]
fn a_peer_that_never_answers_is_reported() -> Result<()> {
    let Some(fixture) = fixture(|file| file)? else {
        return Ok(());
    };
    let [first, _] = fixture.lab.tunnels();
    let name = first.plan.interface;
    first.pop().ip("link set host down\n")?;
    let mut command = fixture.program.command(&clock::MOVABLE);
    command.env("SIXXS_LOG", "debug");
    let daemon = fixture.program.start_as(command)?;
    fixture.program.status_until("it is configured", |status| {
        status.tunnel(name).wireguard.is_some()
    })?;
    clock::displace(fixture.lab.paths(), 0, 300)?;
    let reasons = |status: &Status| status.tunnel(name).health_reasons.join("; ");
    let status = fixture
        .program
        .status_until("it is reported", |status| {
            reasons(status).contains("has never answered")
        })
        .with_context(|| daemon.log())?;
    assert_eq!(status.tunnel(name).health, "failing");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn a_file_that_others_can_read_is_refused() -> Result<()> {
    let Some(fixture) = fixture(|file| file)? else {
        return Ok(());
    };
    let file = fixture.lab.paths().config().with_file_name("sixxs0.conf");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    let refused = fixture.program.run(&["run"])?;
    assert_eq!(refused.code, 2, "{refused:?}");
    ensure!(refused.stderr.contains("run `chmod o= "), "{refused:?}");
    Ok(())
}

/// A kernel without WireGuard: the tunnel fails with a sentence, and doctor has it too. Others work.
#[test]
fn a_kernel_without_it_is_reported() -> Result<()> {
    if kernel::has_wireguard()? {
        println!("skipped: this kernel has WireGuard");
        return Ok(());
    }
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let more = "[[tunnel]]\nname = \"wg7\"\nkind = \"wireguard\"\naddress = \"2001:db8:77::2/64\"\n\
                private_key = \"6JE6zdqFNHGENX7+MQVWfqS7VmpKmjrYbKXpisHRElA=\"\n";
    let path = fixture.lab.write_config(&(fixture.lab.config("") + more))?;
    // The file has a key in it now.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    let daemon = fixture.start()?;
    let status = fixture.program.status_until("it is reported", |status| {
        status.tunnel("wg7").state == "failed" && status.tunnel("sixxs0").is_whole()
    })?;
    let shown = status.tunnel("wg7");
    let reason = shown.reason.clone().unwrap_or_default();
    ensure!(
        shown.retrying && reason.contains("modprobe wireguard"),
        "{shown:?}"
    );
    let doctor = fixture.program.run(&["doctor"])?.stdout;
    ensure!(doctor.contains("the kernel has no WireGuard"), "{doctor}");
    fixture.ensure_outside_answered(&fixture.lab.tunnels()[0])?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
