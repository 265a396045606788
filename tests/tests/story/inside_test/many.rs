//! As many tunnels as the programs take are tested within a minute, and a failed test costs little.

use std::fmt::Write as _;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use sixxs_tests::lab::nft;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::Hook;
use sixxs_tests::program::status::{Status, Tunnel};
use sixxs_tests::wait;

use super::{LIMIT, NAME, answers, fails, started, without_peers};
use crate::answer_echo::FIREWALL;
use crate::fixture::{Fixture, exclusive};

/// Number of tunnels besides the lab's two.
const MORE: usize = 446;

/// Limit for a check of all of them.
const CHECKED_WITHIN: Duration = Duration::from_secs(60);

/// Limit for the time that others wait while programs are detached. All of them together would take eight seconds.
const DELAY: Duration = Duration::from_secs(3);

#[test]
fn all_tunnels_are_tested_within_a_minute() -> Result<()> {
    let _exclusive = exclusive();
    let extra = "inside_test_minutes = 0\n";
    let (fixture, daemon) = started(Flavour::Tun, Hook::Auto, extra)?;
    let mut config = without_peers(&fixture.lab, extra);
    let mut batch = String::new();
    for number in 0..MORE {
        writeln!(
            config,
            "[[tunnel]]\nname = \"many{number}\"\nkind = \"interface\"\naddress = \"2001:db8:c:{number:x}::2/64\"\n\
             gateway = \"fe80::1\""
        )?;
        write!(
            batch,
            "link add many{number} type veth peer name end{number}\n\
             link set many{number} up\n\
             link set end{number} up\n\
             address add 2001:db8:c:{number:x}::2/64 dev many{number} nodad\n\
             neighbour add fe80::1 dev many{number} lladdr 02:00:00:00:00:01\n"
        )?;
    }
    fixture.host().ip(&batch)?;
    fixture.lab.write_config(&config)?;
    let mut reload = fixture.program.command(&["reload"]).spawn()?;
    // While the kernel attaches 896 programs, one after the other, the daemon is busy, but it answers.
    wait::until(
        "every tunnel is whole",
        CHECKED_WITHIN,
        || {
            let (_, status) = fixture.program.json_within(CHECKED_WITHIN, &["status"])?;
            Ok(serde_json::from_value::<Status>(status[0].clone())?)
        },
        |status| status.tunnels.len() == MORE + 2 && status.tunnels.iter().all(Tunnel::is_whole),
    )?;
    ensure!(reload.wait()?.success());
    let processor = daemon.processor_time()?;
    let begins = Instant::now();
    let (code, mut values) = fixture.program.json_within(CHECKED_WITHIN, &["check"])?;
    let took = begins.elapsed();
    let cost = (daemon.processor_time()? - processor) / 448;
    let report = values.pop().context("a report")?;
    let checks = report["checks"].as_array().context("checks")?;
    let mut inside = checks.iter().filter(|check| check["check"] == "inside");
    ensure!(inside.clone().count() == MORE + 2, "{report:#}");
    let failed = inside.find(|check| check["pass"] != true);
    ensure!(failed.is_none(), "{failed:#?}");
    ensure!(code == 0, "{report:#}");
    println!(
        "{} tunnels in {took:?}, {cost:?} of processor each",
        MORE + 2
    );
    ensure!(took < CHECKED_WITHIN, "{took:?}");
    ends_without_delaying_others(&fixture)?;
    ensure!(daemon.wait()? == 0);
    Ok(())
}

/// `down` detaches 896 programs. Meanwhile the rest of the host can list and change interfaces.
fn ends_without_delaying_others(fixture: &Fixture) -> Result<()> {
    let longest = thread::scope(|scope| {
        let down = scope.spawn(|| fixture.program.run_ok_within(CHECKED_WITHIN, &["down"]));
        let mut longest = Duration::ZERO;
        while !down.is_finished() {
            let begins = Instant::now();
            fixture.lab.outside().sh("ip -o link show lo")?;
            longest = longest.max(begins.elapsed());
            sleep(Duration::from_millis(20));
        }
        match down.join() {
            Ok(ended) => ended.map(|_| longest),
            Err(_) => bail!("down panicked"),
        }
    })?;
    println!("others waited {longest:?} at most");
    ensure!(longest < DELAY * wait::patience(), "{longest:?}");
    Ok(())
}

/// A test that fails waits, but most of that time costs nothing.
#[test]
fn a_failing_test_costs_little() -> Result<()> {
    const CHECKS: u32 = 20;
    let _exclusive = exclusive();
    let (fixture, daemon) = started(Flavour::Tun, Hook::Auto, "inside_test_minutes = 0\n")?;
    answers(&fixture)?;
    nft::load(fixture.host(), FIREWALL)?;
    fails(
        &fixture,
        "packet_filter_in",
        "a packet filter drops the request",
    )?;
    let before = daemon.processor_time()?;
    for _ in 0..CHECKS {
        let printed = fixture.program.run(&["check", NAME])?;
        ensure!(printed.code == 3, "{printed:#?}");
    }
    let each = (daemon.processor_time()? - before) / CHECKS;
    println!("{each:?} of processor for a check that fails");
    ensure!(each < LIMIT / 100 * wait::patience(), "{each:?}");
    ensure!(daemon.stop()? == 0);
    Ok(())
}
