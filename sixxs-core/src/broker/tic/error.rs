//! Errors of a TIC dialogue: the stage, the server's reply, and whether a retry makes sense.

use zeroize::Zeroizing;

use super::stage::Stage;

/// A TIC dialogue failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{stage}: {problem}")]
pub struct Error {
    /// The stage at which it failed.
    pub stage: Stage,
    /// The problem.
    pub problem: Problem,
}

/// The problem. Words of the server are sanitised for display.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The client connected too often.
    #[error("the server refuses this host for too many connects: {0:?}")]
    TooOften(String),
    /// The server accepts no client at the moment.
    #[error("the server accepts no logins at the moment: {0:?}")]
    Unavailable(String),
    /// The server refused the request.
    #[error("the server refuses: {0:?}")]
    Refused(String),
    /// The tunnel is disabled.
    #[error(
        "tunnel {id} is not enabled: the server reports UserState {user:?}, AdminState {admin:?}; \
         enable it at the broker"
    )]
    NotEnabled {
        /// The tunnel's id.
        id: String,
        /// The state that the user set.
        user: String,
        /// The state that the broker set.
        admin: String,
    },
    /// The account has no tunnel.
    #[error("the account has no tunnels; request one at the broker")]
    NoTunnels,
    /// The account has several tunnels, and none was selected.
    #[error("the account has several tunnels; choose one by tunnel_id: {}", .0.join(", "))]
    SeveralTunnels(Vec<String>),
    /// The clocks differ by more than brokers tolerate.
    #[error(
        "this host's clock is {} s {} the server's, and {max} s is the most that it \
         accepts; set it, best by NTP", .ahead.unsigned_abs(), if *.ahead > 0 { "ahead of" } else { "behind" },
         max = super::MAX_CLOCK_DIFFERENCE_SECONDS
    )]
    Clock {
        /// Local time minus the server's time, in seconds.
        ahead: i64,
    },
    /// TLS is required, but the server does not offer it.
    #[error("TLS is required, and the server does not offer it: {0:?}")]
    NoTls(String),
    /// Data that is not the reply to a command. Before TLS, it may be an attempt to inject replies.
    #[error("the server, or an attacker on the path, sent unexpected data")]
    UnexpectedData,
    /// More data than any valid reply has.
    #[error("the server sent {0} of more than {1} {2}")]
    TooMuchData(&'static str, usize, &'static str),
    /// The reply does not follow the protocol.
    #[error("the server sent {0}")]
    Garbage(String),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The request cannot be sent.
    #[error("{0}")]
    Login(&'static str),
}

/// The right reaction to a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Wait until the lockout has ended.
    TooOften,
    /// A user has to change something: an early retry is useless.
    Refused,
    /// The clock has to be set.
    Clock,
    /// TLS cannot be established.
    Tls,
    /// The server accepts no client at the moment: retry later.
    Unavailable,
    /// The server violated the protocol, or closed the connection: retry later.
    Garbage,
}

impl Error {
    /// The right reaction to this error.
    #[must_use]
    pub const fn class(&self) -> Class {
        match &self.problem {
            Problem::TooOften(_) => Class::TooOften,
            Problem::Unavailable(_) => Class::Unavailable,
            Problem::Refused(_)
            | Problem::NotEnabled { .. }
            | Problem::NoTunnels
            | Problem::SeveralTunnels(_)
            | Problem::Login(_) => Class::Refused,
            Problem::Clock { .. } => Class::Clock,
            Problem::NoTls(_) => Class::Tls,
            Problem::UnexpectedData
            | Problem::TooMuchData(..)
            | Problem::Garbage(_)
            | Problem::Closed => Class::Garbage,
        }
    }
}

/// The maximum number of characters to show of a server's text.
const MAX_CHARS: usize = 200;

/// Sanitises a text for display in one line: without control characters, and limited in length.
pub(super) fn printable(words: &str) -> String {
    let clean = clean(words);
    let mut shown: String = clean.trim().chars().take(MAX_CHARS).collect();
    if clean.trim().chars().nth(MAX_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

/// Replaces control characters by blanks.
pub(super) fn clean(words: &str) -> Zeroizing<String> {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    Zeroizing::new(words.chars().map(clean).collect())
}

/// Whether the text of a refusal is about connecting too often.
pub(super) fn is_too_often(words: &str) -> bool {
    const PHRASES: &[&str] = &[
        "block",
        "blocked",
        "exceeded",
        "flood",
        "flooding",
        "frequent",
        "frequently",
        "limit",
        "limited",
        "limits",
        "locked",
        "lockout",
        "many",
        "often",
        "throttled",
        "wait",
    ];
    words
        .split(|c: char| !c.is_ascii_alphabetic())
        .any(|word| PHRASES.contains(&word.to_ascii_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_for_connecting_too_often_are_recognised() {
        for words in [
            "You are connecting too often",
            "Too many connections, try again later",
            "Connection LIMIT reached",
            "rate-limit",
            "This address is blocked for a week.",
            "Please wait 5 minutes",
        ] {
            assert!(is_too_often(words), "{words}");
        }
        for words in [
            "Unknown user",
            "Password incorrect",
            "No such tunnel T42",
            "Down for maintenance, back at 12:00",
            "",
        ] {
            assert!(!is_too_often(words), "{words}");
        }
    }

    #[test]
    fn words_are_cleaned() {
        assert_eq!(printable(" a\x1b[31m\r\x07b\u{9b} "), "a [31m  b");
        assert_eq!(printable(&"é".repeat(201)), "é".repeat(200) + "…");
    }

    #[test]
    fn the_clock_says_how_much_and_which_way() {
        let error = |ahead| Error {
            stage: Stage::Clock,
            problem: Problem::Clock { ahead },
        };
        assert_eq!(
            error(3600).to_string(),
            "comparing clocks: this host's clock is 3600 s ahead of the server's, and 120 s is \
             the most that it accepts; set it, best by NTP"
        );
        assert!(
            error(-121)
                .to_string()
                .contains("is 121 s behind the server's")
        );
    }

    #[test]
    fn each_problem_has_its_reaction() {
        let words = || "words".to_owned();
        for (problem, class) in [
            (Problem::TooOften(words()), Class::TooOften),
            (Problem::Unavailable(words()), Class::Unavailable),
            (Problem::Refused(words()), Class::Refused),
            (Problem::NoTunnels, Class::Refused),
            (Problem::SeveralTunnels(vec![words()]), Class::Refused),
            (Problem::Login("words"), Class::Refused),
            (Problem::Clock { ahead: 121 }, Class::Clock),
            (Problem::NoTls(words()), Class::Tls),
            (Problem::UnexpectedData, Class::Garbage),
            (Problem::TooMuchData("a line", 1, "bytes"), Class::Garbage),
            (Problem::Garbage(words()), Class::Garbage),
            (Problem::Closed, Class::Garbage),
        ] {
            let stage = Stage::Login;
            assert_eq!(Error { stage, problem }.class(), class);
        }
    }

    #[test]
    fn each_stage_has_a_name_of_its_own() {
        use Stage::{
            Authenticate, Challenge, Client, Clock, Greeting, List, Login, Show, StartTls, Username,
        };
        let all = [
            Login,
            Greeting,
            Client,
            Clock,
            StartTls,
            Username,
            Challenge,
            Authenticate,
            List,
            Show,
        ];
        let names: std::collections::BTreeSet<_> = all.iter().map(Stage::to_string).collect();
        assert_eq!(names.len(), all.len());
        assert!(!names.contains(""));
        let problem = Problem::Closed;
        let error = Error {
            stage: Login,
            problem,
        };
        assert_eq!(error.to_string(), "login: the server closed the connection");
    }

    #[test]
    fn a_text_of_the_limit_is_shown_whole() {
        let most = "é".repeat(MAX_CHARS);
        assert_eq!(printable(&most), most);
        assert_eq!(printable(&format!("  {most}  ")), most);
    }
}
