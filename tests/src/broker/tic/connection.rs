//! One connection to the TIC server: lines, TLS, and the faults that a test injects.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rustls::{ServerConnection, StreamOwned};

use super::dialogue::{Answer, Dialogue, Stage, Then};
use super::lockout::Verdict;
use super::shared::{Fault, MOST_LINES, Outcome, Shared};
use crate::broker::random::Random;

const LONGEST_LINE_BYTES: usize = 1024;
/// The historical client fails if about 1,000 bytes are waiting, so send less than that at a time.
const PIECE_BYTES: usize = 400;
const PIECE_PAUSE: Duration = Duration::from_millis(20);
const GARBAGE_BYTES: usize = 300;

enum Stream {
    Clear(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Clear(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// Sends the refusal to a client, and closes.
pub(super) fn turn_away(mut stream: TcpStream, verdict: Verdict, now: Duration) -> Result<()> {
    let seconds = |until: Duration| until.saturating_sub(now).as_secs() + 1;
    let words = match verdict {
        Verdict::Welcome => "500 Too many connections, come back later".to_owned(),
        Verdict::Refused(until) => format!(
            "500 You are connecting too often, refused for {} seconds",
            seconds(until)
        ),
        Verdict::Blocked(until) => format!(
            "500 You are connecting too often again, blocked for {} seconds",
            seconds(until)
        ),
    };
    stream
        .set_write_timeout(Some(Duration::from_secs(1)))
        .context("set a time limit")?;
    // The client may have closed the connection already.
    let sent = writeln!(stream, "{words}").and_then(|()| stream.shutdown(Shutdown::Write));
    drop(sent);
    Ok(())
}

/// Serves a connection until its end, and records the outcome.
pub(super) fn serve(stream: TcpStream, shared: &Shared, number: u64) {
    let outcome = Connection::new(stream, shared, number).and_then(|mut connection| {
        let outcome = connection.run();
        connection.close();
        outcome
    });
    let outcome = outcome.unwrap_or_else(|e| Outcome::Failed(format!("{e:#}")));
    shared.note(number, |connect| connect.outcome = outcome);
}

struct Connection<'a> {
    /// `None` only between clear text and TLS.
    stream: Option<Stream>,
    /// A handle of the same socket. The server has another one, so dropping the stream does not close the
    /// connection.
    handle: TcpStream,
    /// Bytes that were read but are no complete line yet.
    unread: Vec<u8>,
    dialogue: Dialogue,
    shared: &'a Shared,
    number: u64,
}

impl<'a> Connection<'a> {
    fn new(stream: TcpStream, shared: &'a Shared, number: u64) -> Result<Self> {
        let limit = Some(shared.settings().idle_limit);
        stream
            .set_nonblocking(false)
            .context("wait for the client")?;
        stream.set_read_timeout(limit).context("set a time limit")?;
        stream
            .set_write_timeout(limit)
            .context("set a time limit")?;
        stream.set_nodelay(true).context("send at once")?;
        Ok(Self {
            handle: stream.try_clone().context("keep a handle")?,
            stream: Some(Stream::Clear(stream)),
            unread: Vec::new(),
            dialogue: Dialogue::new(shared.challenge()),
            shared,
            number,
        })
    }

    fn stream(&mut self) -> Result<&mut Stream> {
        self.stream.as_mut().context("the TLS handshake failed")
    }

    fn run(&mut self) -> Result<Outcome> {
        let greeting = Answer {
            stage: Stage::Greeting,
            lines: vec!["200 TIC service of the lab ready".to_owned()],
            then: Then::GoOn,
        };
        if let Some(outcome) = self.send(&greeting)? {
            return Ok(outcome);
        }
        while let Some(line) = self.line()? {
            let answer = {
                let unix_seconds = self.shared.unix_seconds();
                let settings = self.shared.settings();
                self.dialogue
                    .answer(&line, &settings.registry, unix_seconds)
            };
            let dialogue = &self.dialogue;
            self.shared.note(self.number, |connect| {
                connect.client.clone_from(&dialogue.client);
                connect.user.clone_from(&dialogue.user);
                connect.logged_in = dialogue.logged_in;
                if connect.lines.len() < MOST_LINES {
                    connect.lines.push(line);
                }
            });
            if let Some(outcome) = self.send(&answer)? {
                return Ok(outcome);
            }
        }
        Ok(Outcome::Left)
    }

    fn close(&mut self) {
        let sent = match &mut self.stream {
            Some(Stream::Tls(stream)) => {
                stream.conn.send_close_notify();
                stream.flush()
            }
            Some(Stream::Clear(_)) | None => Ok(()),
        };
        // The client or the server's end may have closed it already.
        drop(sent.and_then(|()| self.handle.shutdown(Shutdown::Both)));
    }

    /// Sends an answer, or injects a fault. Returns the outcome if the connection is over.
    fn send(&mut self, answer: &Answer) -> Result<Option<Outcome>> {
        let lines: String = answer
            .lines
            .iter()
            .map(|line| format!("{line}\n"))
            .collect();
        match self.shared.fault_at(answer.stage) {
            None => self.write(lines.as_bytes(), PIECE_BYTES, PIECE_PAUSE)?,
            Some(Fault::Trickle(pause)) => self.write(lines.as_bytes(), 1, pause)?,
            // The fault replaces the answer, so the answer's action is skipped.
            Some(fault) => return self.misbehave(answer.stage, &fault),
        }
        match answer.then {
            Then::GoOn => Ok(None),
            Then::Close => Ok(Some(Outcome::Quit)),
            Then::StartTls => match self.shared.fault_at(Stage::Handshake) {
                Some(fault) => self.misbehave(Stage::Handshake, &fault),
                None => self.start_tls().map(|()| None),
            },
        }
    }

    fn misbehave(&mut self, stage: Stage, fault: &Fault) -> Result<Option<Outcome>> {
        match fault {
            Fault::Stall => {
                let stream = self.stream()?;
                let mut buffer = [0; 4096];
                loop {
                    match stream.read(&mut buffer) {
                        Ok(0) => return Ok(Some(Outcome::Misbehaved)),
                        // Time-outs too: only the end of the connection ends a stall.
                        Ok(_) => {}
                        Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                        Err(e) => return Err(e).context("stall"),
                    }
                }
            }
            Fault::Garbage => {
                let mut bytes = Random::new(self.number).bytes(GARBAGE_BYTES);
                bytes.retain(|byte| *byte != b'\n');
                // The first byte keeps it from being a valid answer by chance.
                bytes.insert(0, 0x80);
                bytes.push(b'\n');
                self.write(&bytes, PIECE_BYTES, PIECE_PAUSE)?;
                Ok(None)
            }
            Fault::Flood(bytes) => {
                let piece = [b'2'; 4096];
                let mut left = *bytes;
                let stream = self.stream()?;
                while left > 0 {
                    let length = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                    stream.write_all(&piece[..length]).context("flood")?;
                    left -= length as u64;
                }
                Ok(Some(Outcome::Misbehaved))
            }
            Fault::Close => Ok(Some(Outcome::Misbehaved)),
            Fault::Say(words) => {
                self.write(format!("{words}\n").as_bytes(), PIECE_BYTES, PIECE_PAUSE)?;
                Ok((stage == Stage::Greeting).then_some(Outcome::Misbehaved))
            }
            // Of the handshake, only the record header can be sent byte by byte.
            Fault::Trickle(pause) => {
                self.write(&[0x16, 3, 3, 0, 80], 1, *pause)?;
                Ok(Some(Outcome::Misbehaved))
            }
        }
    }

    fn start_tls(&mut self) -> Result<()> {
        ensure!(
            self.unread.is_empty(),
            "the client did not wait for the answer to starttls"
        );
        let config = Arc::clone(&self.shared.settings().tls);
        let mut server = ServerConnection::new(config).context("begin TLS")?;
        let Some(Stream::Clear(mut stream)) = self.stream.take() else {
            bail!("TLS inside of TLS");
        };
        while server.is_handshaking() {
            server.complete_io(&mut stream).context("TLS handshake")?;
        }
        self.stream = Some(Stream::Tls(Box::new(StreamOwned::new(server, stream))));
        self.dialogue.tls = true;
        self.shared.note(self.number, |connect| connect.tls = true);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], piece: usize, pause: Duration) -> Result<()> {
        let stream = self.stream()?;
        let mut pieces = bytes.chunks(piece).peekable();
        while let Some(piece) = pieces.next() {
            stream.write_all(piece).context("answer")?;
            stream.flush().context("answer")?;
            if pieces.peek().is_some() {
                std::thread::sleep(pause);
            }
        }
        Ok(())
    }

    /// The next line without its end; `None` if the client closed the connection.
    fn line(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let rest = self.unread.split_off(end + 1);
                let line = std::mem::replace(&mut self.unread, rest);
                let line = String::from_utf8(line).context("a line is not text")?;
                return Ok(Some(line.trim_end().to_owned()));
            }
            ensure!(
                self.unread.len() < LONGEST_LINE_BYTES,
                "a line is longer than {LONGEST_LINE_BYTES} bytes"
            );
            let mut buffer = [0; LONGEST_LINE_BYTES];
            match self.stream()?.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(length) => self.unread.extend(&buffer[..length]),
                // TLS closed without close_notify, as many clients do.
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(None),
                Err(e) => return Err(e).context("wait for a line"),
            }
        }
    }
}
