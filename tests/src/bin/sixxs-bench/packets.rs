//! Cost of the programs per packet, by the number of tunnel prefixes.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use indicatif::ProgressIterator as _;
use sixxs_common::packet::TCP;
use sixxs_core::config::OnLeak;
use sixxs_core::endpoint::Endpoint;
use sixxs_core::enforce::{Home, Role, SourceKind};
use sixxs_core::types::Prefix;
use sixxs_tests::kernel::bpf;
use sixxs_tests::kernel::program_harness::{Direction, Host, LOOPBACK, Programs};
use sixxs_tests::probe::packets::{
    ECHO_REPLY, ECHO_REQUEST, ICMPV6, IPV4_TYPE, IPV6_TYPE, UDP, ethernet, icmpv6, ipv6, udp,
};

use crate::machine;
use crate::progress;
use crate::timing::Times;

const NEXT: i32 = -1;
const REDIRECT: i32 = 7;

const PREFIXES: [u32; 4] = [2, 8, 1_000, 100_000];

/// With this number of prefixes, a tunnel has an endpoint by IPv6.
const WITH_IPV6_ENDPOINT: u32 = 8;

const TUNNELS: [&str; 2] = ["sixxs0", "sixxs1"];
/// The broker of the first tunnel.
const REMOTE4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The protocol of 6in4.
const SIT: u8 = 41;

/// 2001:db8::/32, which contains all prefixes.
const BASE: u128 = 0x2001_0db8 << 96;

/// A packet that is measured.
struct Subject {
    name: &'static str,
    /// Role of the loopback interface.
    role: Role,
    direction: Direction,
    verdict: i32,
    frame: Vec<u8>,
    /// Target for the cost, in multiples of the empty program.
    target: Option<f64>,
}

impl Subject {
    /// A packet of no tunnel, at an uplink.
    const fn unrelated(name: &'static str, frame: Vec<u8>) -> Self {
        Self {
            name,
            role: Role::Uplink,
            direction: Direction::Egress,
            verdict: NEXT,
            frame,
            target: Some(1.15),
        }
    }

    /// A packet of a tunnel, at that tunnel.
    const fn counted(name: &'static str, direction: Direction, frame: Vec<u8>) -> Self {
        Self {
            name,
            role: Role::Tunnel,
            direction,
            verdict: NEXT,
            frame,
            target: Some(1.5),
        }
    }
}

/// The programs on a host whose loopback interface has this role.
struct Kernel {
    role: Role,
    programs: Programs,
}

/// Measures all packets in turn, and returns the report.
pub(crate) fn measure(rounds: u32) -> Result<String> {
    let empty = bpf::load_empty()?;
    let mut kernels = Vec::new();
    for role in [Role::Uplink, Role::Tunnel] {
        let programs = Programs::load()?;
        kernels.push(Kernel { role, programs });
    }
    let mut load_ms = f64::INFINITY;
    let mut rows = String::new();
    let mut floor = f64::INFINITY;
    for count in PREFIXES {
        for kernel in &mut kernels {
            load_ms = load_ms.min(kernel.programs.load_time.as_secs_f64() * 1e3);
            kernel
                .programs
                .kernel
                .write_maps(&host(kernel.role, count)?.0)?;
        }
        let subjects = subjects(count);
        let all = in_turn(&empty, &kernels, &subjects, rounds)?;
        for (subject, measured) in subjects.iter().zip(&all) {
            rows += &row(count, subject, measured)?;
            floor = floor.min(measured.empty.median());
        }
    }
    write_up(floor, load_ms, rounds, &rows)
}

fn host(role: Role, count: u32) -> Result<Host> {
    let name = match role {
        Role::Uplink => "net0",
        _ => TUNNELS[0],
    };
    let mut host = Host::new(name, role)?;
    for tunnel in TUNNELS {
        let router = Ipv6Addr::from_bits(BASE | 1);
        host = host.tunnel(tunnel, Some(LOOPBACK), OnLeak::Redirect, router)?;
    }
    // Few tunnels have an endpoint by IPv6. Then each IPv6 packet is looked up in the filter of endpoints.
    let by_ipv6 = usize::from(count == WITH_IPV6_ENDPOINT);
    for (endpoint, tunnel) in endpoints().into_iter().take(1 + by_ipv6).zip(TUNNELS) {
        host.0.endpoints.insert(endpoint, tunnel.parse()?);
    }
    let here = host.0.interfaces.get_mut(&name.parse()?);
    here.context("the interface")?.is_underlay = role == Role::Uplink;
    let names = TUNNELS.map(str::parse);
    let sources = (0..count).map(|number| {
        let name = names[number as usize % TUNNELS.len()].clone()?;
        Ok((prefix(number), name, Home::Nowhere, SourceKind::Own))
    });
    Ok(host.sources(sources.collect::<Result<Vec<_>>>()?))
}

/// The prefix with this number: a /64 or an address in one, scattered over 2001:db8::/32. The number is
/// multiplied by an odd number modulo 2^32, so all results differ.
fn prefix(number: u32) -> Prefix {
    let network = BASE | u128::from(number.wrapping_mul(0x9e37_79b1)) << 64;
    match number % 4 {
        0 | 1 => Prefix::host(Ipv6Addr::from_bits(network | 2)),
        _ => Prefix::containing(Ipv6Addr::from_bits(network), 64),
    }
}

fn subjects(count: u32) -> Vec<Subject> {
    let outside = Ipv6Addr::from_bits(0x2a00_1450 << 96 | 9);
    let own = Ipv6Addr::from_bits(prefix(0).address().to_bits());
    let from = |from: Ipv6Addr| ethernet(&[], IPV6_TYPE, &ipv6(from, outside, UDP, &udp(4000, 64)));
    let echo = |from, to, kind| packet6(&ipv6(from, to, ICMPV6, &icmpv6(kind, 56)));
    let none = |name, source| Subject::unrelated(name, from(source));
    let counted = Subject::counted;
    let leaking = prefix(count - 1).address();
    let native = Ipv6Addr::from_bits(0x2a02_0908 << 96 | 1);
    let [tcp4, udp6, outer] = arriving(outside, native);
    vec![
        none("source of no tunnel, far away", native),
        // Common in practice: provider and broker have neighbouring networks.
        none(
            "source of no tunnel, in the same /32",
            Ipv6Addr::from_bits(BASE | u128::from(count.wrapping_mul(0x9e37_79b1)) << 64 | 1),
        ),
        // Its /64 differs in the last bit from that of a tunnel's address.
        none(
            "source of no tunnel, in the next /64",
            Ipv6Addr::from_bits(own.to_bits() ^ 1 << 64),
        ),
        counted(
            "echo request counted at ingress",
            Direction::Ingress,
            echo(outside, own, ECHO_REQUEST),
        ),
        counted(
            "echo reply counted at egress",
            Direction::Egress,
            echo(own, outside, ECHO_REPLY),
        ),
        // May be an outer packet of the tunnel itself, which takes another look.
        Subject {
            target: None,
            ..counted("UDP counted at egress", Direction::Egress, from(own))
        },
        Subject {
            name: "leak redirected",
            role: Role::Uplink,
            direction: Direction::Egress,
            verdict: REDIRECT,
            frame: from(leaking),
            target: Some(4.0),
        },
        tcp4,
        udp6,
        outer,
    ]
}

/// Packets that arrive at an uplink, where the programs look for outer packets.
fn arriving(outside: Ipv6Addr, native: Ipv6Addr) -> [Subject; 3] {
    let arriving = |name, mut frame: Vec<u8>| {
        // For this host: the loopback interface has the address zero.
        frame[..6].fill(0);
        Subject {
            direction: Direction::OuterIngress,
            target: Some(1.2),
            ..Subject::unrelated(name, frame)
        }
    };
    [
        arriving(
            "TCP over IPv4 that arrives",
            ethernet(&[], IPV4_TYPE, &packet4([203, 0, 113, 9], TCP)),
        ),
        arriving(
            "IPv6 that arrives",
            ethernet(&[], IPV6_TYPE, &ipv6(outside, native, UDP, &udp(4000, 64))),
        ),
        Subject {
            target: None,
            ..arriving(
                "outer packet that arrives, counted",
                ethernet(&[], IPV4_TYPE, &packet4(REMOTE4.octets(), SIT)),
            )
        },
    ]
}

/// Times of a packet, and of the empty program just before.
#[derive(Default)]
struct Measured {
    times: Times,
    empty: Times,
}

/// Measures all packets in turn, the empty program before each, so that a temporary slowdown of the machine
/// affects all of them.
fn in_turn(
    empty: &OwnedFd,
    kernels: &[Kernel],
    subjects: &[Subject],
    rounds: u32,
) -> Result<Vec<Measured>> {
    let mut all: Vec<_> = subjects.iter().map(|_| Measured::default()).collect();
    for _ in (0..rounds).progress_with(progress::bar("packets", rounds.into())) {
        for (subject, measured) in subjects.iter().zip(&mut all) {
            let kernel = kernels.iter().find(|kernel| kernel.role == subject.role);
            let program = kernel
                .context("a kernel for each role")?
                .programs
                .program(subject.direction);
            measured
                .empty
                .measure(empty.as_fd(), &subject.frame, NEXT)?;
            measured
                .times
                .measure(program, &subject.frame, subject.verdict)
                .context(subject.name)?;
        }
    }
    Ok(all)
}

fn row(count: u32, subject: &Subject, measured: &Measured) -> Result<String> {
    let (time, empty) = (measured.times.median(), measured.empty.median());
    let multiple = time / empty;
    let judged = match subject.target {
        None => "–".to_owned(),
        Some(target) if multiple <= target => format!("{target}"),
        Some(target) => format!("{target}, **missed**"),
    };
    let mut row = String::new();
    writeln!(
        row,
        "| {} | {count} | {time:.1} | +{:.1} | {multiple:.2} | {judged} |",
        subject.name,
        measured.times.median_above(&measured.empty),
    )?;
    Ok(row)
}

/// A frame with an IPv6 packet.
fn packet6(packet: &[u8]) -> Vec<u8> {
    ethernet(&[], IPV6_TYPE, packet)
}

/// An IPv4 packet of 40 bytes.
fn packet4(source: [u8; 4], protocol: u8) -> Vec<u8> {
    let mut packet = vec![0; 20 + 20];
    packet[0] = 0x45;
    packet[3] = 40;
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&source);
    packet
}

/// The endpoints of both tunnels, by IPv4 and by IPv6.
fn endpoints() -> [Endpoint; 2] {
    let remote6 = Ipv6Addr::from_bits(0x2a01_0111 << 96 | 1);
    [(IpAddr::V4(REMOTE4), SIT), (IpAddr::V6(remote6), UDP)].map(|(remote, protocol)| Endpoint {
        remote,
        protocol: Some(protocol),
        remote_port: None,
        local_port: None,
    })
}

fn write_up(floor: f64, load_ms: f64, rounds: u32, rows: &str) -> Result<String> {
    let machine = machine::name()?;
    Ok(format!(
        "## `core`: cost of the kernel programs per packet\n\n\
         {machine}.\n\n\
         The benchmark runs each packet through the programs with `BPF_PROG_TEST_RUN`: 20,000 runs per batch, {rounds}\n\
         batches, in turn with all others. Before each batch it runs a batch of an empty program, which takes {floor:.1}\n\
         ns per run. *ns* is the median of a run. *above empty* is the median of the differences from the empty\n\
         program, *of empty* the multiple of it, which differs less between machines. The tunnels' prefixes are spread\n\
         over one /32; half of them are single addresses, half are /64. One tunnel has an endpoint by IPv4; with 8\n\
         prefixes, the other one has an endpoint by IPv6, so that each IPv6 packet is looked up among the endpoints.\n\n\
         The benchmark repeats one packet: the caches are warm, and the programs have cached the owner of its\n\
         source. Nearly all packets are like that. For an uncached source, the programs look it up in the tables,\n\
         which takes some 10 ns more with 8 prefixes and 100 ns more with 100,000 (measured before the programs\n\
         had this cache).\n\n\
         The echo request is already in the table of waiting requests, and the reply matches none of them. So the\n\
         results do not include the cost of adding and removing a request. They also do not include the exact\n\
         clock: the programs read it for one request, and its reply, of all that come between two ticks of the\n\
         coarse clock.\n\n\
         | packet | prefixes | ns | above empty | of empty | target |\n\
         |---|---:|---:|---:|---:|---|\n\
         {rows}\n\
         Loading the programs takes {load_ms:.0} ms, including verification and maps.\n",
    ))
}
