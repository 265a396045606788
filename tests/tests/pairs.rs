//! Echo requests and replies through the kernel programs: the pairs that they form, and the counters.

use std::net::Ipv6Addr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sixxs_common::echo::ENTRIES;
use sixxs_common::stat::Stat;
use sixxs_core::config::OnLeak;
use sixxs_core::echo_health::{EchoCounts, median};
use sixxs_core::enforce::{Home, Role};
use sixxs_tests::kernel::program_harness::{Direction, Host, LOOPBACK, Programs};
use sixxs_tests::probe::packets::{
    ECHO_REPLY, ECHO_REQUEST, FRAGMENT, HOP_BY_HOP, ICMPV6, IPV6_TYPE, ethernet, fragment, icmpv6,
    ipv6, options,
};

const OUTSIDE: &str = "2001:db8:ffff::9";
const OWN: &str = "2001:db8:a::2";
const IN_PREFIX: &str = "2001:db8:aa::2";
const OTHER: &str = "2001:db8:b::2";

/// Longer than a tick of any kernel's clock.
const TICK: Duration = Duration::from_millis(15);

fn address(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

/// A host whose loopback interface is the first of two tunnels, or an uplink besides them.
fn host(name: &str, role: Role, on_leak: OnLeak) -> Result<Host> {
    let here = Some(LOOPBACK);
    let router = address("2001:db8:a::1");
    Host::new(name, role)?
        .tunnel("first", here, on_leak, router)?
        .tunnel("second", None, on_leak, router)?
        .source(OWN, "first", Home::Nowhere)?
        .source("2001:db8:aa::/48", "first", Home::Nowhere)?
        .source(OTHER, "second", Home::Nowhere)
}

fn at_tunnel() -> Result<Host> {
    host("first", Role::Tunnel, OnLeak::Redirect)
}

fn at_uplink(on_leak: OnLeak) -> Result<Host> {
    host("net0", Role::Uplink, on_leak)
}

/// An echo message with identifier and sequence number.
fn echo(kind: u8, number: u32) -> Vec<u8> {
    let mut message = icmpv6(kind, 16);
    message[4..8].copy_from_slice(&number.to_be_bytes());
    message
}

fn frame(from: &str, to: &str, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let packet = ipv6(address(from), address(to), next_header, payload);
    ethernet(&[], IPV6_TYPE, &packet)
}

fn comes(programs: &Programs, to: &str, number: u32) -> Result<()> {
    let request = frame(OUTSIDE, to, ICMPV6, &echo(ECHO_REQUEST, number));
    programs.run(Direction::Ingress, &request, 1).map(drop)
}

fn leaves(programs: &Programs, from: &str, number: u32) -> Result<i32> {
    let reply = frame(from, OUTSIDE, ICMPV6, &echo(ECHO_REPLY, number));
    Ok(programs.run(Direction::Egress, &reply, 1)?.verdict)
}

fn counted(programs: &Programs) -> Result<EchoCounts> {
    Ok(EchoCounts::of(&programs.counters("first")?))
}

fn loaded(host: &Host) -> Result<Programs> {
    let mut programs = Programs::load()?;
    programs.kernel.write_maps(&host.0)?;
    Ok(programs)
}

fn slot(programs: &Programs) -> Result<u32> {
    programs.kernel.slot(&"first".parse()?).context("its slot")
}

#[test]
fn a_reply_is_paired_with_its_request_once() -> Result<()> {
    let programs = loaded(&at_tunnel()?)?;
    leaves(&programs, OWN, 1)?;
    assert_eq!(counted(&programs)?, EchoCounts::default());

    comes(&programs, OWN, 1)?;
    sleep(TICK);
    comes(&programs, OWN, 2)?;
    // The same request again is not another one.
    comes(&programs, OWN, 1)?;
    let mut expected = EchoCounts {
        requests: 2,
        ..EchoCounts::default()
    };
    assert_eq!(counted(&programs)?, expected);
    let first = slot(&programs)?;
    assert_eq!(programs.kernel.waiting_since(0)?[&first], 2);
    assert!(programs.kernel.waiting_since(u64::MAX)?.is_empty());

    // Another number or another address does not match.
    leaves(&programs, OWN, 3)?;
    leaves(&programs, IN_PREFIX, 1)?;
    assert_eq!(counted(&programs)?, expected);
    assert_eq!(programs.counter("first", Stat::LastAnswer)?, 0);

    for _ in 0..2 {
        leaves(&programs, OWN, 1)?;
        expected.answered = 1;
        assert_eq!(counted(&programs)?, expected);
    }
    leaves(&programs, OWN, 2)?;
    expected.answered = 2;
    assert_eq!(counted(&programs)?, expected);
    assert_ne!(programs.counter("first", Stat::LastAnswer)?, 0);
    assert_ne!(programs.kernel.watched_ns(first)?, 0);
    assert!(programs.kernel.waiting_since(0)?.is_empty());

    let times = programs.kernel.times(first)?;
    assert_eq!(times.replies.iter().sum::<u64>(), 2);
    let half = median(&times).context("two replies")?;
    assert!(half < Duration::from_secs(5), "{half:?}");
    assert!(times.sum_ns > 0);
    Ok(())
}

#[test]
fn of_many_at_a_time_one_is_timed() -> Result<()> {
    let programs = loaded(&at_tunnel()?)?;
    let first = slot(&programs)?;
    let all: u32 = 1000;
    for number in 0..all {
        comes(&programs, OWN, number)?;
        leaves(&programs, OWN, number)?;
    }
    assert_eq!(counted(&programs)?.answered, u64::from(all));
    let timed: u64 = programs.kernel.times(first)?.replies.iter().sum();
    assert!((1..u64::from(all) / 2).contains(&timed), "{timed}");
    Ok(())
}

#[test]
fn headers_in_between_do_not_matter() -> Result<()> {
    let programs = loaded(&at_tunnel()?)?;
    let message = |number| echo(ECHO_REQUEST, number);
    for (number, (header, payload)) in [
        (HOP_BY_HOP, options(ICMPV6, &message(0))),
        (FRAGMENT, fragment(ICMPV6, 0, true, &message(1))),
    ]
    .into_iter()
    .enumerate()
    {
        let request = frame(OUTSIDE, OWN, header, &payload);
        programs.run(Direction::Ingress, &request, 1)?;
        leaves(&programs, OWN, u32::try_from(number)?)?;
    }
    let both = EchoCounts {
        requests: 2,
        answered: 2,
        ..EchoCounts::default()
    };
    assert_eq!(counted(&programs)?, both);
    // A later fragment and a truncated message have no sequence number.
    let later = fragment(ICMPV6, 150, false, &message(2));
    let short = echo(ECHO_REQUEST, 3)[..6].to_vec();
    for (header, payload) in [(FRAGMENT, later), (ICMPV6, short)] {
        let request = frame(OUTSIDE, OWN, header, &payload);
        programs.run(Direction::Ingress, &request, 1)?;
    }
    assert_eq!(counted(&programs)?, both);
    Ok(())
}

#[test]
fn nothing_is_expected_of_those_behind_us_or_of_other_tunnels() -> Result<()> {
    let programs = loaded(&at_tunnel()?)?;
    for to in [IN_PREFIX, OTHER, "2001:db8:1::1"] {
        comes(&programs, to, 1)?;
    }
    // A request with a forged source gets no reply through the tunnel.
    for from in [IN_PREFIX, OTHER] {
        let request = frame(from, OWN, ICMPV6, &echo(ECHO_REQUEST, 2));
        programs.run(Direction::Ingress, &request, 1)?;
    }
    assert_eq!(counted(&programs)?, EchoCounts::default());
    assert!(programs.kernel.waiting_since(0)?.is_empty());
    Ok(())
}

#[test]
fn a_reply_that_leaves_elsewhere_is_astray_unless_it_is_put_into_the_tunnel() -> Result<()> {
    for (on_leak, astray) in [
        (OnLeak::Drop, 1),
        (OnLeak::Observe, 1),
        (OnLeak::Redirect, 0),
    ] {
        let mut programs = loaded(&at_tunnel()?)?;
        comes(&programs, OWN, 1)?;
        programs.kernel.write_maps(&at_uplink(on_leak)?.0)?;
        for _ in 0..2 {
            leaves(&programs, OWN, 1)?;
            let expected = EchoCounts {
                requests: 1,
                astray,
                ..EchoCounts::default()
            };
            assert_eq!(counted(&programs)?, expected, "{on_leak:?}");
        }
        // The tunnel's own program processes a redirected reply afterwards.
        programs.kernel.write_maps(&at_tunnel()?.0)?;
        leaves(&programs, OWN, 1)?;
        assert_eq!(counted(&programs)?.answered, 1 - astray, "{on_leak:?}");
    }
    Ok(())
}

#[test]
fn a_flood_drives_out_and_that_is_counted() -> Result<()> {
    let programs = loaded(&at_tunnel()?)?;
    let requests = 5 * ENTRIES;
    for number in 0..requests {
        comes(&programs, OWN, number)?;
    }
    let counted = counted(&programs)?;
    assert_eq!(counted.requests, u64::from(requests));
    let waiting = programs.kernel.waiting_since(0)?[&slot(&programs)?];
    assert_eq!(counted.requests - counted.forgotten, waiting);
    assert!(waiting <= u64::from(ENTRIES) && waiting > u64::from(ENTRIES) * 9 / 10);
    // The remaining requests are still paired.
    for number in 0..requests {
        leaves(&programs, OWN, number)?;
    }
    assert_eq!(
        EchoCounts::of(&programs.counters("first")?).answered,
        waiting
    );
    Ok(())
}
