//! Forged outer packets: which are dropped, by the program at TC and by the one at XDP alike. Also the pings that the
//! XDP program answers.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use sixxs_common::answer::{ANSWERS_PER_SECOND, HOP_LIMIT};
use sixxs_common::screening::{Forgery, STRANGERS_PER_SECOND};
use sixxs_common::stat::Stat;
use sixxs_core::config::OnLeak;
use sixxs_core::enforce::Role;
use sixxs_core::enforce::screening::{Encapsulation, OuterEnds};
use sixxs_core::types::Mtu;
use sixxs_tests::kernel::program_harness::{Direction, Host, Programs};
use sixxs_tests::probe::packets::{
    ECHO_REPLY, ECHO_REQUEST, ICMPV6, IPV4_TYPE, IPV6_TYPE, UDP, VLAN_TYPE, checksum, ethernet,
    ipv6,
};

use crate::answers::echo;
use crate::golden::{NEXT, OUTSIDE, SHOT, address, host};
use crate::outer_traffic::{frame, packet4};

const HERE: [u8; 4] = [192, 0, 2, 10];
const BROKER: [u8; 4] = [198, 51, 100, 1];
const POP: [u8; 4] = [198, 51, 100, 2];
const STRANGER: [u8; 4] = [203, 0, 113, 9];
const PORT: u16 = 4000;
const IDENTITY: &str = "2001:db8:b::1";
const OWN: &str = "2001:db8:a::2";

/// Protocol number of 6in4.
const SIX_IN_FOUR: u8 = 41;

/// `enum xdp_action`.
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const XDP_TX: i32 = 3;

/// An uplink to the brokers of `plain`, by 6in4, and of `gated`, by AYIYA.
fn screening_host() -> Result<Host> {
    let mut host = host("net0", Role::Uplink)?;
    let here = host.0.interfaces.get_mut(&"net0".parse()?);
    here.context("the interface")?.is_underlay = true;
    let ends = |broker: [u8; 4], by| OuterEnds {
        local: HERE.into(),
        broker: broker.into(),
        by,
    };
    let datagrams = Encapsulation::Ayiya {
        port: PORT,
        identity: address(IDENTITY),
    };
    let screening = &mut host.0.screening;
    let plain = ends(BROKER, Encapsulation::SixInFour);
    screening.ends.insert("plain".parse()?, plain);
    screening
        .ends
        .insert("gated".parse()?, ends(POP, datagrams));
    screening.checks_time = true;
    host.0.answers_echo = true;
    let tunnel = host.0.tunnels.get_mut(&"plain".parse()?);
    tunnel.context("the tunnel")?.mtu = Mtu(1480);
    Ok(host)
}

fn programs() -> Result<Programs> {
    let mut programs = Programs::load()?;
    programs.kernel.write_maps(&screening_host()?.0)?;
    Ok(programs)
}

fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a short datagram");
    let mut bytes = [5072_u16, port, length, 0].map(u16::to_be_bytes).concat();
    bytes.extend(payload);
    bytes
}

/// An AYIYA datagram without a valid signature, `ahead` seconds from now.
fn sealed(ahead: i64, identity: &str, payload: &[u8]) -> Result<Vec<u8>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let time = u32::try_from(i64::try_from(now)? + ahead)?;
    let mut bytes = vec![0x41, 0x52, 0x11, if payload.is_empty() { 59 } else { 41 }];
    bytes.extend(time.to_be_bytes());
    bytes.extend(address(identity).octets());
    bytes.extend([7; 20]);
    bytes.extend(payload);
    Ok(bytes)
}

fn inner(source: &str) -> Vec<u8> {
    ipv6(address(source), address(OWN), UDP, &[0; 64])
}

type Forged = Option<(&'static str, Forgery)>;

fn by_six_in_four() -> Vec<(&'static str, Vec<u8>, Forged)> {
    let stranger = Some(("plain", Forgery::Stranger));
    let packet = |from, to, inner: &[u8]| packet4(from, to, SIX_IN_FOUR, inner);
    let mut options = packet(STRANGER, HERE, &[vec![1; 4], inner(OUTSIDE)].concat());
    options[0] = 0x46;
    let mut fragment = packet(STRANGER, HERE, &inner(OUTSIDE));
    fragment[6] = 0x20;
    vec![
        ("its broker", packet(BROKER, HERE, &inner(OUTSIDE)), None),
        (
            "a stranger",
            packet(STRANGER, HERE, &inner(OUTSIDE)),
            stranger,
        ),
        (
            "the broker of another tunnel",
            packet(POP, HERE, &inner(OUTSIDE)),
            stranger,
        ),
        (
            "to another address",
            packet(STRANGER, [192, 0, 2, 11], &inner(OUTSIDE)),
            None,
        ),
        (
            "its own source",
            packet(BROKER, HERE, &inner(OWN)),
            Some(("plain", Forgery::OwnSource)),
        ),
        (
            "a source of another tunnel",
            packet(BROKER, HERE, &inner("2001:db8:bb::7")),
            Some(("plain", Forgery::OwnSource)),
        ),
        ("IPv4 options", options, None),
        ("a fragment", fragment, None),
        ("no inner packet", packet(BROKER, HERE, &[0x60; 20]), None),
    ]
}

fn by_ayiya() -> Result<Vec<(&'static str, Vec<u8>, Forged)>> {
    let packet = |payload: &[u8]| packet4(POP, HERE, UDP, &datagram(PORT, payload));
    let forged = |reason| Some(("gated", reason));
    let mut md5 = sealed(0, IDENTITY, &[])?;
    md5[1] = 0x41;
    Ok(vec![
        ("a noop", packet(&sealed(0, IDENTITY, &[])?), None),
        (
            "a packet",
            packet(&sealed(0, IDENTITY, &inner(OUTSIDE))?),
            None,
        ),
        (
            "a clock behind",
            packet(&sealed(-110, IDENTITY, &[])?),
            None,
        ),
        ("a clock ahead", packet(&sealed(110, IDENTITY, &[])?), None),
        (
            "another time",
            packet(&sealed(-200, IDENTITY, &[])?),
            forged(Forgery::Time),
        ),
        (
            "the future",
            packet(&sealed(200, IDENTITY, &[])?),
            forged(Forgery::Time),
        ),
        (
            "another identity",
            packet(&sealed(0, "2001:db8:b::2", &[])?),
            forged(Forgery::Identity),
        ),
        ("MD5", packet(&md5), forged(Forgery::Header)),
        ("no AYIYA", packet(&[b'h'; 44]), forged(Forgery::Header)),
        ("short", packet(b"hello"), forged(Forgery::Short)),
        ("nothing", packet(b""), forged(Forgery::Short)),
        (
            "its own source",
            packet(&sealed(0, IDENTITY, &inner("2001:db8:b::2"))?),
            forged(Forgery::OwnSource),
        ),
        (
            "another port",
            packet4(POP, HERE, UDP, &datagram(PORT + 1, b"hello")),
            None,
        ),
        (
            "another protocol of a stranger",
            packet4(STRANGER, HERE, UDP, &datagram(PORT, b"hello")),
            None,
        ),
        (
            "a few of a stranger",
            packet4(
                STRANGER,
                HERE,
                UDP,
                &datagram(PORT, &sealed(0, IDENTITY, &[])?),
            ),
            None,
        ),
    ])
}

/// The forgeries that are counted while a packet runs, as lines.
fn counted_by<T>(programs: &Programs, run: impl FnOnce() -> Result<T>) -> Result<(T, Vec<String>)> {
    let before = counts(programs)?;
    let done = run()?;
    let mut lines = Vec::new();
    for (what, count) in counts(programs)? {
        let more = count - before.get(&what).copied().unwrap_or_default();
        if more > 0 {
            let (tunnel, reason) = what;
            lines.push(format!("{tunnel}: {more} {reason}"));
        }
    }
    Ok((done, lines))
}

/// The counters of forged packets that are not zero, by tunnel and reason.
fn counts(programs: &Programs) -> Result<BTreeMap<(String, &'static str), u64>> {
    let mut counts = BTreeMap::new();
    for (name, slot) in programs.kernel.slots() {
        let forged = programs.kernel.forged(*slot)?;
        for reason in Forgery::ALL {
            let count = forged[reason.index()];
            if count > 0 {
                counts.insert((name.to_string(), reason.name()), count);
            }
        }
    }
    Ok(counts)
}

/// All counted forgeries, as lines.
fn counted(programs: &Programs) -> Result<Vec<String>> {
    let counts = counts(programs)?.into_iter();
    Ok(counts
        .map(|((tunnel, reason), count)| format!("{tunnel}: {count} {reason}"))
        .collect())
}

/// Both hooks, and their verdicts for a packet that passes and one that is dropped.
const HOOKS: [(Direction, i32, i32); 2] = [
    (Direction::OuterIngress, NEXT, SHOT),
    (Direction::Xdp, XDP_PASS, XDP_DROP),
];

#[test]
fn forged_packets_are_dropped_and_counted_by_both_hooks() -> Result<()> {
    for (direction, passes, drops) in HOOKS {
        let programs = programs()?;
        // Datagrams of the present time.
        let mut all = by_six_in_four();
        all.extend(by_ayiya()?);
        for (name, packet, forged) in &all {
            let frame = frame(IPV4_TYPE, packet);
            let (run, found) = counted_by(&programs, || programs.run(direction, &frame, 1))?;
            let expected = if forged.is_some() { drops } else { passes };
            ensure!(
                run.verdict == expected && run.packet == frame,
                "{name}, {direction:?}: verdict {}",
                run.verdict
            );
            let lines = forged.map(|(tunnel, reason)| format!("{tunnel}: 1 {}", reason.name()));
            let lines: Vec<_> = lines.into_iter().collect();
            ensure!(found == lines, "{name}, {direction:?}: {found:?}");
        }
    }
    Ok(())
}

#[test]
fn datagrams_of_strangers_pass_up_to_a_limit() -> Result<()> {
    for (direction, passes, drops) in HOOKS {
        let programs = programs()?;
        let payload = sealed(0, IDENTITY, &[])?;
        let packet = packet4(STRANGER, HERE, UDP, &datagram(PORT, &payload));
        let frame = frame(IPV4_TYPE, &packet);
        let passed = programs.run(direction, &frame, u32::try_from(STRANGERS_PER_SECOND)?)?;
        ensure!(passed.verdict == passes, "{direction:?}: {passed:?}");
        // At most one of these series begins in the next second.
        let mut verdicts = Vec::new();
        for _ in 0..3 {
            verdicts.push(programs.run(direction, &frame, 10)?.verdict);
        }
        ensure!(verdicts.contains(&drops), "{direction:?}: {verdicts:?}");
        let found = counted(&programs)?;
        ensure!(
            found.len() == 1 && found[0].ends_with(" stranger_flood"),
            "{found:?}"
        );
    }
    Ok(())
}

#[test]
fn other_software_gets_its_packets() -> Result<()> {
    let stranger = packet4(STRANGER, HERE, SIX_IN_FOUR, &inner(OUTSIDE));
    let mut for_another = frame(IPV4_TYPE, &stranger);
    for_another[0] = 2;
    let tagged = ethernet(&[(VLAN_TYPE, 7)], IPV4_TYPE, &stranger);
    let native = ethernet(&[], IPV6_TYPE, &inner(OUTSIDE));
    for (direction, passes, _) in HOOKS {
        let programs = programs()?;
        for frame in [&for_another, &tagged, &native] {
            let run = programs.run(direction, frame, 1)?;
            ensure!(run.verdict == passes, "{direction:?}: {run:?}");
        }
        // A foreign program receives protocol 41 at the same address.
        let mut shared = screening_host()?;
        shared.0.screening.passes_strangers = true;
        let mut programs = Programs::load()?;
        programs.kernel.write_maps(&shared.0)?;
        let run = programs.run(direction, &frame(IPV4_TYPE, &stranger), 1)?;
        ensure!(run.verdict == passes, "{direction:?}: {run:?}");
        ensure!(counted(&programs)?.is_empty());
    }
    Ok(())
}

/// With more tunnels than the programs compare one by one.
#[test]
fn each_of_many_brokers_is_known() -> Result<()> {
    let mut host = screening_host()?;
    for number in 0..20_u8 {
        let name = format!("many{number}");
        host = host.tunnel(&name, None, OnLeak::Redirect, address(OWN))?;
        let broker = [198, 51, 100, 100 + number];
        let ends = OuterEnds {
            local: HERE.into(),
            broker: broker.into(),
            by: Encapsulation::SixInFour,
        };
        host.0.screening.ends.insert(name.parse()?, ends);
    }
    let mut programs = Programs::load()?;
    programs.kernel.write_maps(&host.0)?;
    for (direction, passes, drops) in HOOKS {
        let verdict = |from| {
            let packet = packet4(from, HERE, SIX_IN_FOUR, &inner(OUTSIDE));
            anyhow::Ok(
                programs
                    .run(direction, &frame(IPV4_TYPE, &packet), 1)?
                    .verdict,
            )
        };
        for number in 0..20 {
            ensure!(verdict([198, 51, 100, 100 + number])? == passes, "{number}");
        }
        ensure!(verdict(BROKER)? == passes && verdict(STRANGER)? == drops);
    }
    Ok(())
}

/// An outer packet with a right checksum.
fn outer(from: [u8; 4], to: [u8; 4], inner: &[u8]) -> Vec<u8> {
    let mut packet = packet4(from, to, SIX_IN_FOUR, inner);
    let sum = checksum(&packet[..20]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet
}

#[test]
fn an_echo_request_in_6in4_becomes_its_reply() -> Result<()> {
    let programs = programs()?;
    for payload in [0, 8, 56, 1000, 1432] {
        let mut message = echo(OUTSIDE, OWN, ECHO_REQUEST, payload);
        // Whatever hop limit and traffic class it has.
        message[7] = 3;
        let mut request = frame(IPV4_TYPE, &outer(BROKER, HERE, &message));
        request[14 + 8] = 7;
        let mut answer = echo(OWN, OUTSIDE, ECHO_REPLY, payload);
        answer[7] = HOP_LIMIT;
        let mut reply = frame(IPV4_TYPE, &outer(HERE, BROKER, &answer));
        reply[..6].copy_from_slice(&request[6..12]);
        reply[6..12].copy_from_slice(&request[..6]);
        let run = programs.run(Direction::Xdp, &request, 1)?;
        ensure!(run.verdict == XDP_TX, "{payload}: verdict {}", run.verdict);
        ensure!(
            run.packet == reply,
            "{payload}: {:02x?}, not {reply:02x?}",
            run.packet
        );
    }
    for (stat, count) in [
        (Stat::EchoByPrograms, 5),
        (Stat::InRequests, 5),
        (Stat::OutReplies, 5),
        // They prove nothing about the host.
        (Stat::EchoWatched, 0),
    ] {
        ensure!(programs.counter("plain", stat)? == count, "{stat:?}");
    }
    let slot = programs.kernel.slot(&"plain".parse()?).context("a slot")?;
    let outer = programs.kernel.outer_counters(slot)?;
    ensure!((outer.in_packets, outer.out_packets) == (5, 5), "{outer:?}");
    Ok(())
}

#[test]
fn every_other_packet_in_6in4_is_left_to_the_host() -> Result<()> {
    let programs = programs()?;
    let request = || echo(OUTSIDE, OWN, ECHO_REQUEST, 56);
    let from_broker = |inner: &[u8]| frame(IPV4_TYPE, &outer(BROKER, HERE, inner));
    let mut congested = from_broker(&request());
    congested[14 + 1] = 3;
    let mut coded = request();
    coded[41] = 1;
    let padded = [from_broker(&request()), vec![0; 4]].concat();
    for (name, frame) in [
        (
            "too long",
            from_broker(&echo(OUTSIDE, OWN, ECHO_REQUEST, 1433)),
        ),
        ("a reply", from_broker(&echo(OUTSIDE, OWN, ECHO_REPLY, 56))),
        ("a code", from_broker(&coded)),
        ("a congestion mark", congested),
        ("padded", padded),
        (
            "cut off",
            from_broker(&ipv6(
                address(OUTSIDE),
                address(OWN),
                ICMPV6,
                &[ECHO_REQUEST],
            )),
        ),
        (
            "to a routed prefix",
            from_broker(&echo(OUTSIDE, "2001:db8:bb:3::9", ECHO_REQUEST, 56)),
        ),
        (
            "to another tunnel",
            from_broker(&echo(OUTSIDE, "2001:db8:b::2", ECHO_REQUEST, 56)),
        ),
        (
            "from a group",
            from_broker(&echo("ff0e::1", OWN, ECHO_REQUEST, 56)),
        ),
    ] {
        let run = programs.run(Direction::Xdp, &frame, 1)?;
        ensure!(
            run.verdict == XDP_PASS && run.packet == frame,
            "{name}: {run:?}"
        );
    }
    ensure!(programs.counter("plain", Stat::EchoByPrograms)? == 0);
    // More than the limit: the host answers them.
    let limit = u32::try_from(ANSWERS_PER_SECOND)?;
    let mut passed = 0;
    // More than enough for two seconds.
    for _ in 0..3 * limit {
        let run = programs.run(Direction::Xdp, &from_broker(&request()), 1)?;
        passed += u32::from(run.verdict == XDP_PASS);
    }
    let answered = programs.counter("plain", Stat::EchoByPrograms)?;
    ensure!(
        passed > 0 && answered >= ANSWERS_PER_SECOND,
        "{passed} {answered}"
    );
    Ok(())
}

/// A tunnel that is down, and one whose requests the host is to answer.
#[test]
fn the_host_answers_unless_the_configuration_says_otherwise() -> Result<()> {
    type Change = fn(&mut Host) -> Result<()>;
    let changes: [Change; 2] = [
        |host| {
            host.0.answers_echo = false;
            Ok(())
        },
        |host| {
            let tunnel = host.0.tunnels.get_mut(&"plain".parse()?);
            tunnel.context("the tunnel")?.index = None;
            Ok(())
        },
    ];
    let request = echo(OUTSIDE, OWN, ECHO_REQUEST, 56);
    let request = frame(IPV4_TYPE, &outer(BROKER, HERE, &request));
    for change in changes {
        let mut host = screening_host()?;
        change(&mut host)?;
        let mut programs = Programs::load()?;
        programs.kernel.write_maps(&host.0)?;
        let run = programs.run(Direction::Xdp, &request, 1)?;
        ensure!(run.verdict == XDP_PASS, "{run:?}");
    }
    Ok(())
}
