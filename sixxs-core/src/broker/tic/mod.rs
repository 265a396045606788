//! The client of TIC, Tunnel Information and Control: the SixXS protocol for parameters of tunnels.
//!
//! ```text
//! ─ greeting ─► Client ─► Clock ─► StartTls ─┬─ 2xx ─► (TLS) ─┬─► Username ─► Challenge
//!                                            └─ in clear ─────┘                   │
//!        Done ◄─ Show ◄─ List (unless the tunnel is known) ◄─ Authenticate ◄──────┘
//! ```
//! Each command is sent when the reply to the previous one is complete. Bytes between a reply and the
//! next command are an error. After the reply to `starttls`, they would otherwise be clear text that
//! is taken for TLS data (CVE-2011-0411 and similar).
//!
//! Input: bytes and the wall clock. Output: [`Action`]s. The caller connects, does TLS, and applies
//! time limits and the connect limit. The constants in `lines.rs` limit the stored data.

mod error;
mod lines;
mod login;
mod parameters;
pub mod saved;
mod server;
mod stage;

use std::{fmt, mem};

use md5::{Digest as _, Md5};
use zeroize::{Zeroize as _, Zeroizing};

pub use self::{
    error::{Class, Error, Problem},
    login::{Agent, Goal, Login},
    parameters::{BadKind, Kind, Parameters, PopLine, TunnelLine},
    server::{BadServer, PORT, Server},
    stage::Stage,
};
use self::{
    error::{clean, is_too_often, printable},
    lines::Lines,
    parameters::Shown,
};
use crate::secret::Secret;

/// The maximum clock difference, in seconds: brokers ignore data that is signed with another time.
pub const MAX_CLOCK_DIFFERENCE_SECONDS: u64 = 120;

/// The version of the protocol.
const VERSION: &str = "draft-00";

/// The result of a dialogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// For [`Goal::Parameters`].
    Parameters(Parameters),
    /// For [`Goal::Tunnels`].
    Tunnels(Vec<TunnelLine>),
    /// For [`Goal::Pops`].
    Pops(Vec<PopLine>),
}

/// Actions for the caller, in order.
pub enum Action {
    /// Send these bytes.
    Send(Zeroizing<Vec<u8>>),
    /// Start TLS on the connection, then call [`Client::tls_is_up`].
    StartTls,
    /// The dialogue is over: close the connection.
    Done(Outcome),
}

/// Hides the bytes, which may be the answer to a challenge.
impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(bytes) => write!(f, "Send({} bytes)", bytes.len()),
            Self::StartTls => f.write_str("StartTls"),
            Self::Done(outcome) => f.debug_tuple("Done").field(outcome).finish(),
        }
    }
}

/// The client's side of a dialogue.
pub struct Client {
    login: Login,
    goal: Goal,
    state: State,
    lines: Lines,
    /// The answer to the challenge, to hide it if the server repeats it.
    answer: Zeroizing<String>,
}

/// The input that the dialogue waits for.
enum State {
    /// The reply at this stage, of one line.
    Reply(Stage),
    /// Start of TLS.
    Tls,
    /// A list: its first line, or more lines.
    List {
        stage: Stage,
        /// The id of the requested tunnel; empty for other lists.
        id: String,
        begun: bool,
        items: Vec<Zeroizing<String>>,
    },
    /// No further input.
    Over(Stage),
}

impl Client {
    /// A client that waits for the server's greeting.
    pub fn new(login: Login, goal: Goal) -> Result<Self, Error> {
        login::check(&login, &goal)?;
        Ok(Self {
            login,
            goal,
            state: State::Reply(Stage::Greeting),
            lines: Lines::new(),
            answer: Zeroizing::new(String::new()),
        })
    }

    /// The current stage of the dialogue.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        match &self.state {
            State::Reply(stage) | State::List { stage, .. } | State::Over(stage) => *stage,
            State::Tls => Stage::StartTls,
        }
    }

    /// Handles bytes from the server; `unix_now` is local Unix time in seconds. After an error or
    /// [`Action::Done`] it ignores further bytes.
    pub fn received(&mut self, bytes: &[u8], unix_now: u64) -> Result<Vec<Action>, Error> {
        let stage = self.stage();
        self.take(bytes, unix_now).map_err(|problem| {
            self.state = State::Over(stage);
            Error { stage, problem }
        })
    }

    /// Continues after the start of TLS.
    #[must_use]
    pub fn tls_is_up(&mut self) -> Vec<Action> {
        match self.state {
            State::Tls => vec![self.send_username()],
            _ => Vec::new(),
        }
    }

    /// Handles the end of the connection by the server.
    #[must_use]
    pub fn closed(&mut self) -> Option<Error> {
        let stage = self.stage();
        match mem::replace(&mut self.state, State::Over(stage)) {
            State::Over(_) => None,
            _ => Some(Error {
                stage,
                problem: Problem::Closed,
            }),
        }
    }

    fn take(&mut self, mut bytes: &[u8], unix_now: u64) -> Result<Vec<Action>, Problem> {
        let mut actions = Vec::new();
        while !bytes.is_empty() {
            match self.state {
                State::Over(_) => break,
                State::Tls => return Err(Problem::UnexpectedData),
                _ if !actions.is_empty() => return Err(Problem::UnexpectedData),
                _ => {}
            }
            let Some(line) = self.lines.next(&mut bytes)? else {
                break;
            };
            actions = self.line(line, unix_now)?;
        }
        Ok(actions)
    }

    fn line(&mut self, line: Zeroizing<String>, unix_now: u64) -> Result<Vec<Action>, Problem> {
        match &mut self.state {
            State::Reply(stage) => {
                let stage = *stage;
                self.lines.reset();
                self.reply(stage, &line, unix_now)
            }
            State::List { begun, items, .. } => {
                if *begun && !is_end(&line) {
                    items.push(line);
                    return Ok(Vec::new());
                }
                if !*begun {
                    *begun = true;
                    let (code, words) = parse(&line)?;
                    return match code {
                        201 => Ok(Vec::new()),
                        200..=299 => Err(self.garbage("instead of a list", &line)),
                        _ => Err(self.refusal(words)),
                    };
                }
                self.lines.reset();
                self.listed()
            }
            State::Tls | State::Over(_) => Ok(Vec::new()),
        }
    }

    /// Handles a complete reply of one line.
    fn reply(&mut self, stage: Stage, line: &str, now: u64) -> Result<Vec<Action>, Problem> {
        let (code, words) = parse(line)?;
        if (200..=299).contains(&code) {
            self.next_command(stage, words, now)
        } else {
            self.rejected(stage, words)
        }
    }

    /// Handles an error reply. Only `starttls` may fail without ending the dialogue.
    fn rejected(&mut self, stage: Stage, words: &str) -> Result<Vec<Action>, Problem> {
        if stage == Stage::StartTls {
            if is_too_often(words) {
                return Err(self.refusal(words));
            }
            if self.login.require_tls {
                return Err(Problem::NoTls(self.sanitised(words)));
            }
            return Ok(vec![self.send_username()]);
        }
        // Before a user name was sent, the refusal does not concern this client, unless it mentions
        // the limit. Two such refusals in a day, taken for lockouts, would block this client for a
        // week.
        Err(match (stage, self.refusal(words)) {
            (Stage::Greeting, Problem::Refused(words)) => Problem::Unavailable(words),
            (_, problem) => problem,
        })
    }

    /// Continues after a success reply with the text `words`.
    fn next_command(
        &mut self,
        stage: Stage,
        words: &str,
        now: u64,
    ) -> Result<Vec<Action>, Problem> {
        let action = match stage {
            Stage::Greeting => {
                let Agent {
                    name,
                    version,
                    os,
                    release,
                } = &self.login.agent;
                let line = format!("client TIC/{VERSION} {name}/{version} {os}/{release}");
                self.send(Stage::Client, &line)
            }
            Stage::Client => self.send(Stage::Clock, "get unixtime"),
            Stage::Clock => {
                compare_clocks(words, now)?;
                self.send(Stage::StartTls, "starttls")
            }
            Stage::StartTls => {
                self.state = State::Tls;
                Action::StartTls
            }
            Stage::Username => self.send(Stage::Challenge, "challenge md5"),
            Stage::Challenge => {
                if words.is_empty() {
                    return Err(Problem::Garbage("an empty challenge".to_owned()));
                }
                self.answer = answer(words, &self.login.password);
                let line = Zeroizing::new(format!("authenticate md5 {}", *self.answer));
                self.send(Stage::Authenticate, &line)
            }
            Stage::Authenticate => self.query(),
            // These are lists. Before the first command there is no reply.
            Stage::List | Stage::Show | Stage::Login => return Ok(Vec::new()),
        };
        Ok(vec![action])
    }

    /// The first query of a client that is logged in.
    fn query(&mut self) -> Action {
        match self.goal.clone() {
            Goal::Parameters {
                tunnel_id: Some(id),
            } => self.show(id),
            Goal::Parameters { tunnel_id: None } | Goal::Tunnels => {
                self.list(Stage::List, String::new(), "tunnel list")
            }
            Goal::Pops => self.list(Stage::List, String::new(), "pop list"),
        }
    }

    /// Handles a complete list.
    fn listed(&mut self) -> Result<Vec<Action>, Problem> {
        let stage = self.stage();
        let State::List { id, items, .. } = mem::replace(&mut self.state, State::Over(stage))
        else {
            return Ok(Vec::new());
        };
        if stage == Stage::Show {
            return Shown(&items)
                .read(&id)
                .map(|p| done(Outcome::Parameters(p)));
        }
        let items = items.iter().filter(|line| !line.trim().is_empty());
        if self.goal == Goal::Pops {
            let pops = items.map(|line| PopLine::read(line));
            return Ok(done(Outcome::Pops(pops.collect::<Result<_, _>>()?)));
        }
        let tunnels = items.map(|line| TunnelLine::read(line));
        let tunnels: Vec<TunnelLine> = tunnels.collect::<Result<_, _>>()?;
        if self.goal == Goal::Tunnels {
            return Ok(done(Outcome::Tunnels(tunnels)));
        }
        match &tunnels[..] {
            [] => Err(Problem::NoTunnels),
            [only] => Ok(vec![self.show(only.id.clone())]),
            several => {
                let ids = several.iter().map(|tunnel| tunnel.id.clone());
                Err(Problem::SeveralTunnels(ids.collect()))
            }
        }
    }

    fn show(&mut self, id: String) -> Action {
        let line = format!("tunnel show {id}");
        self.list(Stage::Show, id, &line)
    }

    fn list(&mut self, stage: Stage, id: String, line: &str) -> Action {
        let action = self.send(stage, line);
        self.state = State::List {
            stage,
            id,
            begun: false,
            items: Vec::new(),
        };
        action
    }

    fn send_username(&mut self) -> Action {
        let line = format!("username {}", self.login.username);
        self.send(Stage::Username, &line)
    }

    fn send(&mut self, next: Stage, line: &str) -> Action {
        self.state = State::Reply(next);
        send(line)
    }

    fn refusal(&self, words: &str) -> Problem {
        if is_too_often(words) {
            Problem::TooOften(self.sanitised(words))
        } else {
            Problem::Refused(self.sanitised(words))
        }
    }

    fn garbage(&self, instead: &str, line: &str) -> Problem {
        Problem::Garbage(format!("{:?} {instead}", self.sanitised(line)))
    }

    /// Sanitises the server's text for display: some servers repeat the command that they refuse.
    fn sanitised(&self, words: &str) -> String {
        // Control characters are removed before the search, since they could hide a secret. The text
        // is truncated after the search, since a part of a secret could remain.
        let mut words = clean(words);
        for secret in [self.answer.as_str(), self.login.password.expose()] {
            let secret = clean(secret);
            if secret.len() > 3 && words.contains(secret.as_str()) {
                words = Zeroizing::new(words.replace(secret.as_str(), "…"));
            }
        }
        printable(&words)
    }
}

/// Splits a reply into code and text.
fn parse(line: &str) -> Result<(u16, &str), Problem> {
    let code = line
        .get(..3)
        .filter(|c| c.bytes().all(|b| b.is_ascii_digit()));
    let code = code.and_then(|code| code.parse().ok());
    match (code, line.get(3..)) {
        (Some(code @ 100..=599), Some("")) => Ok((code, "")),
        (Some(code @ 100..=599), Some(rest)) if rest.starts_with(' ') => Ok((code, &rest[1..])),
        // The line is not shown: it may contain anything, even data of another protocol.
        _ => Err(Problem::Garbage("a reply without a code".to_owned())),
    }
}

fn is_end(line: &str) -> bool {
    line == "202" || line.starts_with("202 ")
}

fn send(line: &str) -> Action {
    let mut bytes = Zeroizing::new(Vec::with_capacity(line.len() + 1));
    bytes.extend_from_slice(line.as_bytes());
    bytes.push(b'\n');
    Action::Send(bytes)
}

fn done(outcome: Outcome) -> Vec<Action> {
    vec![send("QUIT Thank you"), Action::Done(outcome)]
}

fn compare_clocks(words: &str, now: u64) -> Result<(), Problem> {
    let server: u64 = words
        .trim()
        .parse()
        .map_err(|_| Problem::Garbage(format!("{:?} instead of the time", printable(words))))?;
    if now.abs_diff(server) <= MAX_CLOCK_DIFFERENCE_SECONDS {
        return Ok(());
    }
    let difference = i64::try_from(now.abs_diff(server)).unwrap_or(i64::MAX);
    let ahead = if now > server {
        difference
    } else {
        -difference
    };
    Err(Problem::Clock { ahead })
}

/// The answer to a challenge: MD5 over the challenge and the MD5 of the password, both digests in
/// lowercase hexadecimal digits.
fn answer(challenge: &str, password: &Secret) -> Zeroizing<String> {
    let password = hex_md5(&[password.expose()]);
    hex_md5(&[challenge, &password])
}

fn hex_md5(parts: &[&str]) -> Zeroizing<String> {
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part.as_bytes());
    }
    let mut digest: [u8; 16] = hash.finalize().into();
    let mut text = Zeroizing::new(String::with_capacity(32));
    for byte in digest {
        for nibble in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(u32::from(nibble), 16));
        }
    }
    digest.zeroize();
    text
}

#[cfg(test)]
mod tests;
