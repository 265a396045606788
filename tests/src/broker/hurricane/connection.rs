//! One HTTPS connection: the request, the answer, and the faults that a test injects.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustls::{ServerConnection, StreamOwned};

use super::account::{Query, Reply};
use super::{Fault, Request, Shared};

/// A request is smaller.
const LONGEST_REQUEST: usize = 16 * 1024;

/// Time limit for the client.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// Serves a connection until its end.
pub(super) fn serve(stream: TcpStream, from: SocketAddr, shared: &Shared) -> Result<()> {
    stream
        .set_nonblocking(false)
        .context("wait for the client")?;
    stream
        .set_read_timeout(Some(IDLE_LIMIT))
        .context("set a time limit")?;
    let handle = stream.try_clone().context("keep a handle")?;
    let tls = ServerConnection::new(shared.tls()).context("begin TLS")?;
    let mut stream = StreamOwned::new(tls, stream);
    let served = converse(&mut stream, from, shared);
    stream.conn.send_close_notify();
    // The client may have closed the connection already.
    drop(stream.flush());
    drop(handle.shutdown(Shutdown::Both));
    served
}

fn converse(stream: &mut (impl Read + Write), from: SocketAddr, shared: &Shared) -> Result<()> {
    let head = read_head(stream)?;
    let at = Instant::now();
    let (query, agent) = parse(&head)?;
    let IpAddr::V4(from) = from.ip() else {
        bail!("the client is at {from}");
    };
    let fault = shared.fault();
    let number = shared.note(Request {
        at,
        from,
        query: query.clone(),
        agent,
        answered: None,
    });
    let reply = match &fault {
        None => shared.answer(&query, from),
        Some(Fault::Slow(pause)) => {
            shared.pause(*pause);
            shared.answer(&query, from)
        }
        Some(Fault::Say(status, body)) => Reply {
            status: *status,
            body: body.clone(),
            moved: None,
        },
        Some(Fault::EchoLogin) => {
            let (user, key) = query.login.unwrap_or_default();
            Reply {
                status: 200,
                body: format!("{key} {user}:{key}\n"),
                moved: None,
            }
        }
        Some(fault) => return misbehave(stream, fault),
    };
    let location = match reply.status {
        300..400 => "Location: https://203.0.113.9/elsewhere\r\n",
        _ => "",
    };
    let answer = format!(
        "HTTP/1.1 {} Lab\r\nContent-Type: text/html\r\n{location}Content-Length: {}\r\nConnection: close\r\n\r\n{}",
        reply.status,
        reply.body.len(),
        reply.body
    );
    // Before the answer: the client may look at once.
    shared.answered(number, &reply);
    stream.write_all(answer.as_bytes()).context("answer")?;
    stream.flush().context("answer")
}

fn misbehave(stream: &mut (impl Read + Write), fault: &Fault) -> Result<()> {
    match fault {
        Fault::Stall => {
            let mut rest = [0; 64];
            loop {
                match stream.read(&mut rest) {
                    Ok(0) => return Ok(()),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // The client closed, or the test ends.
                    Err(_) => return Ok(()),
                }
            }
        }
        Fault::Garbage => stream
            .write_all(b"\x80\xff\x00nonsense\r\n\r\n")
            .context("garbage"),
        Fault::Flood(bytes) => {
            let head = format!("HTTP/1.1 200 Lab\r\nContent-Length: {bytes}\r\n\r\n");
            stream.write_all(head.as_bytes()).context("flood")?;
            let piece = [b'g'; 4096];
            for _ in 0..bytes / 4096 {
                // The client may close when it has enough.
                if stream.write_all(&piece).is_err() {
                    return Ok(());
                }
            }
            Ok(())
        }
        Fault::Close | Fault::Slow(_) | Fault::Say(..) | Fault::EchoLogin => Ok(()),
    }
}

fn read_head(stream: &mut impl Read) -> Result<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        ensure!(bytes.len() < LONGEST_REQUEST, "the request is too long");
        let mut some = [0; 1024];
        let count = stream.read(&mut some).context("read the request")?;
        ensure!(count > 0, "the client closed");
        bytes.extend_from_slice(&some[..count]);
    }
    String::from_utf8(bytes).context("the request is text")
}

/// The query of a request, and the user agent.
fn parse(head: &str) -> Result<(Query, String)> {
    let mut lines = head.lines();
    let line = lines.next().context("a request line")?;
    let target = line
        .strip_prefix("GET ")
        .and_then(|rest| rest.strip_suffix(" HTTP/1.1"));
    let target = target.with_context(|| format!("expected GET, found {line:?}"))?;
    let (path, parameters) = target.split_once('?').unwrap_or((target, ""));
    let parameter = |key: &str| {
        let mut pairs = parameters
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value.to_owned())
    };
    let header = |key: &str| {
        let mut headers = lines.clone().filter_map(|line| line.split_once(": "));
        let found = headers.find(|(name, _)| name.eq_ignore_ascii_case(key));
        found.map(|(_, value)| value.to_owned())
    };
    ensure!(header("host").is_some(), "no Host");
    let login = header("authorization").and_then(|value| {
        let pair = decode_base64(value.strip_prefix("Basic ")?)?;
        let (user, key) = pair.split_once(':')?;
        Some((user.to_owned(), key.to_owned()))
    });
    let query = Query {
        path: path.to_owned(),
        login,
        hostname: parameter("hostname"),
        myip: parameter("myip"),
    };
    Ok((query, header("user-agent").unwrap_or_default()))
}

/// Decodes base64 (RFC 4648 §4).
fn decode_base64(text: &str) -> Option<String> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
    for digit in text.trim_end_matches('=').bytes() {
        let value = ALPHABET.iter().position(|other| *other == digit)?;
        bits = bits << 6 | u32::try_from(value).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    String::from_utf8(bytes).ok()
}

/// Whether this address answers a ping from the server's host.
pub(super) fn is_pingable(shared: &Shared, address: Ipv4Addr) -> bool {
    if !shared.pings() {
        return true;
    }
    let ping = format!("ping -n -c 1 -W 1 {address}");
    shared.namespace.sh(&ping).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_parsed() {
        let head = "GET /nic/update?hostname=7&myip=192.0.2.1 HTTP/1.1\r\nhost: a\r\n\
                    Authorization: Basic bWU6Z2VoZWlt\r\nUser-Agent: x\r\n\r\n";
        let (query, agent) = parse(head).expect("a request");
        assert_eq!(query.path, "/nic/update");
        assert_eq!(query.login, Some(("me".to_owned(), "geheim".to_owned())));
        assert_eq!(query.hostname.as_deref(), Some("7"));
        assert_eq!(query.myip.as_deref(), Some("192.0.2.1"));
        assert_eq!(agent, "x");
        assert!(parse("POST / HTTP/1.1\r\nhost: a\r\n\r\n").is_err());
        assert!(parse("GET / HTTP/1.1\r\n\r\n").is_err());
    }
}
