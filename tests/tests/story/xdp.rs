//! The XDP program at uplinks: it drops forged packets and answers pings, and leaves other software's programs alone.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::broker::Kind;
use sixxs_tests::broker::forge::Attack;
use sixxs_tests::broker::pop::Source;
use sixxs_tests::kernel::bpf;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, UPLINK};
use sixxs_tests::lab::{Spec, Tunnel, nft};
use sixxs_tests::probe::{self, Ping, frame};
use sixxs_tests::program::{Daemon, Hook, status};
use sixxs_tests::wait;

use crate::answer_echo::FIREWALL;
use crate::fixture::Fixture;
use crate::native_attacks::arrived;

/// A host that is no broker.
const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);
/// Number of packets of each attack.
const EACH: u64 = 500;
const LIMIT: Duration = Duration::from_secs(10);

/// A lab with a 6in4 and an AYIYA tunnel, and a daemon with this configuration.
fn start(extra: &str) -> Result<(Fixture, Daemon)> {
    let kinds = [Kind::SixInFour, Kind::Ayiya];
    let fixture = Fixture::with_spec(Spec::native(kinds), Hook::Auto, extra)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    Ok((fixture, daemon))
}

/// Where the XDP program is attached, by the daemon's status; else why it is not.
pub(crate) fn state(fixture: &Fixture) -> Result<String> {
    let status = fixture.program.status()?;
    let xdp = status.uplinks.first().and_then(|uplink| uplink.xdp.clone());
    let xdp = xdp.context("the status of the XDP program")?;
    let word = xdp.mode.or(xdp.reason);
    word.context("neither a mode nor a reason")
}

/// Sends forged packets to both tunnels. Each is counted by its reason, and both tunnels work.
pub(crate) fn forged_packets_are_counted(fixture: &Fixture) -> Result<()> {
    let [plain, sealed] = fixture.lab.tunnels();
    let count = |tunnel: &Tunnel, reason: &str| {
        let status = fixture.program.status()?;
        let refused = &status.tunnel(tunnel.plan.interface).refused;
        anyhow::Ok(refused.get(reason).copied().unwrap_or_default())
    };
    // The kernel may handle the last packets a moment after they are sent.
    let grown = |tunnel: &Tunnel, reason: &str, before: u64, least: u64| {
        let counted = || count(tunnel, reason);
        wait::until(reason, LIMIT, counted, |now| *now >= before + least)
    };
    let stranger = Source::Other(SocketAddrV4::new(STRANGER, 5072));
    let inner = frame::udp(OUTSIDE, plain.plan.address, b"an intruder")?;
    let own = frame::udp(plain.plan.address, plain.plan.address, b"our own")?;
    let times = usize::try_from(EACH)?;
    let before = [count(plain, "stranger")?, count(plain, "own_source")?];
    let broker = plain.broker()?;
    let repeat = |packet: &Vec<u8>| std::iter::repeat_n(packet.clone(), times);
    broker.inject(plain.plan.address, stranger, repeat(&inner))?;
    broker.inject(plain.plan.address, Source::Own, repeat(&own))?;
    for (reason, before) in ["stranger", "own_source"].into_iter().zip(before) {
        let after = grown(plain, reason, before, EACH)?;
        ensure!(after == before + EACH, "{reason}: {before}, then {after}");
    }
    let (pop, address) = (sealed.broker()?, sealed.plan.address);
    let packet = frame::udp(OUTSIDE, address, b"an intruder")?;
    let forger = pop.forger(address, 7)?;
    for (attack, reason, least) in [
        (Attack::Early, "time", EACH),
        (Attack::Reflected, "identity", EACH),
        // Some have another fault instead.
        (Attack::Header, "header", EACH / 4),
        (Attack::Truncated, "short", EACH / 4),
    ] {
        let before = count(sealed, reason)?;
        pop.inject(address, Source::Own, forger.wrong(attack, &packet, times))?;
        let after = grown(sealed, reason, before, least)?;
        ensure!(after <= before + EACH, "{reason}: {before}, then {after}");
    }
    let before = count(sealed, "stranger_flood")?;
    let right = std::iter::repeat_with(|| forger.right(&packet)).take(times);
    pop.inject(address, stranger, right)?;
    grown(sealed, "stranger_flood", before, 1)?;
    ensure!(fixture.host_discarded() == 0);
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    Ok(())
}

fn forged_packets_are_dropped(mode: &str) -> Result<()> {
    let (fixture, daemon) = start(&format!("xdp = \"{mode}\""))?;
    ensure!(state(&fixture)? == mode, "{}", state(&fixture)?);
    let attached = bpf::xdp(fixture.host(), UPLINK)?.context("a program")?;
    ensure!(attached.is_native == (mode == "native"), "{attached:?}");
    forged_packets_are_counted(&fixture)?;
    let screen = fixture.program.run_ok(&["status"])?.stdout;
    ensure!(screen.contains(&format!(", XDP {mode}\n")), "{screen}");
    // A new daemon replaces the program, and keeps the link and the counters.
    ensure!(daemon.stop()? == 0);
    ensure!(bpf::xdp(fixture.host(), UPLINK)? == Some(attached));
    let _daemon = fixture.start()?;
    fixture.wait_until_up()?;
    ensure!(bpf::xdp(fixture.host(), UPLINK)? != Some(attached));
    forged_packets_are_counted(&fixture)?;
    let down = fixture.program.run_ok(&["down"])?;
    // The kernel detaches it a moment later.
    let found = || bpf::xdp(fixture.host(), UPLINK);
    wait::until("it is gone", LIMIT, found, Option::is_none).context(down.stdout)?;
    Ok(())
}

#[test]
fn forged_packets_are_dropped_in_the_driver() -> Result<()> {
    forged_packets_are_dropped("native")
}

#[test]
fn forged_packets_are_dropped_in_generic_mode() -> Result<()> {
    forged_packets_are_dropped("generic")
}

/// On a veth, XDP has a price, so the programs at TC drop the same packets.
#[test]
fn without_xdp_the_programs_at_tc_drop_forged_packets() -> Result<()> {
    let (fixture, _daemon) = start("")?;
    let reason = state(&fixture)?;
    ensure!(reason.starts_with("on a veth pair"), "{reason}");
    ensure!(bpf::xdp(fixture.host(), UPLINK)?.is_none());
    forged_packets_are_counted(&fixture)?;
    let doctor = fixture.program.run(&["doctor"])?.stdout;
    ensure!(
        doctor.contains("no XDP program at net0: on a veth pair"),
        "{doctor}"
    );
    Ok(())
}

/// The firewall drops requests, and rules and the daemon are gone. In native mode, a veth pair might lose what the
/// program sends back, so the program at TC answers there.
#[test]
fn pings_are_answered_by_xdp() -> Result<()> {
    let (fixture, daemon) = start("xdp = \"generic\"\nanswer_echo = \"kernel\"")?;
    nft::load(fixture.host(), FIREWALL)?;
    let [tunnel, _] = fixture.lab.tunnels();
    let counts = || {
        let status = fixture.program.status()?;
        let tunnel = status.tunnel(tunnel.plan.interface);
        anyhow::Ok((
            tunnel.echo.requests_in,
            tunnel.echo.replies_out,
            tunnel.proof.requests,
        ))
    };
    let answers = |what: &str| {
        for bytes in [8, 56, 500, 1232] {
            let ping = Ping::new(tunnel.plan.address, 10).bytes(bytes);
            let pings = ping.run(fixture.lab.outside())?;
            ensure!(pings.all_answered(), "{what}, {bytes} bytes: {pings:?}");
        }
        Ok(())
    };
    let before = (fixture.host().counts()?, arrived(&fixture, tunnel)?);
    answers("with a firewall")?;
    ensure!(counts()? == (40, 40, 0), "{:?}", counts()?);
    // They have reached neither the host's stack nor the tunnel's interface.
    let changes = before.0.changes(&fixture.host().counts()?);
    ensure!(!changes.contains("Icmp6InEchos"), "{changes}");
    ensure!(arrived(&fixture, tunnel)? == before.1);
    daemon.kill()?;
    fixture.delete_own_rules()?;
    answers("without rules and daemon")?;
    fixture.ensure_nothing_lost()
}

/// Somebody else's program stays. Once it is gone, ours is attached.
#[test]
fn foreign_programs_stay() -> Result<()> {
    let kinds = [Kind::SixInFour, Kind::Ayiya];
    let fixture = Fixture::with_spec(Spec::native(kinds), Hook::Auto, "xdp = \"native\"")?;
    let foreign = bpf::attach_xdp(fixture.host(), UPLINK, false)?;
    let theirs = bpf::xdp(fixture.host(), UPLINK)?.context("a program")?;
    let _daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let reason = state(&fixture)?;
    ensure!(
        reason.starts_with("another XDP program is attached: "),
        "{reason}"
    );
    ensure!(bpf::xdp(fixture.host(), UPLINK)? == Some(theirs));
    forged_packets_are_counted(&fixture)?;
    let problem = "attach the XDP program to net0: another XDP program is attached";
    fixture.program.status_until("it is a problem", |status| {
        let mut problems = status.problems.iter();
        problems.any(|found| found.starts_with(problem))
    })?;
    drop(foreign);
    wait::until(
        "ours is attached",
        LIMIT,
        || state(&fixture),
        |state| state == "native",
    )?;
    let ours = bpf::xdp(fixture.host(), UPLINK)?.context("a program")?;
    ensure!(ours.program != theirs.program && ours.is_native);
    // Nobody replaces ours by accident. With `off` it is gone.
    ensure!(bpf::attach_xdp(fixture.host(), UPLINK, true).is_err());
    fixture
        .lab
        .write_config(&fixture.lab.config("xdp = { net0 = \"off\" }"))?;
    fixture.program.run_ok(&["reload"])?;
    ensure!(state(&fixture)? == "turned off in the configuration");
    let _foreign = bpf::attach_xdp(fixture.host(), UPLINK, true)?;
    fixture.ensure_outside_answered(&fixture.lab.tunnels()[0])?;
    Ok(())
}

/// Other software detaches the program by force, or removes its pin.
#[test]
fn a_detached_program_comes_back() -> Result<()> {
    let (fixture, daemon) = start("xdp = \"native\"")?;
    let index = fixture.program.status()?.uplinks[0].ifindex;
    let index = index.context("an index")?;
    let pin = fixture.layout_dir()?.join(format!("links/{index}-xdp"));
    ensure!(pin.exists(), "{}", pin.display());
    bpf::detach_pinned(&pin)?;
    wait::until(
        "it is attached again",
        LIMIT,
        || bpf::xdp(fixture.host(), UPLINK),
        Option::is_some,
    )?;
    fixture
        .program
        .status_until("it is a correction", |status| status.corrections > 0)?;
    let log = daemon.log();
    ensure!(log.contains("attach the program to net0 XDP"), "{log}");
    std::fs::remove_file(&pin)?;
    // Any round pins it again.
    fixture.host().sh("ip link set dev net0 alias changed")?;
    wait::until("it is pinned", LIMIT, || Ok(pin.exists()), |there| *there)?;
    // The link outlives the daemon.
    daemon.kill()?;
    ensure!(bpf::xdp(fixture.host(), UPLINK)?.is_some());
    let _daemon = fixture.start()?;
    fixture.wait_until_up()?;
    forged_packets_are_counted(&fixture)
}

/// A driver that loses nothing gets the program in the mode "auto".
#[test]
fn auto_takes_drivers_that_lose_nothing() -> Result<()> {
    let kinds = [Kind::SixInFour, Kind::Ayiya];
    let fixture = Fixture::with_spec(Spec::native(kinds), Hook::Auto, "")?;
    let host = fixture.host();
    host.sh("ip tuntap add dev net1 mode tap")?;
    host.sh("ip link set dev net1 up")?;
    let config = fixture.lab.config("");
    let both = config.replacen("uplinks = [\"net0\"]", "uplinks = [\"net0\", \"net1\"]", 1);
    ensure!(config != both, "{config}");
    fixture.lab.write_config(&both)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    let is_native = |status: &status::Status| {
        let mut uplinks = status.uplinks.iter();
        uplinks.any(|uplink| {
            let mode = uplink.xdp.as_ref().and_then(|xdp| xdp.mode.as_deref());
            uplink.name == "net1" && mode == Some("native")
        })
    };
    fixture.program.status_until("it is attached", is_native)?;
    ensure!(bpf::xdp(host, "net1")?.is_some_and(|xdp| xdp.is_native));
    Ok(())
}

/// Tunnels of other software are not screened, so their hosts have no XDP program.
#[test]
fn without_native_tunnels_there_is_no_program() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::new(Flavour::Tun), Hook::Auto, "xdp = \"native\"")?;
    let _daemon = fixture.start()?;
    let status = fixture.program.status()?;
    ensure!(status.uplinks[0].xdp.is_none(), "{status:#?}");
    ensure!(bpf::xdp(fixture.host(), UPLINK)?.is_none());
    let tunnel = &fixture.lab.tunnels()[0];
    ensure!(probe::ping(fixture.lab.outside(), tunnel.plan.address, 5)?.all_answered());
    Ok(())
}

/// A foreign `sit` interface or socket may receive protocol 41 at the same address.
#[test]
fn packets_for_foreign_receivers_pass() -> Result<()> {
    let (fixture, _daemon) = start("xdp = \"native\"")?;
    let [plain, _] = fixture.lab.tunnels();
    let count = || {
        let status = fixture.program.status()?;
        let refused = &status.tunnel(plain.plan.interface).refused;
        anyhow::Ok(refused.get("stranger").copied().unwrap_or_default())
    };
    let stranger = Source::Other(SocketAddrV4::new(STRANGER, 0));
    let inner = frame::udp(OUTSIDE, plain.plan.address, b"an intruder")?;
    let send = || {
        let packets = std::iter::repeat_n(inner.clone(), 10);
        plain
            .broker()?
            .inject(plain.plan.address, stranger, packets)
    };
    send()?;
    ensure!(count()? == 10, "{}", count()?);
    let socket = fixture.host().run(|| {
        use socket2::{Domain, Protocol, Socket, Type};
        Ok(Socket::new(
            Domain::IPV4,
            Type::RAW,
            Some(Protocol::from(41)),
        )?)
    })?;
    // Any round finds it.
    fixture.host().sh("ip link set dev net0 alias changed")?;
    wait::until(
        "strangers pass",
        LIMIT,
        || {
            let before = count()?;
            send()?;
            Ok(count()? - before)
        },
        |dropped| *dropped == 0,
    )?;
    let mut bytes = [std::mem::MaybeUninit::uninit(); 128];
    socket.set_read_timeout(Some(LIMIT))?;
    // Packets of the broker arrive there, too.
    for _ in 0..100 {
        let (_, sender) = socket.recv_from(&mut bytes)?;
        let sender = sender.as_socket_ipv4().context("an address")?;
        if *sender.ip() == STRANGER {
            return Ok(());
        }
    }
    anyhow::bail!("no packet of the stranger")
}
