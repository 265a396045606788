//! Reloads of the configuration file, and their previews.

use serde::{Deserialize, Serialize};

/// A request to reload the configuration file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reload {
    /// Time limit for the confirmation; without it the daemon reverts. `null`: no confirmation needed.
    #[serde(default)]
    pub confirm_within_seconds: Option<u64>,
}

/// A request for a preview of a reload.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CheckReload {
    /// Another file than the daemon's, as the client reads it; `null`: the daemon's file.
    #[serde(default)]
    pub instead: Option<ConfigText>,
}

/// A configuration file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConfigText {
    /// Its absolute path. Messages name it, and relative paths in the text start at its directory.
    pub file: String,
    /// Its contents.
    pub text: String,
}

/// The changes that a reload would make.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Preview {
    /// Errors in the file; if there are any, all other fields are empty.
    pub faults: Vec<String>,
    /// Changes of tunnels.
    pub tunnels: TunnelChanges,
    /// Changed keys outside of tunnels.
    pub settings: Vec<String>,
    /// Changes of guarded interfaces.
    pub uplinks: UplinkChanges,
    /// Connects that the reload needs, by broker.
    pub connects: Vec<ConnectsNeeded>,
    /// Shell commands.
    pub commands: Vec<String>,
    /// Problems, as messages.
    pub problems: Vec<String>,
}

impl Preview {
    /// Whether there are no changes and no errors.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        let TunnelChanges {
            added,
            removed,
            restarted,
            altered,
        } = &self.tunnels;
        let UplinkChanges { guarded, released } = &self.uplinks;
        let lists = [
            &self.faults,
            added,
            removed,
            restarted,
            altered,
            &self.settings,
            guarded,
            released,
            &self.commands,
            &self.problems,
        ];
        self.connects.is_empty() && lists.iter().all(|list| list.is_empty())
    }
}

/// Names of tunnels, by change.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TunnelChanges {
    /// New tunnels.
    pub added: Vec<String>,
    /// Removed tunnels.
    pub removed: Vec<String>,
    /// Tunnels that restart with new settings.
    pub restarted: Vec<String>,
    /// Tunnels that keep running, with other rules, routes or checks.
    pub altered: Vec<String>,
}

/// Names of interfaces, by change.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UplinkChanges {
    /// Interfaces where a program is attached.
    pub guarded: Vec<String>,
    /// Interfaces where it is detached.
    pub released: Vec<String>,
}

/// Connects that a broker would get.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConnectsNeeded {
    /// The broker.
    pub broker: String,
    /// Number of connects.
    pub connects: u32,
    /// Number of connects that are allowed now.
    pub left: u32,
    /// The time of day when the next connect is allowed, if `left` is too small; `null`: now.
    pub next: Option<String>,
}
