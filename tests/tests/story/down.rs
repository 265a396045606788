//! `sixxs down` restores the state before the program ran and leaves foreign state untouched.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, UPLINK};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::program::snapshot::{Snapshot, assert_same, take};
use sixxs_tests::program::{Daemon, Hook, finish};
use sixxs_tests::wait;

use crate::fixture::{Fixture, RULE_PRIORITY};

variants!(with_a_daemon:
    tun(Tun, Auto), veth(Veth, Auto), tun_clsact(Tun, Clsact), veth_clsact(Veth, Clsact));

fn with_a_daemon(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let before = take(&fixture.lab)?;
    let daemon = live(&fixture)?;
    assert_ne!(before, take(&fixture.lab)?);
    fixture.program.run_ok(&["down"])?;
    assert_eq!(daemon.wait()?, 0);
    assert_same(&before, &take(&fixture.lab)?);
    Ok(())
}

/// `down` is refused in another network namespace, because the daemon's objects are not reachable there.
#[test]
fn from_another_namespace() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let before = take(&fixture.lab)?;
    let daemon = live(&fixture)?;
    let at_work = take(&fixture.lab)?;
    let mut down = fixture.lab.outside().command(fixture.program.binary());
    down.arg("down");
    fixture.program.apply_environment(&mut down);
    let printed = finish(&mut down)?;
    assert_eq!(printed.code, 1, "{printed:#?}");
    let cure = format!(
        "nsenter --net=/run/netns/{} sixxs down",
        fixture.host().name()
    );
    assert!(
        printed.stderr.contains("nothing was changed") && printed.stderr.contains(&cure),
        "{printed:#?}"
    );
    assert_same(&at_work, &take(&fixture.lab)?);
    assert!(fixture.program.status()?.healthy);
    fixture.program.run_ok(&["down"])?;
    assert_eq!(daemon.wait()?, 0);
    assert_same(&before, &take(&fixture.lab)?);
    Ok(())
}

/// The last line of the log is correct about the objects that stay in place.
#[test]
fn the_last_log_line_shows_whether_rules_stay() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let limit = Duration::from_secs(10);
    for is_down in [false, true] {
        let daemon = fixture.start()?;
        if is_down {
            fixture.program.run_ok(&["down"])?;
        } else {
            daemon.signal(Signal::SIGTERM)?;
        }
        let log = wait::until(
            "it says so",
            limit,
            || Ok(daemon.log()),
            |log| log.contains("ending"),
        )?;
        assert_eq!(log.contains("programs stay in place"), !is_down, "{log}");
        assert_eq!(log.contains("`sixxs down` removes"), is_down, "{log}");
        assert_eq!(daemon.wait()?, 0);
        assert_eq!(fixture.own_rules()?.is_empty(), is_down);
    }
    Ok(())
}

variants!(without_a_daemon:
    tun_without_daemon(Tun, Auto), veth_without_daemon(Veth, Auto),
    tun_clsact_without_daemon(Tun, Clsact));

fn without_a_daemon(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let before = take(&fixture.lab)?;
    live(&fixture)?.kill()?;
    assert_ne!(before, take(&fixture.lab)?);
    fixture.program.run_ok(&["down"])?;
    assert_same(&before, &take(&fixture.lab)?);
    // A second `down` has nothing to do. A new start works.
    fixture.program.run_ok(&["down"])?;
    assert_same(&before, &take(&fixture.lab)?);
    let daemon = fixture.start()?;
    assert_eq!(daemon.stop()?, 0);
    fixture.program.run_ok(&["down"])?;
    assert_same(&before, &take(&fixture.lab)?);
    Ok(())
}

variants!(with_foreign_things:
    tun_foreign(Tun, Auto), veth_foreign(Veth, Auto),
    tun_clsact_foreign(Tun, Clsact), veth_clsact_foreign(Veth, Clsact));

fn with_foreign_things(flavour: Flavour, hook: Hook) -> Result<()> {
    let fixture = Fixture::new(flavour, hook)?;
    let [first, second] = fixture.lab.tunnels().each_ref().map(|t| t.plan);
    let foreign = [
        // A foreign filter, on a foreign qdisc.
        format!("tc qdisc add dev {UPLINK} clsact"),
        format!(
            "tc filter add dev {UPLINK} egress pref 7 bpf bytecode 1,6{}0{}0{}0 flowid 1:1",
            NBSP, NBSP, NBSP
        ),
        format!("tc qdisc add dev {} clsact", first.interface),
        // Rules with the daemon's priority: one with another selector and table, and one that is equal to a
        // rule of the daemon.
        format!("ip -6 rule add from 2001:db8:c::/64 lookup 300 priority {RULE_PRIORITY}"),
        format!(
            "ip -6 rule add from {} lookup 200 priority {RULE_PRIORITY} protocol static",
            first.address
        ),
        format!(
            "ip -6 rule add from {} lookup 300 priority 16384",
            second.address
        ),
        // Routes in a foreign table, and in a table of the daemon.
        format!("ip -6 route add 2001:db8:d::/64 dev {UPLINK} table 300"),
        format!("ip -6 route add 2001:db8:d::/64 dev {UPLINK} table 200 protocol static"),
    ];
    for line in &foreign {
        shell(&fixture, line)?;
    }
    std::fs::write(
        fixture.lab.paths().rt_tables().join("other.conf"),
        "300 other\n",
    )?;
    let before = take(&fixture.lab)?;
    let untouched = |when: &str| {
        let now = take(&fixture.lab)?;
        for (part, lines) in foreign_parts(&before) {
            for line in lines.lines() {
                assert!(
                    now[part].contains(line),
                    "{when}, of {part} is gone: {line}\n{now:#?}"
                );
            }
        }
        Ok::<_, anyhow::Error>(())
    };
    let daemon = live(&fixture)?;
    untouched("while it runs")?;
    daemon.kill()?;
    untouched("after a kill")?;
    let daemon = fixture.start()?;
    untouched("after a restart")?;
    fixture.delete_own_rules()?;
    fixture
        .program
        .status_until("rules come back", |status| status.healthy)?;
    untouched("after a repair")?;
    assert_eq!(daemon.stop()?, 0);
    untouched("after a stop")?;
    fixture.program.run_ok(&["down"])?;
    assert_same(&before, &take(&fixture.lab)?);
    Ok(())
}

/// Placeholder for a space inside an argument: command lines are split at spaces.
const NBSP: char = '\u{a0}';

fn shell(fixture: &Fixture, line: &str) -> Result<()> {
    let words: Vec<String> = line
        .split(' ')
        .map(|word| word.replace(NBSP, " "))
        .collect();
    let mut command = fixture.host().command(&words[0]);
    sixxs_tests::shell::capture(command.args(&words[1..]))?;
    Ok(())
}

/// The parts of a snapshot that contain foreign objects.
fn foreign_parts(before: &Snapshot) -> impl Iterator<Item = (&String, &String)> {
    before.iter().filter(|(part, _)| {
        ["rules", "routes", "qdiscs"].contains(&part.as_str())
            || part.starts_with("filters of")
            || part.ends_with("rt_tables.d")
    })
}

/// A daemon after some work: traffic, leaks, and repaired rules.
fn live(fixture: &Fixture) -> Result<Daemon> {
    let daemon = fixture.start()?;
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
        let cause = Cause::Device(UPLINK);
        let socket = leak::udp_socket(fixture.host(), tunnel.plan.address, cause)?;
        leak::send(&socket, OUTSIDE, 10, 100)?;
    }
    let rules = fixture.own_rules()?;
    fixture.delete_own_rules()?;
    let limit = Duration::from_secs(5);
    wait::until(
        "rules come back",
        limit,
        || fixture.own_rules(),
        |now| *now == rules,
    )?;
    Ok(daemon)
}
