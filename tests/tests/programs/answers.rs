//! Echo requests that the programs answer.

use anyhow::{Context as _, Result, ensure};
use sixxs_common::answer::{ANSWERS_PER_SECOND, HOP_LIMIT};
use sixxs_common::stat::Stat;
use sixxs_core::enforce::Role;
use sixxs_core::types::Mtu;
use sixxs_tests::kernel::program_harness::{Direction, Programs};
use sixxs_tests::probe::packets::{
    ECHO_REPLY, ECHO_REQUEST, FRAGMENT, HOP_BY_HOP, ICMPV6, IPV6_TYPE, VLAN_TYPE, checksum,
    ethernet, fragment, icmpv6, ipv6, options,
};

use crate::golden::{self, NEXT, OUTSIDE, REDIRECT, address, host};

const OWN: &str = "2001:db8:a::2";

/// The programs at a tunnel whose echo requests they answer.
fn answering() -> Result<Programs> {
    let mut programs = Programs::load()?;
    let mut host = host("plain", Role::Tunnel)?;
    host.0.answers_echo = true;
    let tunnel = host.0.tunnels.get_mut(&"plain".parse()?);
    tunnel.context("the tunnel")?.mtu = Mtu(1480);
    programs.kernel.write_maps(&host.0)?;
    Ok(programs)
}

/// A frame for this host: the loopback interface has the address zero.
fn wire(packet: &[u8]) -> Vec<u8> {
    let mut frame = golden::wire(packet);
    frame[..6].fill(0);
    frame
}

/// An echo message with a right checksum.
pub(crate) fn echo(from: &str, to: &str, kind: u8, payload: usize) -> Vec<u8> {
    let (from, to) = (address(from), address(to));
    let mut message = icmpv6(kind, payload);
    let length = u32::try_from(message.len()).expect("a short message");
    let mut pseudo = [from.octets(), to.octets()].concat();
    pseudo.extend(length.to_be_bytes());
    pseudo.extend([0, 0, 0, ICMPV6]);
    pseudo.extend(&message);
    let sum = checksum(&pseudo).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    ipv6(from, to, ICMPV6, &message)
}

#[test]
fn a_request_becomes_its_reply() -> Result<()> {
    let programs = answering()?;
    for payload in [0, 8, 56, 1000, 1432] {
        let mut request = wire(&echo(OUTSIDE, OWN, ECHO_REQUEST, payload));
        // Whatever hop limit and traffic class it has.
        request[14 + 7] = 3;
        let mut reply = wire(&echo(OWN, OUTSIDE, ECHO_REPLY, payload));
        reply[14 + 7] = HOP_LIMIT;
        let ends: [u8; 12] = request[..12].try_into()?;
        reply[..6].copy_from_slice(&ends[6..]);
        reply[6..12].copy_from_slice(&ends[..6]);
        let run = programs.run(Direction::Ingress, &request, 1)?;
        ensure!(
            run.verdict == REDIRECT,
            "{payload}: verdict {}",
            run.verdict
        );
        ensure!(
            run.packet == reply,
            "{payload}: {:02x?}, not {reply:02x?}",
            run.packet
        );
    }
    ensure!(programs.counter("plain", Stat::EchoByPrograms)? == 5);
    ensure!(programs.counter("plain", Stat::InRequests)? == 5);
    // They prove nothing about the host.
    ensure!(programs.counter("plain", Stat::EchoWatched)? == 0);
    Ok(())
}

#[test]
fn everything_else_is_left_to_the_host() -> Result<()> {
    let programs = answering()?;
    let ping = icmpv6(ECHO_REQUEST, 56);
    let to_own = |next_header, payload: &[u8]| {
        wire(&ipv6(address(OUTSIDE), address(OWN), next_header, payload))
    };
    let mut coded = to_own(ICMPV6, &ping);
    coded[14 + 41] = 1;
    for (name, frame) in [
        (
            "too long for the tunnel",
            wire(&echo(OUTSIDE, OWN, ECHO_REQUEST, 1433)),
        ),
        (
            "an extension header",
            to_own(HOP_BY_HOP, &options(ICMPV6, &ping)),
        ),
        (
            "a fragment",
            to_own(FRAGMENT, &fragment(ICMPV6, 0, true, &ping)),
        ),
        ("a reply", wire(&echo(OUTSIDE, OWN, ECHO_REPLY, 56))),
        ("a code", coded),
        (
            "for another host",
            golden::wire(&echo(OUTSIDE, OWN, ECHO_REQUEST, 56)),
        ),
        (
            "padded",
            [wire(&echo(OUTSIDE, OWN, ECHO_REQUEST, 56)), vec![0; 4]].concat(),
        ),
        ("cut off", to_own(ICMPV6, &[ECHO_REQUEST])),
        (
            "to a routed prefix",
            wire(&echo(OUTSIDE, "2001:db8:bb:3::9", ECHO_REQUEST, 56)),
        ),
        (
            "to another tunnel",
            wire(&echo(OUTSIDE, "2001:db8:b::2", ECHO_REQUEST, 56)),
        ),
        (
            "to a group",
            wire(&echo(OUTSIDE, "ff02::1", ECHO_REQUEST, 56)),
        ),
        (
            "from a group",
            wire(&echo("ff0e::1", OWN, ECHO_REQUEST, 56)),
        ),
        (
            "from the link",
            wire(&echo("fe80::1", OWN, ECHO_REQUEST, 56)),
        ),
        ("from nobody", wire(&echo("::", OWN, ECHO_REQUEST, 56))),
        (
            "from behind this host",
            wire(&echo("2001:db8:bb:1::9", OWN, ECHO_REQUEST, 56)),
        ),
        (
            "with a tag",
            ethernet(
                &[(VLAN_TYPE, 7)],
                IPV6_TYPE,
                &echo(OUTSIDE, OWN, ECHO_REQUEST, 56),
            ),
        ),
    ] {
        let run = programs.run(Direction::Ingress, &frame, 1)?;
        ensure!(run.verdict == NEXT, "{name}: verdict {}", run.verdict);
        ensure!(run.packet == frame, "{name}: {:02x?}", run.packet);
    }
    ensure!(programs.counter("plain", Stat::EchoByPrograms)? == 0);
    Ok(())
}

#[test]
fn answers_are_limited() -> Result<()> {
    let programs = answering()?;
    let frame = wire(&echo(OUTSIDE, OWN, ECHO_REQUEST, 56));
    // One run, so one processor. Each turns the frame that the one before it has left: a request, then a reply.
    let sent = 3 * ANSWERS_PER_SECOND;
    for _ in 0..sent {
        programs.run(Direction::Ingress, &frame, 1)?;
    }
    let answered = programs.counter("plain", Stat::EchoByPrograms)?;
    let processors = u64::try_from(std::thread::available_parallelism()?.get())?;
    // The runs may take two seconds, on any processor.
    let most = 2 * processors * ANSWERS_PER_SECOND;
    ensure!(
        (ANSWERS_PER_SECOND..=most).contains(&answered),
        "{answered}"
    );
    // The host answers the others, and their replies are expected.
    let left = programs.counter("plain", Stat::EchoWatched)?;
    ensure!(
        answered == sent || left > 0,
        "{answered} answered, {left} left"
    );
    Ok(())
}

#[test]
fn the_host_answers_unless_it_is_asked_for() -> Result<()> {
    let mut programs = Programs::load()?;
    programs
        .kernel
        .write_maps(&host("plain", Role::Tunnel)?.0)?;
    let frame = wire(&echo(OUTSIDE, OWN, ECHO_REQUEST, 56));
    let run = programs.run(Direction::Ingress, &frame, 1)?;
    ensure!(run.verdict == NEXT && run.packet == frame);
    ensure!(programs.counter("plain", Stat::EchoWatched)? == 1);
    Ok(())
}
