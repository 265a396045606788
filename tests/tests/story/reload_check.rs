//! `sixxs reload --check` prints what a reload would change, and changes nothing.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::Value;
use sixxs_tests::broker::Kind;
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::native::PASSWORD;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::{Hook, Output, finish};

use crate::fixture::Fixture;

/// A broker that cannot be reached.
const HEARTBEAT: &str = r#"
[[tunnel]]
name = "sixxs7"
kind = "6in4-heartbeat"
address = "2001:db8:7::2/64"
peer = "2001:db8:7::1"
remote4 = "192.0.2.77"
password = "secret"
"#;

fn config(fixture: &Fixture) -> Result<String> {
    Ok(fs::read_to_string(fixture.lab.paths().config())?)
}

/// A file beside the configuration, which only root can read.
fn other(fixture: &Fixture, text: &str) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = fixture.lab.paths().config().with_file_name("other.toml");
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(path)
}

fn check(fixture: &Fixture, file: &Path) -> Result<Output> {
    let file = file.to_str().context("a path")?;
    fixture
        .program
        .run(&["reload", "--check", "--config", file])
}

fn as_json(fixture: &Fixture, file: &Path) -> Result<Value> {
    let file = file.to_str().context("a path")?;
    let arguments = ["reload", "--check", "--config", file];
    let (_, values) = fixture.program.json(&arguments)?;
    values.into_iter().next().context("an answer")
}

/// Checks the daemon's own file: neither an option nor the environment names another one.
fn check_own(fixture: &Fixture, json: bool) -> Result<Output> {
    let mut command = fixture.program.command(&["reload", "--check"]);
    command
        .args(json.then_some("--json"))
        .env_remove("SIXXS_CONFIG");
    finish(&mut command)
}

/// The host's rules, routes and links.
fn everything(fixture: &Fixture) -> Result<[String; 3]> {
    let host = fixture.host();
    Ok([
        host.sh("ip -6 rule show")?,
        host.sh("ip -6 route show table all")?,
        host.sh("ip -o link show")?,
    ])
}

#[test]
fn without_a_daemon_all_is_new() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let before = everything(&fixture)?;
    let printed = fixture.program.run(&["reload", "--check"])?;
    assert_eq!(printed.code, 3, "{printed:#?}");
    assert!(
        printed.stderr.contains("there is no daemon"),
        "{printed:#?}"
    );
    for line in [
        "# tunnel sixxs0 is added",
        "# tunnel sixxs1 is added",
        "# uplink net0 gets the program",
        "ip -6 rule add from 2001:db8:a::2 lookup 200",
        "ip -6 route add default dev sixxs0 table 200",
    ] {
        assert!(printed.stdout.contains(line), "{line}: {printed:#?}");
    }
    let wrong = other(&fixture, "[[tunnel]]\nname = 3\n")?;
    let printed = check(&fixture, &wrong)?;
    assert_eq!(printed.code, 2, "{printed:#?}");
    assert!(
        printed.stderr.contains("other.toml: line 2"),
        "{printed:#?}"
    );
    assert_eq!(everything(&fixture)?, before);
    Ok(())
}

#[test]
fn a_daemon_compares_with_what_it_has() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let before = everything(&fixture)?;
    let printed = fixture.program.run(&["reload", "--check"])?;
    assert_eq!(printed.stdout, "# nothing changes\n");
    assert_eq!(printed.code, 0, "{printed:#?}");

    let good = config(&fixture)?;
    let wrong = other(&fixture, &format!("{good}\ntable = 200\n"))?;
    let printed = check(&fixture, &wrong)?;
    assert_eq!(printed.code, 2, "{printed:#?}");
    assert!(printed.stderr.contains("other.toml: line"), "{printed:#?}");

    // The first tunnel is removed, the second one has one more prefix, and a third one is added.
    let [_, second] = fixture.lab.tunnels();
    let new = format!(
        "rule_priority = 9000\n[[tunnel]]\nname = \"sixxs1\"\nkind = \"interface\"\n{}prefixes = [\"2001:db8:bb::/48\"]\n{HEARTBEAT}",
        fixture.lab.tunnel_config(second.plan)
    );
    let file = other(&fixture, &new)?;
    let printed = check(&fixture, &file)?;
    assert_eq!(printed.code, 3, "{printed:#?}");
    for line in [
        "# tunnel sixxs7 is added",
        "# tunnel sixxs0 is removed",
        "# tunnel sixxs1 continues, changed",
        "# setting `rule_priority` has another value",
        "ip link set sixxs7 mtu 1280 up",
        "# connects to 192.0.2.77: 1 needed, 3 left",
        "ip -6 rule add from 2001:db8:bb::/48 lookup",
        "ip -6 rule add from 2001:db8:7::2 lookup",
        "ip -6 route replace default dev sixxs7 table 201",
        "ip -6 rule del",
        "2001:db8:a::2",
    ] {
        assert!(printed.stdout.contains(line), "{line}: {printed:#?}");
    }
    assert!(!printed.stdout.contains("secret"), "{printed:#?}");
    let found = as_json(&fixture, &file)?;
    assert_eq!(found["tunnels"]["added"][0], "sixxs7", "{found:#}");
    assert_eq!(found["connects"][0]["broker"], "192.0.2.77", "{found:#}");

    assert_eq!(everything(&fixture)?, before, "nothing was changed");
    assert_eq!(fixture.program.status()?.tunnels.len(), 2);

    // The reload makes the reported changes.
    fs::copy(&file, fixture.lab.paths().config())?;
    fixture.program.run_ok(&["reload"])?;
    let rules = fixture.own_rules()?;
    assert!(rules.contains("from 2001:db8:bb::/48"), "{rules}");
    assert!(!rules.contains("2001:db8:a::2"), "{rules}");
    // The reload does not wait for the new tunnel's interface.
    fixture.program.status_until("sixxs7 is up", |status| {
        status.tunnel("sixxs7").state == "up"
    })?;
    let printed = fixture.program.run(&["reload", "--check"])?;
    assert_eq!(printed.stdout, "# nothing changes\n");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn saved_parameters_of_brokers_are_used() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::native([Kind::Ayiya, Kind::Heartbeat]), Hook::Auto, "")?;
    fixture
        .lab
        .write_config(&fixture.lab.write_aiccu_confs("", true)?)?;
    let address = fixture.lab.tunnels()[0].plan.address;
    let rule = format!("rule add from {address} lookup");
    // Each tunnel needs a request to its broker first: their future addresses are unknown.
    let printed = fixture.program.run(&["reload", "--check"])?;
    assert_eq!(printed.code, 3, "{printed:#?}");
    assert!(printed.stdout.contains(": 2 needed"), "{printed:#?}");
    assert!(!printed.stdout.contains(&rule), "{printed:#?}");
    assert_eq!(fixture.lab.tic()?.connects().len(), 0);

    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    let printed = fixture.program.run(&["reload", "--check"])?;
    assert_eq!(printed.stdout, "# nothing changes\n");
    assert_eq!(daemon.stop()?, 0);
    fixture.program.run_ok(&["down"])?;
    let printed = fixture.program.run(&["reload", "--check"])?;
    assert!(printed.stdout.contains(&rule), "{printed:#?}");
    Ok(())
}

#[test]
fn plan_names_the_configuration_that_it_is_about() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let plain = fixture.program.run_ok(&["plan"])?;
    assert_eq!(plain.stderr, "");
    let wrong = other(&fixture, "nonsense")?;
    let file = wrong.to_str().context("a path")?;
    let printed = fixture.program.run_ok(&["plan", "--config", file])?;
    let expected = format!("`sixxs reload --check --config {file}`");
    assert!(printed.stderr.contains(&expected), "{printed:#?}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// All faults of a file are reported, with their lines: by the command for a file that is named, and by the daemon for
/// its own file.
#[test]
fn every_fault_is_reported() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let text = "on_leak = \"divert\"\nrule_priority = 40000\n[[tunnel]]\nname = \"sixxs0\"\n\
                kind = \"interface\"\naddress = \"192.0.2.2/24\"\nmtu = 1000\nnonsense = 1\n";
    let faults = [
        "line 1: on_leak: ",
        "line 2: rule_priority: ",
        "line 6: tunnel[1].address: ",
        "line 7: tunnel[1].mtu: ",
        "line 8: tunnel[1].nonsense: ",
    ];
    let file = other(&fixture, text)?;
    let named = |printed: &Output| {
        assert_eq!(printed.code, 2, "{printed:#?}");
        for fault in faults {
            assert!(
                printed.stderr.contains(&format!("other.toml: {fault}")),
                "{fault}: {printed:#?}"
            );
        }
        assert_eq!(printed.stdout, "");
    };
    named(&check(&fixture, &file)?);
    let daemon = fixture.start()?;
    let before = everything(&fixture)?;
    named(&check(&fixture, &file)?);
    fixture.lab.write_config(text)?;
    let printed = check_own(&fixture, false)?;
    assert_eq!(printed.code, 2, "{printed:#?}");
    let as_json = check_own(&fixture, true)?;
    assert_eq!(as_json.code, 2, "{as_json:#?}");
    for fault in faults {
        let fault = format!("sixxs.toml: {fault}");
        assert!(printed.stdout.contains(&fault), "{fault}: {printed:#?}");
        assert!(as_json.stdout.contains(&fault), "{fault}: {as_json:#?}");
    }
    // The output is for a shell: what is no command is a comment.
    let mut lines = printed.stdout.lines();
    assert!(lines.all(|line| line.starts_with("# ")), "{printed:#?}");
    assert_eq!(everything(&fixture)?, before);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The faults of an aiccu.conf are reported like those of the configuration, without its password.
#[test]
fn a_faulty_account_is_reported() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::native([Kind::Ayiya, Kind::Heartbeat]), Hook::Auto, "")?;
    let lab = &fixture.lab;
    lab.write_config(&lab.write_aiccu_confs("", true)?)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    let before = everything(&fixture)?;
    let account = lab.paths().aiccu_conf(lab.tunnels()[0].plan.interface);
    let good = fs::read_to_string(&account)?;
    let bad = good
        .replace("protocol tic\n", "protocol l2tp\n")
        .replace("requiretls true\n", "requiretls perhaps\n");
    fs::write(&account, &bad)?;
    let line = |key: &str| {
        let at = bad.lines().position(|line| line.starts_with(key));
        Ok::<_, anyhow::Error>(at.with_context(|| format!("{key} in {bad}"))? + 1)
    };
    let faults = [
        format!("line {}: protocol: ", line("protocol")?),
        format!("line {}: requiretls: ", line("requiretls")?),
    ];
    let faults = faults.map(|fault| format!("{}: {fault}", account.display()));
    let all_are_reported = |printed: &Output| {
        assert_eq!(printed.code, 2, "{printed:#?}");
        let text = format!("{}{}", printed.stdout, printed.stderr);
        for fault in &faults {
            assert!(text.contains(fault), "{fault}: {printed:#?}");
        }
        assert!(!text.contains(PASSWORD), "{printed:#?}");
    };
    all_are_reported(&check_own(&fixture, false)?);
    all_are_reported(&check(&fixture, &lab.paths().config())?);
    assert_eq!(everything(&fixture)?, before);
    assert_eq!(daemon.stop()?, 0);
    all_are_reported(&fixture.program.run(&["reload", "--check"])?);
    Ok(())
}

/// A tunnel with other heartbeats or another address is restarted. A restart of AYIYA is a connect.
#[test]
fn a_restarted_tunnel_is_named() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::native([Kind::Ayiya, Kind::SixInFour]), Hook::Auto, "")?;
    let daemon = fixture.start()?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    let before = everything(&fixture)?;
    let good = config(&fixture)?;
    let [first, second] = fixture.lab.tunnels();
    let changes = [
        ("heartbeat_interval = 60", "heartbeat_interval = 30", first),
        ("2001:db8:b::2/64", "2001:db8:b::3/64", second),
    ];
    for (from, to, tunnel) in changes {
        let file = other(&fixture, &good.replace(from, to))?;
        let printed = check(&fixture, &file)?;
        assert_eq!(printed.code, 3, "{printed:#?}");
        let line = format!("# tunnel {} is restarted\n", tunnel.plan.interface);
        assert!(printed.stdout.contains(&line), "{printed:#?}");
        assert_eq!(
            printed.stdout.matches("# tunnel ").count(),
            1,
            "{printed:#?}"
        );
        let connect = "# connects to 198.51.100.1: 1 needed";
        let is_first = tunnel.plan.interface == first.plan.interface;
        assert_eq!(printed.stdout.contains(connect), is_first, "{printed:#?}");
        let found = as_json(&fixture, &file)?;
        assert_eq!(
            found["tunnels"]["restarted"][0], tunnel.plan.interface,
            "{found:#}"
        );
    }
    assert_eq!(everything(&fixture)?, before);
    // The reload restarts just this tunnel.
    let indexes = || -> Result<[Option<u32>; 2]> {
        let status = fixture.program.status()?;
        Ok([first, second].map(|tunnel| status.tunnel(tunnel.plan.interface).ifindex))
    };
    let [_, kept] = indexes()?;
    let [(from, to, _), _] = changes;
    fixture.lab.write_config(&good.replace(from, to))?;
    fixture.program.run_ok(&["reload"])?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    assert_eq!(indexes()?[1], kept);
    fixture.ensure_outside_answered(first)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
