//! `sixxs check`: pings from each tunnel address, and whether requests from outside were answered.

use std::time::Duration;

use anyhow::Result;
use sixxs_tests::lab::nft;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::probe::PingStream;
use sixxs_tests::program::Hook;

use crate::fixture::Fixture;

variants!(passes_and_fails: tun(Tun, Auto), veth(Veth, Auto));

fn passes_and_fails(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let daemon = fixture.start()?;
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    let printed = fixture.program.run(&["check"])?;
    assert_eq!(printed.code, 0, "{printed:#?}");
    let (code, values) = fixture.program.json(&["check"])?;
    assert_eq!(code, 0, "{values:#?}");
    let requests: Vec<u64> = fixture
        .program
        .status()?
        .tunnels
        .iter()
        .map(|t| t.echo.requests_out)
        .collect();
    assert!(
        requests.iter().all(|sent| *sent > 0),
        "its pings are counted: {requests:?}"
    );

    let [first, second] = fixture.lab.tunnels();
    first.delete()?;
    fixture
        .program
        .status_until("it is seen as gone", |status| !status.healthy)?;
    let printed = fixture.program.run(&["check"])?;
    assert_eq!(printed.code, 3, "{printed:#?}");
    let printed = fixture.program.run(&["check", first.plan.interface])?;
    assert_eq!(printed.code, 3, "{printed:#?}");
    assert!(
        printed.stdout.contains(first.plan.interface),
        "{printed:#?}"
    );
    let printed = fixture.program.run(&["check", second.plan.interface])?;
    assert_eq!(printed.code, 0, "{printed:#?}");
    let printed = fixture.program.run(&["check", "nobody"])?;
    assert!(
        printed.code != 0 && printed.stderr.contains("nobody"),
        "{printed:#?}"
    );
    fixture.ensure_nothing_lost()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A broker that does not answer any more.
#[test]
fn a_dead_peer_fails() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let [first, second] = fixture.lab.tunnels();
    first.silence()?;
    let printed = fixture.program.run(&["check"])?;
    assert_eq!(printed.code, 3, "{printed:#?}");
    let printed = fixture.program.run(&["check", second.plan.interface])?;
    assert_eq!(printed.code, 0, "{printed:#?}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A firewall drops every reply from the beginning. While pings arrive, the last one is always younger than the time
/// that a reply may take.
#[test]
fn pings_of_which_none_was_ever_answered_fail() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let [first, _] = fixture.lab.tunnels();
    let (address, name) = (first.plan.address, first.plan.interface);
    nft::load(
        fixture.host(),
        &format!(
            "table ip6 firewall {{ chain out {{ type filter hook output priority 0; \
             ip6 saddr {address} icmpv6 type echo-reply drop; }}; }}"
        ),
    )?;
    let interval = Duration::from_millis(100);
    let pings = PingStream::start(fixture.lab.outside(), address, interval)?;
    // Enough that replies to several are overdue.
    fixture
        .program
        .status_until("replies are missing", |status| {
            status.tunnel(name).proof.unanswered >= 10
        })?;
    for _ in 0..10 {
        let echo = fixture.program.status()?.tunnel(name).echo;
        let age = echo.last_request_in_seconds_ago;
        assert!(age.is_some_and(|age| age < 2.0), "{echo:#?}");
        assert_eq!(echo.replies_out, 0, "{echo:#?}");
        let printed = fixture.program.run(&["check", name])?;
        assert_eq!(printed.code, 3, "{printed:#?}");
        let mut lines = printed.stdout.lines();
        let answers = lines.find(|line| line.contains("pings from outside, none answered"));
        assert!(
            answers.is_some_and(|line| line.starts_with("FAIL")),
            "{printed:#?}"
        );
    }
    assert_eq!(pings.stop()?.answered, 0);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
