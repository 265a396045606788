//! Passwords are only in files that others cannot read.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context as _, Result, ensure};
use md5::{Digest as _, Md5};
use sha1::Sha1;
use sixxs_tests::broker::Kind;
use sixxs_tests::broker::tic::{Fault, Stage};
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::native::{PASSWORD, TUNNEL_PASSWORDS};
use sixxs_tests::program::Hook;

use crate::fixture::{Fixture, mixed_config};

const KINDS: [Kind; 2] = [Kind::Ayiya, Kind::Heartbeat];

/// Texts that must not appear: passwords and their hashes.
fn secrets() -> Vec<String> {
    let passwords = TUNNEL_PASSWORDS.into_iter().chain([PASSWORD]);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    passwords
        .flat_map(|password| {
            let (md5, sha1) = (Md5::digest(password), Sha1::digest(password));
            [password.to_owned(), hex(&md5), hex(&sha1)]
        })
        .collect()
}

#[test]
fn nothing_shows_a_password() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::native(KINDS), Hook::Auto, "")?;
    let lab = &fixture.lab;
    lab.write_config(&mixed_config(lab, "")?)?;
    let mut run = fixture.program.command(&["run"]);
    run.env("RUST_LOG", "trace");
    let daemon = fixture.program.start_as(run)?;
    fixture.wait_until_up().with_context(|| daemon.log())?;
    for tunnel in lab.tunnels() {
        fixture.ensure_outside_answered(tunnel)?;
    }
    // The server repeats the password in its reply.
    let tic = lab.tic()?;
    let echo = format!("400 I know you by {PASSWORD}");
    tic.misbehave(Stage::Authenticate, Fault::Say(echo));
    let name = lab.tunnels()[0].plan.interface;
    fixture.program.run_ok(&["restart", "--refresh", name])?;
    fixture.program.status_until("it is refused", |status| {
        status.tunnel(name).state == "failed"
    })?;
    let mut shown = vec![("log", daemon.log())];
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["plan"],
        &["plan", "--json"],
        &["check"],
        &["alerts", "--json"],
    ] {
        let printed = fixture.program.run(arguments)?;
        shown.push(("command", printed.stdout + &printed.stderr));
    }
    for file in ["cmdline", "environ"] {
        let path = format!("/proc/{}/{file}", daemon.pid()?);
        let bytes = std::fs::read(&path).with_context(|| path)?;
        shown.push((file, String::from_utf8_lossy(&bytes).into_owned()));
    }
    for (where_, text) in &shown {
        ensure!(!text.is_empty(), "{where_} is empty");
        for secret in secrets() {
            assert!(!text.contains(&secret), "{where_} has {secret}: {text}");
        }
    }
    // Other users cannot read the saved parameters.
    let kept = lab.paths().state().join("tic").join(format!("{name}.toml"));
    let mode = kept.metadata()?.permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn files_that_all_can_read_are_refused() -> Result<()> {
    let fixture = Fixture::with_spec(Spec::native(KINDS), Hook::Auto, "")?;
    let lab = &fixture.lab;
    let config = lab.write_config(&mixed_config(lab, "")?)?;
    let aiccu = lab.paths().aiccu_conf(lab.tunnels()[0].plan.interface);
    for exposed in [&config, &aiccu] {
        let mode = |mode| std::fs::set_permissions(exposed, PermissionsExt::from_mode(mode));
        mode(0o644)?;
        for command in ["run", "plan"] {
            let printed = fixture.program.run(&[command])?;
            assert_eq!(printed.code, 2, "{printed:#?}");
            let says = format!("run `chmod o= {}`", exposed.display());
            assert!(printed.stderr.contains(&says), "{printed:#?}");
            for secret in secrets() {
                assert!(!printed.stderr.contains(&secret), "{printed:#?}");
            }
        }
        mode(0o600)?;
    }
    let daemon = fixture.start()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
