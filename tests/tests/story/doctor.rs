//! `sixxs doctor` finds obstacles, with and without a daemon.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::{Hook, finish};
use sixxs_tests::wait;

use crate::fixture::Fixture;

/// What is found about something, and the exit status.
fn found(fixture: &Fixture, about: &str) -> Result<(i32, Value)> {
    let (status, report) = fixture.program.json(&["doctor"])?;
    let findings = report[0]["findings"].as_array().context("findings")?;
    let found = findings.iter().find(|finding| finding["about"] == about);
    let found = found.with_context(|| format!("nothing about {about}: {report:#?}"))?;
    assert_eq!(report[0]["healthy"], status == 0, "{report:#?}");
    Ok((status, found.clone()))
}

#[test]
fn a_host_with_and_without_traps() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let (status, daemon) = found(&fixture, "daemon")?;
    assert_eq!((status, &daemon["verdict"]), (0, &"note".into()));
    let daemon = fixture.start()?;
    for about in ["kernel", "ipv6", "rules", "programs", "bpffs", "daemon"] {
        let (status, finding) = found(&fixture, about)?;
        assert_eq!(
            (status, &finding["verdict"]),
            (0, &"good".into()),
            "{finding:#}"
        );
    }
    // A rule of somebody's that leads our packets elsewhere.
    let address = fixture.lab.tunnels()[0].plan.address;
    let rule = format!("from {address} lookup main priority 100");
    fixture.host().sh(&format!("ip -6 rule add {rule}"))?;
    let limit = Duration::from_secs(5);
    let daemon_is = || found(&fixture, "daemon");
    wait::until("it is seen", limit, daemon_is, |(status, finding)| {
        *status == 3 && finding["verdict"] == "bad"
    })?;
    fixture.host().sh(&format!("ip -6 rule del {rule}"))?;
    wait::until("it is over", limit, daemon_is, |(status, _)| *status == 0)?;
    let printed = fixture.program.run(&["doctor"])?;
    assert_eq!(printed.code, 0, "{printed:?}");
    assert!(
        printed.stdout.contains("good  kernel          Linux "),
        "{printed:?}"
    );
    assert_eq!(daemon.stop()?, 0);

    // Nowhere to catch leaks at.
    let config = fixture.lab.config("").replace("uplinks = [\"net0\"]\n", "");
    fixture.lab.write_config(&config)?;
    fixture.host().sh("ip -6 route del default")?;
    let (status, finding) = found(&fixture, "uplink")?;
    assert_eq!((status, &finding["verdict"]), (3, &"bad".into()));
    assert!(
        finding["fix"]
            .as_str()
            .is_some_and(|fix| fix.contains("default route"))
    );
    fixture.lab.write_config("nonsense = 1\n")?;
    let (status, finding) = found(&fixture, "configuration")?;
    assert_eq!((status, &finding["verdict"]), (3, &"bad".into()));

    // A path with a typing error.
    fs::remove_file(fixture.lab.paths().config())?;
    let (status, finding) = found(&fixture, "configuration")?;
    assert_eq!((status, &finding["verdict"]), (3, &"bad".into()));
    let missing = format!("there is no {}", fixture.lab.paths().config().display());
    assert_eq!(finding["detail"], missing);
    let (_, daemon) = found(&fixture, "daemon")?;
    assert_ne!(daemon["fix"], "sixxs run");
    Ok(())
}

/// An ordinary user, who sees neither the configuration nor what is mounted where, is told to look as
/// root.
#[test]
fn for_an_ordinary_user() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let config = fixture.lab.paths().config();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600))?;
    let copy = fixture.lab.paths().base().join("sixxs");
    fixture.program.copy_to(&copy)?;
    let nobody = |arguments: &[&str]| {
        let mut command = fixture.host().command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(&copy).args(arguments);
        fixture.program.apply_environment(&mut command);
        finish(&mut command)
    };
    let printed = nobody(&["doctor", "--json"])?;
    let report: Value = serde_json::from_str(&printed.stdout).context(printed.stderr)?;
    let findings = report["findings"].as_array().context("findings")?;
    for about in ["configuration", "pins"] {
        let found = findings.iter().find(|finding| finding["about"] == about);
        let found = found.with_context(|| format!("nothing about {about}: {report:#}"))?;
        assert_eq!(found["verdict"], "note", "{found:#}");
        assert_eq!(found["fix"], "run it as root", "{found:#}");
    }
    for command in [&["plan"][..], &["explain", "2001:db8:a::2", "2001:db8::1"]] {
        let printed = nobody(command)?;
        assert_eq!(printed.code, 2, "{printed:#?}");
        assert!(printed.stderr.contains("run it as root"), "{printed:#?}");
    }
    Ok(())
}
