//! Accounts at brokers, by which a tunnel's parameters are to be had.

use std::path::Path;

use zeroize::Zeroizing;

use crate::{
    aiccu::{self, Aiccu},
    types::IfName,
};

/// Gives the bytes of another file, or says why not.
pub type Files<'a> = &'a dyn Fn(&str) -> Result<Zeroizing<Vec<u8>>, String>;

/// The files that a configuration refers to.
#[derive(Clone, Copy)]
pub(super) struct Includes<'a> {
    /// Where the configuration stands, and relative paths begin.
    pub(super) directory: &'a Path,
    pub(super) read: Files<'a>,
}

impl Includes<'_> {
    /// A path as it is to be used, from one in the configuration.
    pub(super) fn path(self, file: &str) -> String {
        self.directory.join(file).display().to_string()
    }
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The file that it stands in.
    pub file: String,
    /// What the file says.
    pub aiccu: Aiccu,
    /// How to talk to the TIC server.
    pub tls: Tls,
}

impl Account {
    /// What stands in the file and has no effect on the tunnel of this name.
    pub(super) fn notes(&self, name: &IfName) -> Vec<String> {
        let mut notes: Vec<_> = self.aiccu.notes.iter().map(ToString::to_string).collect();
        if self.aiccu.interface != *name {
            notes.push(format!(
                "ipv6_interface {} has no effect: the tunnel is called {name}",
                self.aiccu.interface
            ));
        }
        notes
            .iter()
            .map(|note| format!("{}: {note}", self.file))
            .collect()
    }
}

/// TLS with a TIC server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The file with the authority that vouches for it; `None`: the system's authorities.
    pub ca: Option<String>,
    /// Whether its certificate is checked.
    pub verify: bool,
}

/// Reads an aiccu.conf; otherwise returns all that is wrong with it.
pub(super) fn read(file: String, tls: Tls, includes: Includes<'_>) -> Result<Account, Vec<String>> {
    let bytes = (includes.read)(&file).map_err(|reason| vec![reason])?;
    match aiccu::parse(&file, &bytes) {
        Ok(aiccu) => Ok(Account { file, aiccu, tls }),
        Err(invalid) => {
            let diagnostics = invalid.diagnostics.iter();
            Err(diagnostics.map(|one| format!("{file}: {one}")).collect())
        }
    }
}
