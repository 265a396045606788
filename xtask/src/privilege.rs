//! Owns the privileges of this process, and commands that run as root.

use std::{ffi::OsStr, process::Command};

use crate::process;

/// What this process may do without asking anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Privilege {
    /// We are root.
    Root,
    /// sudo works without a password.
    Sudo,
    /// Neither.
    None,
}

impl Privilege {
    /// Asks the kernel, then sudo (which is not allowed to prompt).
    pub(crate) fn find() -> Self {
        if is_root() {
            Self::Root
        } else if process::ask(Command::new("sudo").args(["-n", "true"])).is_some() {
            Self::Sudo
        } else {
            Self::None
        }
    }
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

/// `program` as root, with `variables` in its environment; through sudo (which may ask for the
/// password on the terminal) if we are not root.
pub(crate) fn as_root(program: impl AsRef<OsStr>, variables: &[(&str, &OsStr)]) -> Command {
    if is_root() {
        let mut command = Command::new(program);
        command.envs(variables.iter().copied());
        return command;
    }
    // sudo clears the environment; env(1) behind it sets what is needed.
    let mut command = Command::new("sudo");
    command.arg("env");
    for (name, value) in variables {
        let mut assignment = std::ffi::OsString::from(name);
        assignment.push("=");
        assignment.push(value);
        command.arg(assignment);
    }
    command.arg(program);
    command
}
