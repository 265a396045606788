//! The TIC server: the dialogue in clear text and in TLS, lockouts, faults.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use md5::{Digest as _, Md5};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use sixxs_tests::broker::Kind;
use sixxs_tests::broker::tic::{Certificate, Fault, Outcome, Stage, Tic, Verdict};
use sixxs_tests::lab::native::{PASSWORD, TUNNEL_PASSWORDS, USERNAME};
use sixxs_tests::lab::topology::{TIC_SERVER, TUNNELS};
use sixxs_tests::lab::{Lab, Spec};
use sixxs_tests::wait;

use super::client::LIMIT;

fn lab() -> Result<Lab> {
    Lab::new(Spec::native([Kind::Ayiya, Kind::Heartbeat]))
}

/// A dialogue on a stream.
struct Talk<S: Read + Write>(BufReader<S>);

impl<S: Read + Write> Talk<S> {
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).context("read a line")?;
        ensure!(line.ends_with('\n'), "cut off: {line:?}");
        Ok(line.trim_end().to_owned())
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        let sent = self.0.get_mut().write_all(format!("{line}\n").as_bytes());
        sent.context("send a line")?;
        self.line()
    }

    fn list(&mut self, line: &str) -> Result<Vec<String>> {
        let first = self.ask(line)?;
        ensure!(first.starts_with("201"), "{first}");
        let mut lines = Vec::new();
        loop {
            let line = self.line()?;
            if line.starts_with("202") {
                return Ok(lines);
            }
            lines.push(line);
        }
    }

    fn log_in(&mut self, password: &str) -> Result<String> {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        self.ask(&format!("username {USERNAME}"))?;
        let challenge = self.ask("challenge md5")?;
        let challenge = challenge.strip_prefix("200 ").context("a challenge")?;
        let password = hex(&Md5::digest(password));
        let answer = hex(&Md5::digest(format!("{challenge}{password}")));
        self.ask(&format!("authenticate md5 {answer}"))
    }
}

fn connect(lab: &Lab) -> Result<Talk<TcpStream>> {
    let address = lab.tic()?.address();
    let stream = lab
        .host()
        .run(|| TcpStream::connect_timeout(&address, LIMIT).context("connect to the TIC server"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(Talk(BufReader::new(stream)))
}

fn greeted(lab: &Lab) -> Result<Talk<TcpStream>> {
    let mut talk = connect(lab)?;
    let greeting = talk.line()?;
    ensure!(greeting.starts_with('2'), "{greeting}");
    Ok(talk)
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

fn start_tls(lab: &Lab, mut talk: Talk<TcpStream>) -> Result<Talk<Tls>> {
    let answer = talk.ask("starttls")?;
    ensure!(answer.starts_with('2'), "{answer}");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(lab.paths().tls_ca())?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::IpAddress(std::net::IpAddr::V4(TIC_SERVER).into());
    let mut client = ClientConnection::new(Arc::new(config), name)?;
    let mut stream = talk.0.into_inner();
    while client.is_handshaking() {
        client.complete_io(&mut stream).context("handshake")?;
    }
    Ok(Talk(BufReader::new(StreamOwned::new(client, stream))))
}

fn last(tic: &Tic) -> Result<sixxs_tests::broker::tic::Connect> {
    let seen = || tic.connects().pop().context("no connect");
    let over = |connect: &_| {
        let sixxs_tests::broker::tic::Connect { outcome, .. } = connect;
        *outcome != Outcome::Open
    };
    wait::until("the connection is over", LIMIT, seen, over)
}

#[test]
fn whole_dialogue() -> Result<()> {
    let lab = lab()?;
    let tic = lab.tic()?;
    let mut talk = greeted(&lab)?;
    talk.ask("client TIC/draft-00 hand/1 Linux/6")?;
    let time = talk.ask("get unixtime")?;
    let time: u64 = time.strip_prefix("200 ").context("a time")?.parse()?;
    assert!(time.abs_diff(tic.clock().seconds()) < 5);
    assert!(talk.log_in("wrong")?.starts_with('4'));
    assert!(talk.log_in(PASSWORD)?.starts_with('2'));
    let [first, second] = &TUNNELS;
    assert_eq!(
        talk.list("tunnel list")?,
        [
            format!("T1 {} ayiya pop0", first.address),
            format!("T2 {} heartbeat pop1", second.address)
        ]
    );
    let show = talk.list("tunnel show T2")?;
    for line in [
        "Type: 6in4-heartbeat".to_owned(),
        format!("IPv6 Endpoint: {}", second.address),
        format!("IPv4 POP: {}", second.remote4),
        format!("Password: {}", TUNNEL_PASSWORDS[1]),
        "Tunnel MTU: 1280".to_owned(),
    ] {
        assert!(show.contains(&line), "{line}: {show:#?}");
    }
    assert_eq!(talk.list("pop list")?, ["pop0", "pop1"]);
    assert!(talk.list("pop show pop1")?.len() > 5);
    assert!(talk.ask("QUIT bye")?.starts_with('2'));
    let connect = last(tic)?;
    assert_eq!(connect.outcome, Outcome::Quit);
    assert_eq!(connect.user.as_deref(), Some(USERNAME));
    assert_eq!(
        connect.client.as_deref(),
        Some("TIC/draft-00 hand/1 Linux/6")
    );
    assert!(connect.logged_in && !connect.tls && connect.lines.len() == 13);

    let path = lab.write_aiccu_conf(1, true)?;
    let mode = std::fs::metadata(&path)?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(&path)?;
    assert!(text.contains("\ntunnel_id T2\n") && text.contains("\nrequiretls true\n"));
    Ok(())
}

#[test]
fn in_tls() -> Result<()> {
    let lab = lab()?;
    let tic = lab.tic()?;
    let mut talk = start_tls(&lab, greeted(&lab)?)?;
    assert!(talk.log_in(PASSWORD)?.starts_with('2'));
    assert_eq!(talk.list("tunnel list")?.len(), 2);
    assert!(talk.list("tunnel show T1")?.len() > 10);
    assert!(talk.ask("starttls")?.starts_with('4'));
    drop(talk);
    let connect = last(tic)?;
    assert!(connect.tls && connect.logged_in && connect.outcome == Outcome::Left);
    tic.set_rule(Default::default());
    for certificate in [
        Certificate::OtherName,
        Certificate::Expired,
        Certificate::OtherAuthority,
    ] {
        tic.show(certificate)?;
        let refused = start_tls(&lab, greeted(&lab)?).err();
        let refused = refused.context("the certificate was taken")?;
        assert!(
            format!("{refused:#}").contains("certificate"),
            "{refused:#}"
        );
        assert!(matches!(last(tic)?.outcome, Outcome::Failed(_)));
    }
    tic.show(Certificate::Right)?;
    start_tls(&lab, greeted(&lab)?)?;
    Ok(())
}

#[test]
fn lockouts() -> Result<()> {
    let lab = lab()?;
    let tic = lab.tic()?;
    let refused = |expected: bool| {
        let greeting = connect(&lab)?.line()?;
        ensure!(greeting.starts_with('5') == expected, "{greeting}");
        Ok(greeting)
    };
    for _ in 0..4 {
        refused(false)?;
    }
    assert!(refused(true)?.contains("300 seconds"));
    tic.clock().advance(Duration::from_secs(299));
    refused(true)?;
    tic.clock().advance(Duration::from_secs(2));
    for _ in 0..3 {
        refused(false)?;
    }
    assert!(refused(true)?.contains("blocked for 604800 seconds"));
    tic.clock().advance(Duration::from_secs(6 * 86_400));
    refused(true)?;
    tic.clock().advance(Duration::from_secs(86_400));
    refused(false)?;
    let connects = tic.connects();
    let locked = |connect: &&_| {
        let sixxs_tests::broker::tic::Connect { outcome, .. } = connect;
        matches!(
            outcome,
            Outcome::Locked(Verdict::Refused(_) | Verdict::Blocked(_))
        )
    };
    assert_eq!(
        (connects.len(), connects.iter().filter(locked).count()),
        (12, 4)
    );
    Ok(())
}

#[test]
fn faults() -> Result<()> {
    let lab = lab()?;
    let tic = lab.tic()?;
    let again = || tic.set_rule(Default::default());

    tic.misbehave(Stage::Greeting, Fault::Say("500 go away".to_owned()));
    assert_eq!(connect(&lab)?.line()?, "500 go away");
    assert_eq!(last(tic)?.outcome, Outcome::Misbehaved);

    tic.misbehave(Stage::StartTls, Fault::Say("400 no TLS here".to_owned()));
    let mut talk = greeted(&lab)?;
    assert_eq!(talk.ask("starttls")?, "400 no TLS here");
    assert!(talk.log_in(PASSWORD)?.starts_with('2'));

    tic.misbehave(Stage::TunnelShow, Fault::Flood(3_000_000));
    talk.0.get_mut().write_all(b"tunnel show T1\n")?;
    let mut flood = Vec::new();
    talk.0.read_to_end(&mut flood)?;
    assert!(flood.len() == 3_000_000 && !flood.contains(&b'\n'));

    again();
    tic.misbehave(Stage::UnixTime, Fault::Garbage);
    let mut talk = greeted(&lab)?;
    let mut garbage = Vec::new();
    talk.0.get_mut().write_all(b"get unixtime\n")?;
    talk.0.read_until(b'\n', &mut garbage)?;
    assert!(garbage.len() > 100 && garbage[0] == 0x80);

    tic.misbehave(Stage::UnixTime, Fault::Trickle(Duration::from_millis(10)));
    let begun = Instant::now();
    assert!(talk.ask("get unixtime")?.starts_with("200"));
    assert!(begun.elapsed() > Duration::from_millis(100));

    tic.misbehave(Stage::Client, Fault::Close);
    let closed = talk.ask("client x").map_err(|e| format!("{e:#}"));
    assert!(closed.is_err_and(|e| e.contains("cut off")));

    tic.behave();
    tic.set_time_ahead(-500);
    let mut talk = greeted(&lab)?;
    let time: u64 = talk.ask("get unixtime")?[4..].parse()?;
    let behind = tic.clock().seconds() - time;
    assert!((495..505).contains(&behind), "{behind}");

    tic.change(|registry| {
        let tunnel = registry.tunnel_mut("T1").expect("T1 is in the registry");
        tunnel.admin_state = "disabled".to_owned();
    });
    talk.log_in(PASSWORD)?;
    let show = talk.list("tunnel show T1")?;
    assert!(show.contains(&"AdminState: disabled".to_owned()));

    // The server does not buffer a line without an end for ever.
    talk.0.get_mut().write_all(&[b'x'; 2000])?;
    assert!(matches!(last(tic)?.outcome, Outcome::Failed(_)));

    // The end of the server ends a stalled dialogue. No process listens any more.
    again();
    tic.misbehave(Stage::Username, Fault::Stall);
    let mut talk = greeted(&lab)?;
    talk.0.get_mut().write_all(b"username x\n")?;
    tic.stop();
    let mut rest = Vec::new();
    assert!(
        talk.0
            .read_to_end(&mut rest)
            .is_ok_and(|length| length == 0)
    );
    assert!(connect(&lab).is_err());
    tic.start()?;
    tic.behave();
    greeted(&lab)?;
    Ok(())
}
