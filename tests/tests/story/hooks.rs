//! Alerts go to a command and to a web server, and neither delays the daemon.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, UPLINK};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::fixture::Fixture;

const TOLD: Duration = Duration::from_secs(15);

fn leaks(lines: &[Value]) -> usize {
    lines.iter().filter(|alert| alert["kind"] == "leak").count()
}

/// The path of the webhook is a secret: the daemon refuses a configuration file that others can read.
fn configure(fixture: &Fixture, extra: &str) -> Result<()> {
    let file = fixture.lab.write_config(&fixture.lab.config(extra))?;
    let printed = fixture.program.run(&["plan"])?;
    if extra.contains("webhook") {
        assert!(
            printed.code == 2 && printed.stderr.contains("it contains secrets"),
            "{printed:#?}"
        );
    }
    Ok(std::fs::set_permissions(
        file,
        Permissions::from_mode(0o600),
    )?)
}

fn leak(fixture: &Fixture) -> Result<()> {
    let [tunnel, _] = fixture.lab.tunnels();
    let socket = leak::udp_socket(fixture.host(), tunnel.plan.address, Cause::Device(UPLINK))?;
    Ok(leak::send(&socket, OUTSIDE, 3, 100)?)
}

/// Answers one request after the other. The first gets an error.
fn serve(listener: &TcpListener, posted: &mpsc::Sender<Value>) -> Result<()> {
    for (number, stream) in listener.incoming().enumerate() {
        let mut stream = BufReader::new(stream?);
        let mut length = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        let status = if number == 0 { "503 Later" } else { "200 OK" };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        stream.get_mut().write_all(answer.as_bytes())?;
        if number > 0 && posted.send(serde_json::from_slice(&body)?).is_err() {
            break;
        }
    }
    Ok(())
}

#[test]
fn command_and_webhook_receive_all_alerts() -> Result<()> {
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    let file = fixture.lab.paths().base().join("told");
    let at: SocketAddr = "127.0.0.1:8099".parse()?;
    let extra = format!(
        "alert.command = [\"sh\", \"-c\", \"cat >> {}\"]\nalert.webhook = \"http://{at}/tell\"\n",
        file.display()
    );
    configure(&fixture, &extra)?;
    let listener = fixture.host().run(|| Ok(TcpListener::bind(at)?))?;
    let (to, posted) = mpsc::channel();
    let server = std::thread::spawn(move || serve(&listener, &to));
    let daemon = fixture.start()?;
    leak(&fixture)?;

    let told = || -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        text.lines()
            .map(|line| Ok(serde_json::from_str(line)?))
            .collect()
    };
    let lines = wait::until("the command is told", TOLD, told, |lines| leaks(lines) > 0)?;
    let (_, alerts) = fixture.program.json(&["alerts"])?;
    assert_eq!(
        lines[..alerts.len().min(lines.len())],
        alerts[..alerts.len().min(lines.len())]
    );

    // The first request failed and is repeated: no alert is missing.
    let mut received: Vec<Value> = Vec::new();
    while leaks(&received) == 0 {
        received.push(
            posted
                .recv_timeout(TOLD)
                .context("the web server is told")?,
        );
    }
    assert_eq!(received[..], alerts[..received.len()]);
    assert_eq!(daemon.stop()?, 0);
    drop(posted);
    // The server thread ends with the next request, or with the test.
    drop(server);
    Ok(())
}

#[test]
fn slow_hooks_do_not_delay_repairs() -> Result<()> {
    let extra = "alert.command = [\"sleep\", \"1000\"]\nalert.webhook = \"http://192.0.2.250/x\"\n";
    let fixture = Fixture::new(Flavour::Tun, Hook::Auto)?;
    configure(&fixture, extra)?;
    let daemon = fixture.start()?;
    for _ in 0..20 {
        leak(&fixture)?;
        fixture.delete_own_rules()?;
        let since = Instant::now();
        wait::until(
            "the rules are back",
            TOLD,
            || fixture.program.status(),
            |status| {
                status.works()
                    && status
                        .tunnels
                        .iter()
                        .all(sixxs_tests::program::status::Tunnel::is_whole)
            },
        )?;
        assert!(
            since.elapsed() < Duration::from_secs(2) * wait::patience(),
            "{:?}",
            since.elapsed()
        );
    }
    let since = Instant::now();
    assert_eq!(daemon.stop()?, 0);
    assert!(
        since.elapsed() < Duration::from_secs(8) * wait::patience(),
        "{:?}",
        since.elapsed()
    );
    Ok(())
}
