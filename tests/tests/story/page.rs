//! The page over TCP: only with the option, only for users of this host and not for foreign web pages; it sends changes to a
//! limited number of clients, and shows the history of the files. `cargo xtask test page` shows it in a browser.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sixxs_core::health::Level;
use sixxs_core::history::{Cause, Minute, Record, Share, State, ring};
use sixxs_tests::lab::Spec;
use sixxs_tests::lab::netns::Namespace;
use sixxs_tests::lab::topology::{Flavour, OUTSIDE, UPLINK};
use sixxs_tests::probe::leak::{self, Cause as LeakCause};
use sixxs_tests::program::Hook;
use sixxs_tests::wait;

use crate::fixture::Fixture;

const PAGE: &str = "127.0.0.1:9347";
const OTHER: &str = "127.0.0.1:9348";
const LIMIT: Duration = Duration::from_secs(20);

/// The maximum number of clients that follow events.
const CLIENTS: usize = 16;

fn fixture(extra: &str) -> Result<Fixture> {
    Fixture::with_spec(Spec::new(Flavour::Veth), Hook::Auto, extra)
}

fn at(address: &str) -> String {
    format!("page = \"{address}\"\n")
}

fn connect(host: &Namespace, address: &str) -> Result<TcpStream> {
    let address: SocketAddr = address.parse()?;
    let stream = host.run(|| Ok(TcpStream::connect_timeout(&address, LIMIT)?))?;
    stream.set_read_timeout(Some(LIMIT * wait::patience()))?;
    Ok(stream)
}

/// Sends a request with these fields, and returns the head and the body of the answer.
fn ask(host: &Namespace, request: &str, fields: &[(&str, &str)]) -> Result<(String, String)> {
    let mut stream = connect(host, PAGE)?;
    let fields = fields
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"));
    let fields: String = fields.collect();
    write!(
        stream,
        "{request} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
    Ok((head.to_lowercase(), body.to_owned()))
}

fn get(host: &Namespace, path: &str) -> Result<(String, String)> {
    ask(host, &format!("GET {path}"), &[("Host", PAGE)])
}

/// A client that follows events.
struct Events {
    lines: BufReader<TcpStream>,
}

impl Events {
    fn open(host: &Namespace, address: &str) -> Result<Self> {
        let mut stream = connect(host, address)?;
        write!(stream, "GET /events HTTP/1.1\r\nHost: {address}\r\n\r\n")?;
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        ensure!(line.starts_with("HTTP/1.1 200"), "{line}");
        Ok(Self { lines })
    }

    /// The next event of a kind.
    fn next(&mut self, kind: &str) -> Result<Value> {
        let mut is_wanted = false;
        loop {
            let mut line = String::new();
            ensure!(self.lines.read_line(&mut line)? > 0, "the stream has ended");
            let line = line.trim_end();
            if let Some(name) = line.strip_prefix("event: ") {
                is_wanted = name == kind;
            } else if let Some(data) = line.strip_prefix("data: ").filter(|_| is_wanted) {
                return Ok(serde_json::from_str(data)?);
            }
        }
    }

    /// Waits for an event with this property.
    fn until(&mut self, kind: &str, good: impl Fn(&Value) -> bool) -> Result<Value> {
        let began = Instant::now();
        loop {
            let event = self.next(kind)?;
            if good(&event) {
                return Ok(event);
            }
            ensure!(
                began.elapsed() < LIMIT * wait::patience(),
                "last seen: {event:#}"
            );
        }
    }

    /// Everything until the end of the stream.
    fn rest(mut self) -> Result<String> {
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest)?;
        Ok(rest)
    }
}

/// The sockets that listen in the host.
fn listening(host: &Namespace) -> Result<Vec<String>> {
    let read = |file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
    let text = host.run(|| Ok(read("tcp")? + &read("tcp6")?))?;
    // The local address is the second field, and 0A is LISTEN (proc_net_tcp).
    let words = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listening = words.filter(|words| words.get(3) == Some(&"0A"));
    let mut found: Vec<_> = listening.map(|words| words[1].to_owned()).collect();
    found.sort();
    Ok(found)
}

#[test]
fn nothing_listens_without_the_option() -> Result<()> {
    let fixture = fixture("")?;
    let before = listening(fixture.host())?;
    let daemon = fixture.start()?;
    assert_eq!(listening(fixture.host())?, before);
    fixture.lab.write_config(&fixture.lab.config(&at(PAGE)))?;
    fixture.program.run_ok(&["reload"])?;
    assert_eq!(listening(fixture.host())?.len(), before.len() + 1);
    get(fixture.host(), "/")?;
    fixture.lab.write_config(&fixture.lab.config(""))?;
    fixture.program.run_ok(&["reload"])?;
    assert_eq!(listening(fixture.host())?, before);
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn only_own_requests_are_answered() -> Result<()> {
    let fixture = fixture(&at(PAGE))?;
    let daemon = fixture.start()?;
    let host = fixture.host();
    let foreign = [("Host", PAGE), ("Origin", "http://evil.example")];
    let own = [("Host", PAGE), ("Origin", "http://127.0.0.1:9347")];
    let rebound = [("Host", "rebound.example:9347")];
    let site = |value| [("Host", PAGE), ("Sec-Fetch-Site", value)];
    for path in [
        "/",
        "/page.js",
        "/events",
        "/history?tunnel=sixxs0",
        "/metrics",
    ] {
        let get = format!("GET {path}");
        for (request, fields, expected) in [
            (get.as_str(), &rebound[..], "403"),
            (&get, &foreign, "403"),
            (&get, &site("cross-site"), "403"),
            (&get, &site("same-site"), "403"),
            (&format!("POST {path}"), &own, "405"),
            (&format!("OPTIONS {path}"), &own, "405"),
        ] {
            let (head, body) = ask(host, request, fields)?;
            assert!(
                head.starts_with(&format!("http/1.1 {expected}")),
                "{request} {fields:?}: {head}"
            );
            assert!(
                body.len() < 200 && !head.contains("access-control"),
                "{head}\n{body}"
            );
        }
    }
    for (request, fields, expected) in [
        ("GET /", &own[..], "200"),
        ("GET /", &site("none"), "200"),
        ("GET /page.css", &site("same-origin"), "200"),
        ("HEAD /events", &own, "200"),
        ("GET /metrics", &[("Host", PAGE)], "200"),
        ("GET /v1/status", &own, "404"),
        ("GET /../page.js", &own, "404"),
        ("GET /history", &own, "400"),
        ("GET /history?tunnel=..%2Fsixxs0", &own, "404"),
    ] {
        let (head, _) = ask(host, request, fields)?;
        assert!(
            head.starts_with(&format!("http/1.1 {expected}")),
            "{request}: {head}"
        );
    }
    let (head, page) = get(host, "/")?;
    for field in [
        "content-security-policy: default-src 'none'; script-src 'self';",
        "frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
        "cross-origin-resource-policy: same-origin",
        "content-type: text/html; charset=utf-8",
    ] {
        assert!(head.contains(field), "{field}: {head}");
    }
    assert!(
        !head.contains("unsafe") && page.contains("sixxs status"),
        "{head}"
    );
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn changes_are_sent() -> Result<()> {
    let fixture = fixture(&at(PAGE))?;
    let daemon = fixture.start()?;
    fixture.wait_until_up()?;
    let [first, _] = fixture.lab.tunnels();
    let mut events = Events::open(fixture.host(), PAGE)?;
    let health = |state: &Value| state["tunnels"][0]["health"].clone();
    let state = events.until("state", |state| health(state) == "healthy")?;
    assert_eq!(
        state["tunnels"][0]["sources"]["first"],
        json!(["2001:db8:a::2"])
    );
    assert_eq!(state["uplinks"][0]["name"], UPLINK);

    fixture.ensure_outside_answered(first)?;
    let rates = events.until("rates", |rates| {
        let tunnel = &rates["tunnels"][0];
        tunnel["in"].as_u64() > Some(1000) && tunnel["answered"] == 10_000
    })?;
    assert!(rates["tunnels"][0]["pings"].as_u64() >= Some(20), "{rates}");

    let socket = leak::udp_socket(
        fixture.host(),
        first.plan.address,
        LeakCause::Device(UPLINK),
    )?;
    leak::send(&socket, OUTSIDE, 5, 100)?;
    let state = events.until("state", |state| state["incidents"][0]["kind"] == "leak")?;
    let incident = &state["incidents"][0];
    let culprit = incident["culprit"].as_str().unwrap_or_default();
    assert!(culprit.contains("socket bound to net0"), "{incident}");

    first.pop().sh("ip link set host down")?;
    let state = events.until("state", |state| health(state) == "failing")?;
    let reason = &state["tunnels"][0]["reasons"][0];
    assert_eq!(
        reason["cure"], "look at the far end of the link",
        "{reason}"
    );
    first.pop().sh("ip link set host up")?;
    events.until("state", |state| health(state) == "healthy")?;
    // The end of the daemon is the end of the stream, and not of the connection alone.
    assert_eq!(daemon.stop()?, 0);
    let rest = events.rest()?;
    assert!(rest.ends_with("\r\n0\r\n\r\n"), "{rest:?}");
    Ok(())
}

#[test]
fn clients_are_limited_and_slow_ones_cost_nothing() -> Result<()> {
    let fixture = fixture(&at(PAGE))?;
    let daemon = fixture.start()?;
    let host = fixture.host();
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| Events::open(host, PAGE))
        .collect::<Result<_>>()?;
    clients[0].next("state")?;
    let (head, body) = get(host, "/events")?;
    assert!(
        head.starts_with("http/1.1 503") && head.contains("retry-after"),
        "{head}"
    );
    assert!(body.contains("too many pages"), "{body}");
    let (head, _) = ask(host, "HEAD /events", &[("Host", PAGE)])?;
    assert!(head.starts_with("http/1.1 503"), "{head}");

    // Other clients, of which many are idle, neither displace them nor wait for them.
    let idle: Vec<_> = (0..60)
        .map(|_| connect(host, PAGE))
        .collect::<Result<_>>()?;
    let (head, _) = get(host, "/")?;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    drop(idle);

    // All but the first take nothing, while the state changes again and again.
    let before = daemon.anonymous_kib()?;
    let [first, _] = fixture.lab.tunnels();
    for verb in ["down", "up", "down", "up"] {
        first.pop().sh(&format!("ip link set host {verb}"))?;
        let wanted = if verb == "up" { "healthy" } else { "failing" };
        clients[0].until("state", |state| state["tunnels"][0]["health"] == wanted)?;
    }
    let grown = daemon.anonymous_kib()?.saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB more");

    // The place of one that leaves is free.
    clients.pop();
    let open = || Ok(Events::open(host, PAGE).is_ok());
    wait::until("a place is free", LIMIT, open, |is_open| *is_open)?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn the_history_is_that_of_the_files() -> Result<()> {
    let fixture = fixture(&at(PAGE))?;
    let directory = fixture.lab.paths().state().join("history");
    std::fs::create_dir_all(&directory)?;
    let file = File::create(directory.join("sixxs0.ring"))?;
    file.write_all_at(&ring::HEADER, 0)?;
    let now = Minute::of_unix(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
    for ago in 10..1000 {
        let is_outage = (100..130).contains(&ago);
        let record = Record {
            state: State::Up,
            level: if is_outage {
                Level::Failing
            } else {
                Level::Healthy
            },
            failing_seconds: if is_outage { 60 } else { 0 },
            cause: is_outage.then_some(Cause::NoCarrier),
            outside: Share::of(1, 2),
            inside: None,
            median: None,
            leaks: 0,
            corrections: 0,
        };
        let minute = now.minus(ago);
        file.write_all_at(&record.to_bytes(minute), ring::offset(minute))?;
    }
    let daemon = fixture.start()?;
    let (head, body) = get(fixture.host(), "/history?tunnel=sixxs0")?;
    assert!(head.contains("content-type: application/json"), "{head}");
    let history: Value = serde_json::from_str(&body)?;
    let states = history["day"]["states"].as_array().context("states")?;
    let of = |word: &str| -> u64 {
        let runs = states.iter().filter(|run| run[1] == word);
        runs.filter_map(|run| run[0].as_u64()).sum()
    };
    // The daemon may have recorded a minute by now.
    assert_eq!(of("failing"), 30, "{states:?}");
    assert!((960..963).contains(&of("healthy")), "{states:?}");
    assert_eq!(
        states.iter().filter_map(|run| run[0].as_u64()).sum::<u64>(),
        1440
    );
    let answered = &history["day"]["answered"];
    assert!(
        answered
            .as_array()
            .is_some_and(|all| all.contains(&json!(5000))),
        "{answered}"
    );
    assert_eq!(history["outages"][0]["reason"], "no carrier");
    assert_eq!(history["outages"][0]["failing_seconds"], 1800);

    // The same as the command shows, for the days of both.
    let (_, shown) = fixture
        .program
        .json(&["history", "--since", "60d", "sixxs0"])?;
    assert_eq!(shown[0]["tunnels"][0]["outages"], history["outages"]);
    let (head, _) = get(fixture.host(), "/history?tunnel=sixxs9")?;
    assert!(head.starts_with("http/1.1 404"), "{head}");
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}

#[test]
fn a_reload_moves_it() -> Result<()> {
    let fixture = fixture(&at(PAGE))?;
    let daemon = fixture.start()?;
    let host = fixture.host();
    let reload = |extra: &str| -> Result<()> {
        fixture.lab.write_config(&fixture.lab.config(extra))?;
        fixture.program.run_ok(&["reload"])?;
        Ok(())
    };
    let mut events = Events::open(host, PAGE)?;
    events.next("state")?;
    reload(&at(OTHER))?;
    assert!(events.rest()?.ends_with("\r\n0\r\n\r\n"));
    assert!(connect(host, PAGE).is_err());
    Events::open(host, OTHER)?.next("state")?;

    // Two listeners, then one for both.
    let before = listening(host)?.len();
    reload(&format!("{}metrics = \"{PAGE}\"\n", at(OTHER)))?;
    assert_eq!(listening(host)?.len(), before + 1);
    let mut kept = Events::open(host, PAGE)?;
    kept.next("state")?;
    reload(&format!("{}metrics = \"{PAGE}\"\n", at(PAGE)))?;
    assert_eq!(listening(host)?.len(), before);
    // The server of an address that stays is the same.
    kept.next("rates")?;
    let (head, _) = get(host, "/metrics")?;
    assert!(head.starts_with("http/1.1 200"), "{head}");

    // One that cannot be served is a problem, and the other one works.
    reload(&format!("{}metrics = \"{PAGE}\"\n", at("192.0.2.77:9347")))?;
    let problems = fixture.program.status()?.problems;
    let is_it = |problem: &String| problem.contains("serve the page at 192.0.2.77:9347");
    assert!(problems.iter().any(is_it), "{problems:?}");
    get(host, "/")?;
    assert_eq!(daemon.stop()?, 0);
    Ok(())
}
