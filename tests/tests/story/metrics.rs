//! Metrics on the control socket, and by TCP where configured. They equal the numbers of `sixxs status`
//! and are read on request.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::netns::Namespace;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, UPLINK};
use sixxs_tests::probe::leak::{self, Cause};
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::fixture::Fixture;

const AT: &str = "127.0.0.1:9346";
const LIMIT: Duration = Duration::from_secs(10);

fn connect(host: &Namespace) -> Result<TcpStream> {
    let address: SocketAddr = AT.parse()?;
    let stream = host.run(|| Ok(TcpStream::connect_timeout(&address, LIMIT)?))?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

pub(crate) fn ask(
    stream: impl std::io::Read + std::io::Write,
    request: &str,
) -> Result<(String, String)> {
    ask_for(stream, request, AT)
}

fn ask_for(
    mut stream: impl std::io::Read + std::io::Write,
    request: &str,
    host: &str,
) -> Result<(String, String)> {
    write!(
        stream,
        "{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
    Ok((head.to_owned(), body.to_owned()))
}

fn page(host: &Namespace) -> Result<String> {
    let (head, body) = ask(connect(host)?, "GET /metrics")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    ensure!(
        head.contains("application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    ensure!(body.ends_with("# EOF\n"), "{body}");
    Ok(body)
}

fn value(page: &str, sample: &str) -> Result<f64> {
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    let text = line.with_context(|| format!("no {sample} in {page}"))?;
    text.parse().with_context(|| format!("{sample} {text}"))
}

#[test]
fn everything_is_exported() -> Result<()> {
    let extra = format!("metrics = \"{AT}\"\n");
    let fixture = Fixture::with_spec(Spec::new(Flavour::Tun), Hook::Auto, &extra)?;
    let daemon = fixture.start()?;
    let host = fixture.host();
    let [first, _] = fixture.lab.tunnels();
    let pings = fixture.ensure_outside_answered(first)?;
    let socket = leak::udp_socket(host, first.plan.address, Cause::Device(UPLINK))?;
    leak::send(&socket, OUTSIDE, 5, 100)?;
    fixture.delete_own_rules()?;
    wait::until(
        "the rules are back",
        LIMIT,
        || fixture.program.status(),
        |status| status.healthy && status.corrections > 0,
    )?;

    let text = page(host)?;
    let status = fixture.program.status()?;
    let tunnel = status.tunnel(first.plan.interface);
    let pings = f64::from(u32::try_from(pings)?);
    let corrections = f64::from(u32::try_from(status.corrections)?);
    for (sample, expected) in [
        ("sixxs_healthy", 1.0),
        ("sixxs_problems", 0.0),
        ("sixxs_corrections_total", corrections),
        ("sixxs_lost_events_total", 0.0),
        (
            "sixxs_echo_requests_total{interface=\"sixxs0\",direction=\"in\"}",
            pings,
        ),
        (
            "sixxs_echo_replies_total{interface=\"sixxs0\",direction=\"out\"}",
            pings,
        ),
        ("sixxs_tunnel_requests_total{tunnel=\"sixxs0\"}", pings),
        (
            "sixxs_tunnel_requests_answered_total{tunnel=\"sixxs0\"}",
            pings,
        ),
        ("sixxs_tunnel_requests_astray_total{tunnel=\"sixxs0\"}", 0.0),
        ("sixxs_tunnel_requests_total{tunnel=\"sixxs1\"}", 0.0),
        (
            "sixxs_tunnel_leaks_total{tunnel=\"sixxs0\",treatment=\"redirected\"}",
            5.0,
        ),
        (
            "sixxs_tunnel_leaks_total{tunnel=\"sixxs1\",treatment=\"redirected\"}",
            0.0,
        ),
        ("sixxs_uplink_leaks_total{interface=\"net0\"}", 5.0),
        ("sixxs_tunnel_state{tunnel=\"sixxs0\",state=\"up\"}", 1.0),
        (
            "sixxs_tunnel_state{tunnel=\"sixxs0\",state=\"failed\"}",
            0.0,
        ),
        (
            "sixxs_tunnel_health{tunnel=\"sixxs1\",health=\"healthy\"}",
            1.0,
        ),
        (
            "sixxs_tunnel_health{tunnel=\"sixxs1\",health=\"failing\"}",
            0.0,
        ),
        ("sixxs_tunnel_routing_in_place{tunnel=\"sixxs1\"}", 1.0),
        ("sixxs_program_attached{interface=\"net0\"}", 1.0),
    ] {
        assert_eq!(value(&text, sample)?, expected, "{sample}");
    }
    // If two replies arrive within one tick of the kernel's clock, only one is timed.
    let timed = value(
        &text,
        "sixxs_tunnel_reply_duration_seconds_count{tunnel=\"sixxs0\"}",
    )?;
    assert!(timed >= 1.0 && timed <= pings, "{timed} of {pings}");
    let all = "sixxs_tunnel_reply_duration_seconds_bucket{le=\"+Inf\",tunnel=\"sixxs0\"}";
    assert_eq!(value(&text, all)?, timed);
    assert!(
        value(&text, "sixxs_repair_duration_seconds_count")? >= 1.0,
        "{text}"
    );
    let last = value(
        &text,
        "sixxs_echo_last_request_timestamp_seconds{interface=\"sixxs0\"}",
    )?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    assert!((0.0..60.0).contains(&(now.as_secs_f64() - last)), "{last}");
    assert!(tunnel.bytes.into > 0);
    let into = "sixxs_interface_bytes_total{interface=\"sixxs0\",direction=\"in\"}";
    assert!(value(&text, into)? > 1e6, "{text}");

    // The control socket serves the same metrics to users who may read.
    let control = UnixStream::connect(fixture.lab.paths().run().join("control.sock"))?;
    let (head, body) = ask(control, "GET /v1/metrics")?;
    assert!(head.contains("application/openmetrics-text"), "{head}");
    let families = |text: &str| text.lines().filter(|l| l.starts_with('#')).count();
    assert_eq!(families(&body), families(&text));

    prometheus_takes(&text)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// The real Prometheus reads the metrics. Rules and dashboard query only existing metrics.
fn prometheus_takes(page: &str) -> Result<()> {
    let checks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/check");
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("monitoring");
    std::fs::create_dir_all(&cache)?;
    let file = cache.join("metrics.txt");
    std::fs::write(&file, page)?;
    let mut check = Command::new("python3");
    check.arg(checks).arg(&cache).arg("--metrics").arg(&file);
    if Command::new("npm").arg("--version").output().is_err() {
        check.arg("--without-grafana-types");
    }
    // The check needs no limit: each part of it has its own.
    let checked = check.output().context("run python3")?;
    let [printed, said] = [&checked.stdout, &checked.stderr].map(|o| String::from_utf8_lossy(o));
    ensure!(checked.status.success(), "{printed}{said}");
    println!("{printed}");
    Ok(())
}

#[test]
fn little_is_served_and_idle_clients_do_not_block() -> Result<()> {
    let extra = format!("metrics = \"{AT}\"\n");
    let fixture = Fixture::with_spec(Spec::new(Flavour::Tun), Hook::Auto, &extra)?;
    let daemon = fixture.start()?;
    let host = fixture.host();
    for (request, expected) in [
        ("GET /", "200"),
        ("GET /v1/status", "404"),
        ("POST /metrics", "405"),
        ("HEAD /metrics", "200"),
    ] {
        let (head, body) = ask(connect(host)?, request)?;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {expected}")),
            "{request}: {head}"
        );
        assert!(!body.contains("sixxs0"), "{request}: {body}");
    }
    // Many idle connections, and one with a request that is too long.
    let idle: Vec<_> = (0..60).map(|_| connect(host)).collect::<Result<_>>()?;
    let mut boaster = connect(host)?;
    // The daemon may close it in the middle.
    let _cut = boaster.write_all(&vec![b'x'; 4 << 20]);
    assert!(fixture.program.status()?.healthy);
    let began = Instant::now();
    page(host)?;
    let took = began.elapsed();
    assert!(
        took < Duration::from_secs(2) * wait::patience(),
        "the page came after {took:?}"
    );
    drop(idle);

    // The configuration disables the listener, moves it to an unusable address, and restores it.
    fixture.lab.write_config(&fixture.lab.config(""))?;
    fixture.program.run_ok(&["reload"])?;
    assert!(connect(host).is_err());
    fixture
        .lab
        .write_config(&fixture.lab.config("metrics = \"192.0.2.77:9346\"\n"))?;
    fixture.program.run_ok(&["reload"])?;
    let status = fixture.program.status()?;
    let told = |problem: &String| problem.contains("serve metrics at 192.0.2.77:9346");
    assert!(
        status.healthy && status.problems.iter().any(told),
        "{status:#?}"
    );
    fixture.lab.write_config(&fixture.lab.config(&extra))?;
    fixture.program.run_ok(&["reload"])?;
    assert!(fixture.program.status()?.problems.is_empty());
    page(host)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

/// DNS rebinding: a foreign web page cannot make a browser read the metrics by a name that resolves to this
/// host.
#[test]
fn foreign_names_are_refused() -> Result<()> {
    let config = |names: &str| format!("metrics = \"{AT}\"\n{names}");
    let fixture = Fixture::with_spec(Spec::new(Flavour::Tun), Hook::Auto, &config(""))?;
    let daemon = fixture.start()?;
    let host = fixture.host();
    let status = |name: &str| -> Result<String> {
        let (head, body) = ask_for(connect(host)?, "GET /metrics", name)?;
        let can_run = body.contains("sixxs_healthy");
        ensure!(
            can_run == head.starts_with("HTTP/1.1 200"),
            "{head}\n{body}"
        );
        Ok(head.chars().skip(9).take(3).collect())
    };
    let own = nix::sys::utsname::uname()?;
    let own = own.nodename().to_str().context("a host name is text")?;
    for (name, expected) in [
        (AT, "200"),
        ("[::1]:9346", "200"),
        ("localhost:9346", "200"),
        (own, "200"),
        ("rebound.example:9346", "403"),
        ("localhost.rebound.example", "403"),
        ("web1.example.net:9346", "403"),
    ] {
        assert_eq!(status(name)?, expected, "{name}");
    }
    let names = config("metrics_hosts = [\"web1.example.net\"]\n");
    fixture.lab.write_config(&fixture.lab.config(&names))?;
    fixture.program.run_ok(&["reload"])?;
    assert_eq!(status("web1.example.net:9346")?, "200");
    assert_eq!(status("rebound.example")?, "403");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
