//! Who asks a TIC server, and what for.

use super::error::{Error, Problem, Stage};
use crate::secret::Secret;

/// Who logs in.
#[derive(Clone, Debug)]
pub struct Login {
    /// The user's name at the broker.
    pub username: String,
    /// The password that goes with it.
    pub password: Secret,
    /// Whether to give up rather than go on in clear.
    pub require_tls: bool,
    /// Who we say we are.
    pub agent: Agent,
}

/// What the program says of itself and its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// The program.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The operating system.
    pub os: String,
    /// Its release.
    pub release: String,
}

/// What is wanted of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The parameters of a tunnel: this one, or the only one.
    Parameters {
        /// Which one.
        tunnel_id: Option<String>,
    },
    /// The account's tunnels.
    Tunnels,
    /// The broker's servers.
    Pops,
}

/// Whether all of it can be sent: what goes into a line must not end it.
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
