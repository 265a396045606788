//! The server's side of the TIC dialogue: takes a line, returns the answer. It uses no socket and no clock.

use md5::{Digest as _, Md5};

use super::registry::{Account, Registry};
use crate::broker::hex;

/// The stage of a dialogue: the command that is being answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Before the first line.
    Greeting,
    /// `client`
    Client,
    /// `get unixtime`
    UnixTime,
    /// `starttls`
    StartTls,
    /// The TLS handshake, after the answer to `starttls`.
    Handshake,
    /// `username`
    Username,
    /// `challenge`
    Challenge,
    /// `authenticate`
    Authenticate,
    /// `tunnel list`
    TunnelList,
    /// `tunnel show`
    TunnelShow,
    /// `pop list`
    PopList,
    /// `pop show`
    PopShow,
    /// `QUIT`
    Quit,
    /// Any other line.
    Unknown,
}

/// Action after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    GoOn,
    StartTls,
    Close,
}

/// An answer: its lines, without line ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) stage: Stage,
    pub(super) lines: Vec<String>,
    pub(super) then: Then,
}

/// One client's dialogue.
#[derive(Debug)]
pub(super) struct Dialogue {
    challenge: String,
    /// Name of the client software.
    pub(super) client: Option<String>,
    /// User name from `username`.
    pub(super) user: Option<String>,
    pub(super) logged_in: bool,
    pub(super) tls: bool,
    challenged: bool,
}

impl Dialogue {
    /// `challenge` has to be unique.
    pub(super) fn new(challenge: String) -> Self {
        Self {
            challenge,
            client: None,
            user: None,
            logged_in: false,
            tls: false,
            challenged: false,
        }
    }

    /// Splits a line into the command and its arguments.
    pub(super) fn stage(line: &str) -> (Stage, &str) {
        const COMMANDS: [(&str, Stage); 11] = [
            ("client", Stage::Client),
            ("get unixtime", Stage::UnixTime),
            ("starttls", Stage::StartTls),
            ("username", Stage::Username),
            ("challenge", Stage::Challenge),
            ("authenticate", Stage::Authenticate),
            ("tunnel list", Stage::TunnelList),
            ("tunnel show", Stage::TunnelShow),
            ("pop list", Stage::PopList),
            ("pop show", Stage::PopShow),
            ("quit", Stage::Quit),
        ];
        let found = COMMANDS.iter().find_map(|(name, stage)| {
            let (start, rest) = line.split_at_checked(name.len())?;
            let ends = rest.is_empty() || rest.starts_with(' ');
            (start.eq_ignore_ascii_case(name) && ends).then_some((*stage, rest.trim()))
        });
        found.unwrap_or((Stage::Unknown, line))
    }

    /// Answers a line.
    pub(super) fn answer(&mut self, line: &str, registry: &Registry, unix_seconds: u64) -> Answer {
        let (stage, rest) = Self::stage(line);
        let mut then = Then::GoOn;
        let lines = match stage {
            Stage::Client => {
                self.client = Some(rest.to_owned());
                one("200 Client Identity accepted")
            }
            Stage::UnixTime => one(&format!("200 {unix_seconds}")),
            Stage::StartTls if self.tls => one("400 Already speaking TLS"),
            Stage::StartTls => {
                then = Then::StartTls;
                one("200 Go ahead, start TLS")
            }
            Stage::Username => {
                self.user = Some(rest.to_owned());
                self.logged_in = false;
                one(&format!(
                    "200 {rest} choose your authentication challenge please"
                ))
            }
            Stage::Challenge => self.challenge(rest),
            Stage::Authenticate => self.authenticate(rest, registry),
            Stage::Quit => {
                then = Then::Close;
                one("200 Thank you for using this TIC service")
            }
            Stage::TunnelList | Stage::TunnelShow | Stage::PopList | Stage::PopShow => {
                self.look_up(stage, rest, registry)
            }
            Stage::Greeting | Stage::Handshake | Stage::Unknown => one("500 Unknown command"),
        };
        Answer { stage, lines, then }
    }

    fn challenge(&mut self, kind: &str) -> Vec<String> {
        if self.user.is_none() {
            return one("400 Who are you? Give a username first");
        }
        if kind != "md5" {
            return one("400 Only md5 is supported");
        }
        self.challenged = true;
        one(&format!("200 {}", self.challenge))
    }

    fn authenticate(&mut self, rest: &str, registry: &Registry) -> Vec<String> {
        // A challenge is valid for one attempt.
        if !std::mem::take(&mut self.challenged) {
            return one("400 Ask for a challenge first");
        }
        let account = self.account(registry);
        let expected = account.map(|account| {
            let password = hex(&Md5::digest(&account.password));
            let answer = hex(&Md5::digest(format!("{}{password}", self.challenge)));
            format!("md5 {answer}")
        });
        // The same answer for a wrong name and a wrong password.
        if expected.as_deref() != Some(rest) {
            return one("400 Login failed, username or password is wrong");
        }
        let user = self.user.clone().unwrap_or_default();
        self.logged_in = true;
        one(&format!("200 Succesfully logged in using md5 as {user}"))
    }

    fn account<'a>(&self, registry: &'a Registry) -> Option<&'a Account> {
        let user = self.user.as_deref()?;
        registry
            .accounts
            .iter()
            .find(|account| account.username == user)
    }

    fn look_up(&self, stage: Stage, name: &str, registry: &Registry) -> Vec<String> {
        let Some(account) = self.account(registry).filter(|_| self.logged_in) else {
            return one("403 Log in first");
        };
        match stage {
            Stage::TunnelList => {
                let lines = account.tunnels.iter().map(|tunnel| tunnel.line());
                list("Listing tunnels", lines)
            }
            Stage::TunnelShow => match account.tunnels.iter().find(|tunnel| tunnel.id == name) {
                Some(tunnel) => list("Showing tunnel information", tunnel.show()),
                None => one(&format!("404 No such tunnel {name}")),
            },
            Stage::PopList => {
                let lines = registry.pops.iter().map(|pop| pop.name.clone());
                list("Listing PoPs", lines)
            }
            _ => match registry.pops.iter().find(|pop| pop.name == name) {
                Some(pop) => list("Showing PoP information", pop.show()),
                None => one(&format!("404 No such PoP {name}")),
            },
        }
    }
}

fn one(line: &str) -> Vec<String> {
    vec![line.to_owned()]
}

fn list(title: &str, lines: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut list = vec![format!("201 {title}")];
    list.extend(lines);
    list.push("202 End of list".to_owned());
    list
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::registry::{PopRecord, TunnelRecord};
    use super::*;
    use crate::broker::Kind;

    fn registry() -> Registry {
        let tunnel = TunnelRecord {
            id: "T1".to_owned(),
            kind: Kind::SixInFour,
            address: "2001:db8:a::2".parse().unwrap(),
            peer: "2001:db8:a::1".parse().unwrap(),
            prefix_length: 64,
            pop: "pop0".to_owned(),
            pop4: Ipv4Addr::new(198, 51, 100, 1),
            endpoint4: Ipv4Addr::new(192, 0, 2, 10),
            user_state: "enabled".to_owned(),
            admin_state: "enabled".to_owned(),
            password: "tunnel-secret".to_owned(),
            heartbeat_interval: 60,
            mtu: 1280,
            more: vec!["Something: else".to_owned()],
        };
        Registry {
            accounts: vec![Account {
                username: "LAB-1".to_owned(),
                password: "secret".to_owned(),
                tunnels: vec![tunnel],
            }],
            pops: vec![PopRecord {
                name: "pop0".to_owned(),
                address4: Ipv4Addr::new(198, 51, 100, 1),
                address6: "2001:db8:a::1".parse().unwrap(),
            }],
        }
    }

    #[test]
    fn the_whole_dialogue() {
        let mut dialogue = Dialogue::new("a challenge of words".to_owned());
        let mut answer_to = |line: &str| dialogue.answer(line, &registry(), 1_600_000_000);
        let words = |line: &str| vec![line.to_owned()];
        assert_eq!(answer_to("get unixtime").lines, words("200 1600000000"));
        assert_eq!(answer_to("starttls").then, Then::StartTls);
        assert!(answer_to("tunnel list").lines[0].starts_with("403"));
        assert!(answer_to("challenge md5").lines[0].starts_with("400"));
        answer_to("client TIC/draft-00 sixxs/0.1 Linux/6.1");
        answer_to("username LAB-1");
        let challenge = answer_to("challenge md5").lines;
        assert_eq!(challenge, words("200 a challenge of words"));
        // printf %s 'a challenge of words'$(printf secret | md5sum | cut -c1-32) | md5sum
        let right = "authenticate md5 3614329c361b72487f9e7342058da410";
        assert!(answer_to(right).lines[0].starts_with("200"));
        assert_eq!(
            answer_to("TUNNEL LIST").lines,
            [
                "201 Listing tunnels",
                "T1 2001:db8:a::2 192.0.2.10 pop0",
                "202 End of list"
            ]
        );
        let show = answer_to("tunnel show T1").lines;
        assert!(show.contains(&"IPv4 Endpoint: 192.0.2.10".to_owned()));
        assert!(show.contains(&"Something: else".to_owned()));
        assert!(answer_to("tunnel show T2").lines[0].starts_with("404"));
        assert_eq!(answer_to("pop list").lines[1], "pop0");
        assert_eq!(answer_to("pop show pop0").lines[1], "POPId: pop0");
        assert_eq!(answer_to("QUIT so long").then, Then::Close);
        assert_eq!(answer_to("tunnels").stage, Stage::Unknown);
        assert_eq!(
            dialogue.client.as_deref(),
            Some("TIC/draft-00 sixxs/0.1 Linux/6.1")
        );
    }

    #[test]
    fn a_challenge_is_good_for_one_try() {
        let mut dialogue = Dialogue::new("a challenge of words".to_owned());
        let mut answer_to = |line: &str| dialogue.answer(line, &registry(), 0).lines[0].clone();
        answer_to("username LAB-1");
        answer_to("challenge md5");
        assert!(answer_to("authenticate md5 0123").starts_with("400 Login failed"));
        assert!(
            answer_to("authenticate md5 3614329c361b72487f9e7342058da410").starts_with("400 Ask")
        );
        assert!(answer_to("tunnel list").starts_with("403"));
        answer_to("username nobody");
        answer_to("challenge md5");
        assert!(
            answer_to("authenticate md5 3614329c361b72487f9e7342058da410")
                .starts_with("400 Login failed")
        );
    }
}
