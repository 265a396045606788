//! `sixxs check --outside` sends packets from one link to another over the internet, each way, and reports what arrives.

mod paths;
mod surroundings;

use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::topology::{Flavour, HOST, TUNNELS, UPLINK};
use sixxs_tests::program::{Daemon, Hook};
use sixxs_tests::wait;

use crate::fixture::{Fixture, without_ages};

const LINKS: [&str; 2] = [TUNNELS[0].interface, TUNNELS[1].interface];

/// The fewest requests that a direction sends: the small ones, and one of the largest size.
const FEWEST: u64 = 11;

/// A lab with this MTU, and a daemon.
fn started(flavour: Flavour, hook: Hook, mtu: u32) -> Result<(Fixture, Daemon)> {
    let spec = Spec {
        mtu,
        ..Spec::new(flavour)
    };
    let fixture = Fixture::with_spec(spec, hook, "")?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    Ok((fixture, daemon))
}

/// The documented limit for the two directions of a pair.
const WITHIN: Duration = Duration::from_secs(20);

/// The tests of a check with these links, and its exit status.
fn check(fixture: &Fixture, links: &[&str]) -> Result<(i32, Vec<Value>)> {
    let arguments = [&["check", "--outside"], links].concat();
    let (code, mut values) = fixture.program.json_within(WITHIN, &arguments)?;
    let report = values.pop().context("a report")?;
    let checks = report["checks"].as_array().context("checks")?;
    let (tested, left_out): (Vec<_>, Vec<_>) =
        checks.iter().partition(|check| !check["outside"].is_null());
    for check in left_out {
        let detail = check["detail"].as_str().unwrap_or_default();
        ensure!(detail.starts_with("left out: "), "{report:#}");
    }
    for check in &tested {
        ensure!(check["check"] == "outside", "{report:#}");
        ensure!(check["pass"] == check["outside"]["pass"], "{report:#}");
        ensure!(check["tunnel"] == check["outside"]["from"], "{report:#}");
    }
    ensure!(report["pass"] == (code == 0), "{code}: {report:#}");
    let tests = tested.iter().map(|check| check["outside"].clone());
    Ok((code, tests.collect()))
}

/// The test in one direction.
fn of<'a>(tests: &'a [Value], from: &str, to: &str) -> Result<&'a Value> {
    let is_it = |test: &&Value| test["from"] == from && test["to"] == to;
    let found = tests.iter().find(is_it);
    found.with_context(|| format!("no test from {from} to {to}: {tests:#?}"))
}

/// All requests arrived, up to this size.
fn is_whole(test: &Value, path_mtu: u32) -> Result<()> {
    ensure!(test["pass"] == true && test["cause"].is_null(), "{test:#}");
    ensure!(test["sent"] == 10 && test["arrived"] == 10, "{test:#}");
    ensure!(test["loss_percent"] == 0.0, "{test:#}");
    let times = ["least", "median", "most"].map(|key| format!("{key}_milliseconds"));
    let times = times.map(|key| test[key].as_f64().unwrap_or(-1.0));
    ensure!(
        0.0 < times[0] && times[0] <= times[1] && times[1] <= times[2] && times[2] < 1000.0,
        "{test:#}"
    );
    ensure!(test["path_mtu"] == path_mtu, "{test:#}");
    Ok(())
}

/// What is counted about tunnels, except all packets.
fn counted(fixture: &Fixture) -> Result<Value> {
    let (_, mut values) = fixture.program.json(&["status"])?;
    let status = values.pop().context("a status")?;
    let tunnels = status["tunnels"].as_array().context("tunnels")?;
    let keys = [
        "echo",
        "proof",
        "leaks",
        "strays",
        "loops",
        "recursions",
        "refused",
    ];
    let of = |tunnel: &Value| keys.map(|key| without_ages(&tunnel[key])).to_vec();
    Ok(Value::from(
        tunnels
            .iter()
            .map(|tunnel| Value::from(of(tunnel)))
            .collect::<Vec<_>>(),
    ))
}

/// All packets of an interface that are counted, by `sixxs counters`.
fn packets(fixture: &Fixture, interface: &str) -> Result<u64> {
    let (_, mut values) = fixture.program.json(&["counters"])?;
    let counters = values.pop().context("counters")?;
    let of = counters["interfaces"][interface].as_object();
    let of = of.with_context(|| format!("{interface}: {counters:#}"))?;
    let is_count = |name: &str| name == "in_packets" || name.starts_with("out_");
    let counts = of
        .iter()
        .filter(|(name, _)| is_count(name) && !name.contains("bytes") && !name.contains("echo"));
    Ok(counts.filter_map(|(_, count)| count.as_u64()).sum())
}

/// The samples about echo messages, verdicts and leaks among the metrics.
fn metrics(fixture: &Fixture) -> Result<Vec<String>> {
    let control = UnixStream::connect(fixture.lab.paths().run().join("control.sock"))?;
    let (_, page) = crate::metrics::ask(control, "GET /v1/metrics")?;
    let is_about = |line: &&str| {
        ["echo", "leak", "stray", "loop", "forged", "unanswered"]
            .iter()
            .any(|word| line.split('{').next().unwrap_or_default().contains(word))
            && !line.contains("seconds")
            && !line.starts_with('#')
    };
    Ok(page.lines().filter(is_about).map(str::to_owned).collect())
}

variants!(packets_arrive_and_are_counted_nowhere:
    tun(Tun, Auto), veth(Veth, Auto), tun_clsact(Tun, Clsact), veth_clsact(Veth, Clsact), wireguard(WireGuard, Auto));

fn packets_arrive_and_are_counted_nowhere(flavour: Flavour, hook: Hook) -> Result<()> {
    let (fixture, daemon) = started(flavour, hook, 1280)?;
    // Neighbours are known, and all that the start causes is counted.
    check(&fixture, &LINKS)?;
    let all = || -> Result<Vec<u64>> { LINKS.iter().map(|link| packets(&fixture, link)).collect() };
    let (before, samples, packets_before) = (counted(&fixture)?, metrics(&fixture)?, all()?);
    let icmp = fixture.host().counts()?;
    for links in [&LINKS[..], &[LINKS[1], LINKS[0]]] {
        let (code, tests) = check(&fixture, links)?;
        ensure!(code == 0 && tests.len() == 2, "{tests:#?}");
        for (from, to) in [(0, 1), (1, 0)] {
            let test = of(&tests, LINKS[from], LINKS[to])?;
            is_whole(test, 1280)?;
            ensure!(test["source"] == TUNNELS[from].address.to_string());
            ensure!(test["destination"] == TUNNELS[to].address.to_string());
        }
    }
    ensure!(
        counted(&fixture)? == before,
        "{before:#}\n{:#}",
        counted(&fixture)?
    );
    ensure!(
        metrics(&fixture)? == samples,
        "{samples:#?}\n{:#?}",
        metrics(&fixture)?
    );
    // Some flavours have packets of their own, such as listener reports.
    for (before, after) in packets_before.iter().zip(all()?) {
        ensure!(after < before + FEWEST, "{before}, then {after}");
    }
    let changes = icmp.changes(&fixture.host().counts()?);
    ensure!(!changes.contains("EchoReplies"), "{changes}");
    // Real pings are counted as before.
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    fixture.ensure_nothing_lost()?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// Native tunnels, with each carrier. Other packets from an own address are dropped as forged.
macro_rules! native {
    ($($name:ident($first:ident, $second:ident, $carrier:expr, $extra:expr)),+ $(,)?) => {
        $(
            #[test]
            fn $name() -> Result<()> {
                native_tunnels_carry_both([Kind::$first, Kind::$second], $carrier, $extra)
            }
        )+
    };
}

native!(
    by_programs(SixInFour, Heartbeat, Some("ebpf"), ""),
    by_programs_that_answer(
        SixInFour,
        Heartbeat,
        Some("ebpf"),
        "answer_echo = \"kernel\"\n"
    ),
    by_the_daemon(SixInFour, Heartbeat, Some("tun"), ""),
    by_sit(SixInFour, Heartbeat, Some("sit"), ""),
    by_ayiya(Ayiya, SixInFour, None, "answer_echo = \"kernel\"\n"),
    without_xdp(Ayiya, SixInFour, None, "xdp = \"off\"\n"),
);

fn native_tunnels_carry_both(
    kinds: [Kind; 2],
    carrier: Option<&'static str>,
    extra: &str,
) -> Result<()> {
    let spec = Spec {
        carrier,
        ..Spec::native(kinds)
    };
    let fixture = Fixture::with_spec(spec, Hook::Auto, extra)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let carriers = fixture.program.status()?;
    let carriers = carriers.tunnels.iter().map(|tunnel| tunnel.carrier.clone());
    println!("carriers: {:?}", carriers.collect::<Vec<_>>());
    let refused = || -> Result<Vec<Value>> {
        let (_, mut values) = fixture.program.json(&["status"])?;
        let status = values.pop().context("a status")?;
        let tunnels = status["tunnels"].as_array().context("tunnels")?;
        let keys = ["refused", "loops", "leaks", "strays"];
        Ok(tunnels
            .iter()
            .flat_map(|tunnel| keys.map(|key| tunnel[key].clone()))
            .collect())
    };
    let before = refused()?;
    let (code, tests) = check(&fixture, &[])?;
    ensure!(code == 0, "{tests:#?}");
    // The uplink is the third link of the ring.
    ensure!(tests.len() == 6, "{tests:#?}");
    for (from, to) in [(0, 1), (1, 0)] {
        is_whole(of(&tests, LINKS[from], LINKS[to])?, 1280)?;
    }
    for link in LINKS {
        is_whole(of(&tests, link, UPLINK)?, 1280)?;
        let from_uplink = of(&tests, UPLINK, link)?;
        ensure!(from_uplink["source"] == HOST.to_string(), "{from_uplink:#}");
        // The tunnels take less than the uplink.
        is_whole(from_uplink, 1280)?;
        ensure!(from_uplink["mtu"] == 1500, "{from_uplink:#}");
    }
    ensure!(refused()? == before, "{before:#?}\n{:#?}", refused()?);
    for tunnel in fixture.lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    fixture.ensure_nothing_lost()?;
    ensure!(daemon.stop()? == 0);
    Ok(())
}

/// Which links take part, and which requests are refused.
#[test]
fn links_are_named_or_all() -> Result<()> {
    let (fixture, daemon) = started(Flavour::Tun, Hook::Auto, 1280)?;
    let refused = |arguments: &[&str], words: &str| -> Result<()> {
        let printed = fixture
            .program
            .run(&[&["check", "--outside"], arguments].concat())?;
        ensure!(printed.code == 1, "{printed:#?}");
        ensure!(printed.stderr.contains(words), "{printed:#?}");
        Ok(())
    };
    let known = "no tunnel or uplink \"net9\"; there are sixxs0, sixxs1, net0";
    refused(&["sixxs0", "net9"], known)?;
    refused(&["sixxs0"], "name two links, or none")?;
    refused(&["sixxs0", "sixxs1", "net0"], "name two links, or none")?;
    refused(&["sixxs0", "sixxs0"], "sixxs0 is one link; name two")?;
    let ports = fixture
        .program
        .run(&["check", "--outside", "--tcp", "443"])?;
    ensure!(ports.code == 2, "{ports:#?}");
    let printed = fixture.program.run(&["check", "--outside"])?;
    ensure!(printed.code == 0, "{printed:#?}");
    let expected = format!(
        "pass  sixxs0          outside  {} > sixxs1 {}: 10 of 10 arrived after ",
        TUNNELS[0].address, TUNNELS[1].address
    );
    let mut lines = printed.stdout.lines();
    ensure!(
        lines.any(|line| line.starts_with(&expected)),
        "{printed:#?}"
    );
    // A tunnel that is down is left out, unless it is named.
    fixture.host().sh("ip link set sixxs1 down")?;
    let is_down = || check(&fixture, &[]);
    let (_, tests) = wait::until(
        "two directions are left",
        Duration::from_secs(10),
        is_down,
        |(_, tests)| tests.len() == 2,
    )?;
    of(&tests, "sixxs0", UPLINK)?;
    let (code, tests) = check(&fixture, &LINKS)?;
    ensure!(code == 3, "{tests:#?}");
    let down = of(&tests, "sixxs0", "sixxs1")?;
    ensure!(
        down["cause"] == "not_tested" && down["sent"] == 0,
        "{down:#}"
    );
    let sentence = down["sentence"].as_str().unwrap_or_default();
    ensure!(
        sentence.ends_with("not tested: sixxs1: its interface is down"),
        "{down:#}"
    );
    ensure!(daemon.stop()? == 0);
    let printed = fixture.program.run(&["check", "--outside"])?;
    ensure!(printed.code == 3, "{printed:#?}");
    ensure!(
        printed.stdout.contains("FAIL  *               daemon"),
        "{printed:#?}"
    );
    Ok(())
}
