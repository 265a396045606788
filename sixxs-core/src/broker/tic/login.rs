//! The parameters of a TIC dialogue: credentials and goal.

use super::{
    error::{Error, Problem},
    stage::Stage,
};
use crate::secret::Secret;

/// Credentials for a login.
#[derive(Clone, Debug)]
pub struct Login {
    /// The user's name at the broker.
    pub username: String,
    /// Its password.
    pub password: Secret,
    /// Whether to stop if the server does not offer TLS.
    pub require_tls: bool,
    /// The client's description of itself.
    pub agent: Agent,
}

/// The description of the program and its host that the client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// The program's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The operating system.
    pub os: String,
    /// Its release.
    pub release: String,
}

/// The data to request from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The parameters of the given tunnel, or of the only one.
    Parameters {
        /// The tunnel's id; `None`: the only tunnel.
        tunnel_id: Option<String>,
    },
    /// The account's tunnels.
    Tunnels,
    /// The broker's servers.
    Pops,
}

/// Checks that all values can be sent: no value may end its line.
pub(super) fn check(login: &Login, goal: &Goal) -> Result<(), Error> {
    let refuse = |words| {
        Err(Error {
            stage: Stage::Login,
            problem: Problem::Login(words),
        })
    };
    let is_line = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
    let is_word = |text: &str| is_line(text) && !text.contains(char::is_whitespace);
    if !is_line(&login.username) {
        return refuse("a user name has at least one character, and no control characters");
    }
    if let Goal::Parameters {
        tunnel_id: Some(id),
    } = goal
        && !is_word(id)
    {
        return refuse("a tunnel's id is one word");
    }
    let Agent {
        name,
        version,
        os,
        release,
    } = &login.agent;
    if ![name, version, os, release].into_iter().all(|w| is_word(w)) {
        return refuse("the names and versions of program and system are one word each");
    }
    Ok(())
}
