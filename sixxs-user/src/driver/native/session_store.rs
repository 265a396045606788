//! Sessions with brokers, saved for the next run of the daemon, so that a restart is no connect.
//!
//! A file per tunnel in `RUN_DIR/ways/NAME`, which does not outlive a reboot.

use std::{
    fs, io,
    net::Ipv6Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sixxs_core::types::IfName;
use tracing::debug;

use super::broker_path::BrokerPath;
use crate::host::files;

/// Limit of a file. A session takes some 250 bytes.
const MAX_BYTES: usize = 4096;

/// The directory of saved sessions.
#[derive(Clone, Debug)]
pub(crate) struct SessionStore {
    directory: PathBuf,
}

/// A session with a broker. Times are since boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedSession {
    /// The path to the broker.
    #[serde(rename = "way")]
    pub(super) path: BrokerPath,
    /// The local port; 0 if it does not matter.
    pub(super) port: u16,
    /// The broker, as the configuration names it.
    pub(super) remote: String,
    /// The address of the tunnel, by which the broker knows it.
    pub(super) address: Ipv6Addr,
    /// When the broker last knew this tunnel.
    pub(super) known: Duration,
    /// Until when the session can be resumed.
    pub(super) until: Duration,
    /// When the next heartbeat is due.
    pub(super) due: Duration,
}

impl SessionStore {
    /// The store in the run directory.
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self {
            directory: run_dir.join("ways"),
        }
    }

    /// The session of a tunnel, if it can still be resumed. An unreadable file counts as none.
    pub(super) fn load(
        &self,
        name: &IfName,
        remote: &str,
        address: Ipv6Addr,
        now: Duration,
    ) -> Option<SavedSession> {
        let text = fs::read_to_string(self.directory.join(name.as_str())).ok()?;
        let text = Some(text).filter(|text| text.len() <= MAX_BYTES)?;
        let saved: SavedSession = serde_json::from_str(&text).ok()?;
        let is_valid = saved.remote == remote && saved.address == address && now < saved.until;
        is_valid.then_some(saved)
    }

    /// Saves a session in place of the last one. Without the file a restart only takes longer.
    pub(super) fn save(&self, name: &IfName, session: &SavedSession) {
        let save = || -> anyhow::Result<()> {
            fs::create_dir_all(&self.directory)
                .with_context(|| format!("create {}", self.directory.display()))?;
            let text = serde_json::to_string(session)?;
            // No interface has this name: it is too long.
            let draft = self.directory.join(format!("{name}.interface.new"));
            let written = fs::write(&draft, text)
                .and_then(|()| fs::rename(&draft, self.directory.join(name.as_str())));
            files::remove_draft_on_error(&draft, written)
                .with_context(|| format!("write {}", draft.display()))
        };
        if let Err(error) = save() {
            debug!("{name}: save the session with the broker: {error:#}");
        }
    }

    /// Removes the session of a tunnel.
    pub(super) fn remove(&self, name: &IfName) {
        if let Err(error) = files::remove_if_exists(&self.directory.join(name.as_str())) {
            debug!("{name}: remove the session with the broker: {error:#}");
        }
    }

    /// Removes all sessions.
    pub(crate) fn remove_all(&self) -> anyhow::Result<()> {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.directory.display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_matching_session_is_resumed() {
        let directory = tempfile::tempdir().unwrap();
        let store = SessionStore::new(directory.path());
        let name = "sixxs0".parse().unwrap();
        let address = "2001:db8:a::2".parse().unwrap();
        let saved = SavedSession {
            path: BrokerPath {
                remote: "198.51.100.1".parse().unwrap(),
                source: "192.0.2.10".parse().unwrap(),
            },
            port: 40000,
            remote: "pop.example.net".to_owned(),
            address,
            known: Duration::from_secs(90),
            until: Duration::from_millis(100_500),
            due: Duration::from_secs(110),
        };
        let load = |remote: &str, address, seconds| {
            store.load(&name, remote, address, Duration::from_secs(seconds))
        };
        assert_eq!(load("pop.example.net", address, 100), None);
        store.save(&name, &saved);
        assert_eq!(load("pop.example.net", address, 100), Some(saved.clone()));
        assert_eq!(load("pop.example.net", address, 101), None);
        assert_eq!(load("198.51.100.1", address, 100), None);
        assert_eq!(
            load("pop.example.net", "2001:db8:a::3".parse().unwrap(), 100),
            None
        );
        fs::write(directory.path().join("ways/sixxs0"), "garbage").unwrap();
        assert_eq!(load("pop.example.net", address, 100), None);
        store.save(&name, &saved);
        store.remove(&name);
        assert_eq!(load("pop.example.net", address, 100), None);
        store.remove_all().unwrap();
        store.remove_all().unwrap();
        assert!(!directory.path().join("ways").exists());
    }
}
