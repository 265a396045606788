//! Accounts at brokers, from which the daemon gets the parameters of a tunnel.

use std::{error::Error, path::Path};

use zeroize::Zeroizing;

use crate::{
    aiccu::{self, Aiccu},
    types::IfName,
};

/// Returns the bytes of another file, or the reason why it cannot be read.
pub type Files<'a> = &'a dyn Fn(&str) -> Result<Zeroizing<Vec<u8>>, Box<dyn Error>>;

/// The files that a configuration refers to.
#[derive(Clone, Copy)]
pub(super) struct Includes<'a> {
    /// The directory of the configuration file, at which relative paths begin.
    pub(super) directory: &'a Path,
    pub(super) read: Files<'a>,
}

impl Includes<'_> {
    /// The usable path for a path in the configuration.
    pub(super) fn path(self, file: &str) -> String {
        self.directory.join(file).display().to_string()
    }
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The path of the aiccu.conf.
    pub file: String,
    /// The contents of the file.
    pub aiccu: Aiccu,
    /// The TLS settings for the TIC server.
    pub tls: Tls,
}

impl Account {
    /// Notes about entries in the file that have no effect on the tunnel with this name.
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
    /// The file with the certificate of the authority for the server; `None`: the system's authorities.
    pub ca: Option<String>,
    /// Whether the server's certificate is verified.
    pub verify: bool,
}

/// Reads an aiccu.conf. The error lists all faults in it.
pub(super) fn read(file: String, tls: Tls, includes: Includes<'_>) -> Result<Account, Vec<String>> {
    let bytes = (includes.read)(&file).map_err(|reason| vec![reason.to_string()])?;
    match aiccu::parse(&file, &bytes) {
        Ok(aiccu) => Ok(Account { file, aiccu, tls }),
        Err(invalid) => {
            let diagnostics = invalid.diagnostics.iter();
            Err(diagnostics.map(|one| format!("{file}: {one}")).collect())
        }
    }
}
