//! The stages of a TIC dialogue.

use std::fmt;

/// The stage of a dialogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before the first command.
    Login,
    /// The server's first line.
    Greeting,
    /// `client …`
    Client,
    /// `get unixtime`
    Clock,
    /// `starttls`
    StartTls,
    /// `username …`
    Username,
    /// `challenge md5`
    Challenge,
    /// `authenticate md5 …`
    Authenticate,
    /// `tunnel list` or `pop list`
    List,
    /// `tunnel show …`
    Show,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Login => "login",
            Self::Greeting => "greeting",
            Self::Client => "introduction",
            Self::Clock => "comparing clocks",
            Self::StartTls => "starting TLS",
            Self::Username => "user name",
            Self::Challenge => "challenge",
            Self::Authenticate => "password",
            Self::List => "list",
            Self::Show => "tunnel parameters",
        })
    }
}
