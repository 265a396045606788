//! Access to the control socket: root and the group `sixxs` only.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use sixxs_tests::lab::topology::Flavour;
use sixxs_tests::program::{Daemon, Hook, finish};
use sixxs_tests::wait;

use crate::fixture::Fixture;

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn others_are_refused() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let socket = fixture.lab.paths().run().join("control.sock");
    let metadata = std::fs::metadata(&socket)?;
    assert!(metadata.file_type().is_socket());
    assert_eq!(
        metadata.permissions().mode() & 0o007,
        0,
        "others may not connect"
    );

    // A copy that all users may execute, independent of the build directory.
    let copy = fixture.lab.paths().base().join("sixxs");
    fixture.program.copy_to(&copy)?;
    for command in ["status", "plan", "stop", "down"] {
        let mut nobody = Command::new("setpriv");
        nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        nobody.arg(&copy).arg(command);
        fixture.program.apply_environment(&mut nobody);
        let printed = finish(&mut nobody)?;
        assert!(![0, 3].contains(&printed.code), "{command}: {printed:#?}");
        assert!(
            !printed.stdout.contains("2001:db8"),
            "{command}: {printed:#?}"
        );
        assert!(!printed.stderr.is_empty(), "{command} says why");
    }
    assert!(fixture.program.status()?.healthy);
    assert_eq!(daemon.stop()?, 0);
    assert!(!socket.exists(), "the socket goes with the daemon");
    Ok(())
}

/// Members of the group may read, but not change anything. Any group works for this test.
#[test]
fn the_group_may_look() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let run = fixture.program.command(&["--group", "daemon", "run"]);
    let daemon = fixture.program.start_as(run)?;
    let copy = fixture.lab.paths().base().join("sixxs");
    fixture.program.copy_to(&copy)?;
    let as_member = |command: &[&str]| {
        let mut member = Command::new("setpriv");
        member.args(["--reuid=65534", "--regid=daemon", "--clear-groups"]);
        member.arg(&copy).args(command);
        fixture.program.apply_environment(&mut member);
        finish(&mut member)
    };
    for command in ["status", "counters", "alerts"] {
        let printed = as_member(&[command])?;
        assert_eq!(printed.code, 0, "{command}: {printed:#?}");
    }
    for command in ["stop", "start", "restart"] {
        let printed = as_member(&[command])?;
        assert_eq!(printed.code, 1, "{command}: {printed:#?}");
        assert!(printed.stderr.contains("only root"), "{printed:#?}");
    }
    assert!(fixture.program.status()?.healthy);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// A second daemon in the same directories would undo the work of the first.
#[test]
fn one_daemon_at_a_time() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    let second = fixture.program.run(&["run"])?;
    assert_eq!(second.code, 1, "{second:#?}");
    assert!(second.stderr.contains("another sixxs"), "{second:#?}");
    assert!(fixture.program.status()?.healthy);
    assert_eq!(daemon.stop()?, 0);
    // After a kill the socket still exists, but does not prevent the next start.
    fixture.start()?.kill()?;
    let daemon = fixture.start()?;
    assert!(fixture.program.status()?.healthy);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Two daemons in one network namespace would undo each other's work, even in different directories.
#[test]
fn a_second_daemon_is_refused() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let rules = fixture.own_rules()?;
    let elsewhere = fixture.lab.paths().base().join("elsewhere");
    let second = |name: &str| {
        let directory = elsewhere.join(name);
        let directory = directory.to_str().context("a path")?;
        fixture
            .program
            .run(&["--run-dir", directory, "--state-dir", directory, "run"])
    };
    let refused = second("first")?;
    assert_eq!(refused.code, 1, "{refused:#?}");
    let holder = format!(
        "another sixxs (process {}) runs in this network",
        daemon.pid()?
    );
    assert!(refused.stderr.contains(&holder), "{refused:#?}");
    assert_eq!(fixture.own_rules()?, rules);
    assert_eq!(fixture.program.status()?.corrections, 0);

    // After a kill, its lock does not prevent the next start.
    daemon.kill()?;
    let daemon = fixture.start()?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The connections of a group member, which may only read, in a process of its own.
struct Member(Child);

impl Member {
    /// Holds this number of connections, and sends `says` on each.
    fn holds(fixture: &Fixture, connections: usize, says: &str) -> Result<Self> {
        let socket = socket(fixture);
        let script = "use Socket; $SIG{PIPE} = 'IGNORE'; my ($path, $count, $says) = @ARGV; my @held;\
                      for (1 .. $count) {\
                          socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die \"socket: $!\";\
                          connect($s, sockaddr_un($path)) or die \"connect: $!\";\
                          syswrite($s, $says); push @held, $s;\
                      }\
                      $| = 1; print \"held\\n\"; sleep 600";
        let mut member = Command::new("setpriv");
        member.args(["--reuid=65534", "--regid=daemon", "--clear-groups"]);
        member.args(["perl", "-e", script]).arg(socket);
        member.arg(connections.to_string()).arg(says);
        let mut member = member.stdout(Stdio::piped()).spawn().context("perl")?;
        let mut line = String::new();
        let held = member.stdout.take().context("it is piped")?;
        BufReader::new(held).read_line(&mut line)?;
        assert_eq!(line, "held\n");
        Ok(Self(member))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // The process may have ended by itself.
        let _ended = self.0.kill();
        let _waited = self.0.wait();
    }
}

fn socket(fixture: &Fixture) -> PathBuf {
    fixture.lab.paths().run().join("control.sock")
}

fn descriptors(daemon: &Daemon) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()?))?.count())
}

/// The number of connections is limited. Idle connections do not block root or members of the group. Endless
/// requests may block other members of the group, but not root.
#[test]
fn idle_connections_shut_nobody_out() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let mut run = fixture.host().command("prlimit");
    run.arg("--nofile=1024").arg(fixture.program.binary());
    run.args(["--group", "daemon", "run"]);
    fixture.program.apply_environment(&mut run);
    let daemon = fixture.program.start_as(run)?;
    fixture.wait_until_up()?;
    let before = descriptors(&daemon)?;

    let idle = Member::holds(&fixture, 1000, "")?;
    assert!(fixture.program.status()?.healthy);
    let now = descriptors(&daemon)?;
    assert!(now <= before + 64, "{before} descriptors, then {now}");
    let as_member = || {
        let mut member = Command::new("setpriv");
        member.args(["--reuid=65534", "--regid=daemon", "--clear-groups"]);
        let copy = fixture.lab.paths().base().join("sixxs");
        fixture.program.copy_to(&copy)?;
        member.arg(&copy).args(["status", "--json"]);
        fixture.program.apply_environment(&mut member);
        finish(&mut member)
    };
    let printed = as_member()?;
    assert_eq!(printed.code, 0, "{printed:#?}");
    drop(idle);

    // Connections that follow alerts stay open. Other members of the group then get an error, but root is
    // still served.
    let follow = "GET /v1/alerts?follow=true HTTP/1.1\r\nHost: x\r\n\r\n";
    let following = Member::holds(&fixture, 100, follow)?;
    let printed = wait::until("members are refused", LIMIT, as_member, |p| p.code != 0)?;
    assert!(printed.stderr.contains("try again later"), "{printed:#?}");
    assert!(fixture.program.status()?.healthy);
    let now = descriptors(&daemon)?;
    assert!(now <= before + 64, "{before} descriptors, then {now}");
    drop(following);
    wait::until("members get answers", LIMIT, as_member, |p| p.code == 0)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The daemon closes the connection if a request, including its body, is not complete in time.
#[test]
fn requests_have_their_time() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    for says in [
        "",
        "GET /v1/status HTTP/1.1\r\nHost: x\r\n",
        "POST /v1/tunnels/stop HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: 100\r\n\r\n{",
    ] {
        let mut stream = UnixStream::connect(socket(&fixture))?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(says.as_bytes())?;
        let began = Instant::now();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("it is ended")?;
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(3), "{says:?}: after {took:?}");
        assert!(!answer.starts_with("HTTP/1.1 200"), "{says:?}: {answer}");
    }
    let status = fixture.program.status()?;
    assert!(status.healthy, "nothing is stopped: {status:#?}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The daemon frees the memory of many connections.
#[test]
fn a_storm_leaves_no_memory_behind() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    // One round first, to exclude memory that is allocated only once.
    storm(&fixture, 50)?;
    let before = daemon.resident_kib()?;
    for _ in 0..5 {
        storm(&fixture, 400)?;
    }
    let most = before + 4 * 1024;
    wait::until(
        "memory is given back",
        LIMIT,
        || daemon.resident_kib(),
        |now| *now <= most,
    )
    .with_context(|| format!("{before} KiB before"))?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// Opens this number of connections at once, each with a complete request and a part of the next one, and
/// then closes all.
fn storm(fixture: &Fixture, connections: usize) -> Result<()> {
    let rest = "x".repeat(60_000);
    let mut open = Vec::new();
    for _ in 0..connections {
        let mut stream = UnixStream::connect(socket(fixture))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let requests = format!(
            "GET /v1/metrics HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/status HTTP/1.1\r\nX-Rest: {rest}"
        );
        // Above the limit the daemon closes the oldest connections.
        let _ended = stream.write_all(requests.as_bytes());
        open.push(stream);
    }
    // The daemon has read all these requests before it answers this one.
    fixture.program.status_until("it answers", |_| true)?;
    Ok(())
}

/// Each command gives up after a limit if the daemon hangs, and reports it.
#[test]
fn a_daemon_that_hangs_is_given_up() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    daemon.signal(Signal::SIGSTOP)?;
    let ask = |command: &'static [&'static str]| -> Result<()> {
        let began = Instant::now();
        let printed = fixture.program.run(command)?;
        let took = began.elapsed();
        ensure!(
            took < Duration::from_secs(9) * wait::patience(),
            "{command:?}: {took:?}"
        );
        let says = "the daemon did not answer within 5 s; is it stopped?";
        let can_run = printed.code == 1 && printed.stderr.contains(says);
        ensure!(
            can_run && printed.stdout.is_empty(),
            "{command:?}: {printed:#?}"
        );
        Ok(())
    };
    let commands: [&[&str]; 8] = [
        &["alerts"],
        &["alerts", "--json"],
        &["alerts", "--follow"],
        &["reload"],
        &["confirm"],
        &["stop"],
        &["restart", "sixxs0"],
        &["down"],
    ];
    let ask = &ask;
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let asked = commands.map(|command| scope.spawn(move || ask(command)));
        asked.map(std::thread::ScopedJoinHandle::join).into()
    });
    daemon.signal(Signal::SIGCONT)?;
    for outcome in outcomes {
        outcome.ok().context("no panic")??;
    }
    fixture.wait_until_up().with_context(|| daemon.log())?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
