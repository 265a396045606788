//! The password is in its file only.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::broker::hurricane::Fault;
use sixxs_tests::lab::topology::HOST4;

use super::{KEY, NO_LIMIT, Story};

/// "labuser:" and the password in base64, without the last digits, which depend on the padding.
const BASIC: &str = "bGFidXNlcjpvcGVuIHNlc2FtZSBvZiB0aGUgdHVubmVs";

#[test]
fn nothing_shows_the_password() -> Result<()> {
    let story = Story::native(NO_LIMIT)?;
    let (fixture, program) = (&story.fixture, &story.fixture.program);
    let mut run = program.command(&["run"]);
    run.env("RUST_LOG", "trace");
    let daemon = program.start_as(run)?;
    story.current_until(HOST4).with_context(|| daemon.log())?;
    // The server repeats what it was sent.
    story.server.misbehave(Some(Fault::EchoLogin));
    story.configure(NO_LIMIT, "1")?;
    program.run_ok(&["reload"])?;
    story.update_until("the answer is refused", |update| update.state == "retrying")?;
    let mut shown = vec![("log", daemon.log())];
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["plan"],
        &["check"],
        &["doctor"],
        &["alerts", "--json"],
        &["reload", "--check", "--json"],
    ] {
        let printed = program.run(arguments)?;
        shown.push(("command", printed.stdout + &printed.stderr));
    }
    for file in ["cmdline", "environ"] {
        let path = format!("/proc/{}/{file}", daemon.pid()?);
        let bytes = fs::read(&path).with_context(|| path)?;
        shown.push((file, String::from_utf8_lossy(&bytes).into_owned()));
    }
    // The record has digests only.
    let record = fixture.lab.paths().state().join("updates/sixxs0");
    shown.push(("record", fs::read_to_string(&record)?));
    for (place, text) in &shown {
        // Some commands have nothing to print.
        ensure!(*place == "command" || !text.is_empty(), "{place} is empty");
        for secret in [KEY, BASIC] {
            assert!(!text.contains(secret), "{place} has {secret}: {text}");
        }
    }
    let mode = record.metadata()?.permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn a_file_that_all_can_read_is_refused() -> Result<()> {
    let story = Story::native(NO_LIMIT)?;
    let key = story.file("he.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
    for command in ["run", "plan"] {
        let printed = story.fixture.program.run(&[command])?;
        assert_eq!(printed.code, 2, "{printed:#?}");
        let words = format!("run `chmod o= {}`", key.display());
        assert!(printed.stderr.contains(&words), "{printed:#?}");
        assert!(
            printed.stderr.contains("update.password_file"),
            "{printed:#?}"
        );
        assert!(!printed.stderr.contains(KEY), "{printed:#?}");
    }
    Ok(())
}
