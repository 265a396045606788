//! What a run leaves to the next one, so that a restart is none for the broker: the way to it, and
//! the port that it knows us by. In `RUN_DIR/ways/NAME`, which does not outlive a reboot.

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

use super::way::Way;
use crate::removal;

/// Many times what a file takes.
const MAX_BYTES: usize = 4096;

/// The directory, in the run directory.
#[derive(Clone, Debug)]
pub(crate) struct Ways {
    directory: PathBuf,
}

/// How a broker was last reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The way.
    pub(super) way: Way,
    /// Our port; 0 where it does not matter.
    pub(super) port: u16,
    /// What the configuration says of the broker.
    pub(super) remote: String,
    /// Our address in the tunnel, by which the broker knows whose it is.
    pub(super) address: Ipv6Addr,
    /// When the broker was last known to know us; this and what follows in the time since boot.
    pub(super) known: Duration,
    /// Until when it will take us for the same.
    pub(super) until: Duration,
    /// When the next beat is due.
    pub(super) due: Duration,
}

impl Ways {
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self {
            directory: run_dir.join("ways"),
        }
    }

    /// What was kept of a tunnel, if it is still good. What cannot be read is as good as none.
    pub(super) fn load(
        &self,
        name: &IfName,
        remote: &str,
        address: Ipv6Addr,
        now: Duration,
    ) -> Option<Kept> {
        let text = fs::read_to_string(self.directory.join(name.as_str())).ok()?;
        let text = Some(text).filter(|text| text.len() <= MAX_BYTES)?;
        let kept: Kept = serde_json::from_str(&text).ok()?;
        let is_good = kept.remote == remote && kept.address == address && now < kept.until;
        is_good.then_some(kept)
    }

    /// Keeps it, in the place of what was there. Without it a restart takes longer, and no more.
    pub(super) fn save(&self, name: &IfName, kept: &Kept) {
        let save = || -> anyhow::Result<()> {
            fs::create_dir_all(&self.directory)
                .with_context(|| format!("create {}", self.directory.display()))?;
            let text = serde_json::to_string(kept)?;
            // Names of interfaces have no slash, and `.new` is longer than any may be.
            let draft = self.directory.join(format!("{name}.interface.new"));
            let written = fs::write(&draft, text)
                .and_then(|()| fs::rename(&draft, self.directory.join(name.as_str())));
            removal::unfinished(&draft, written)
                .with_context(|| format!("write {}", draft.display()))
        };
        if let Err(error) = save() {
            debug!("{name}: keep the way to the broker: {error:#}");
        }
    }

    /// Forgets a tunnel's.
    pub(super) fn remove(&self, name: &IfName) {
        if let Err(error) = removal::file(&self.directory.join(name.as_str())) {
            debug!("{name}: forget the way to the broker: {error:#}");
        }
    }

    /// Forgets all.
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
    fn only_what_fits_is_used_again() {
        let directory = tempfile::tempdir().unwrap();
        let ways = Ways::new(directory.path());
        let name = "sixxs0".parse().unwrap();
        let address = "2001:db8:a::2".parse().unwrap();
        let kept = Kept {
            way: Way {
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
            ways.load(&name, remote, address, Duration::from_secs(seconds))
        };
        assert_eq!(load("pop.example.net", address, 100), None);
        ways.save(&name, &kept);
        assert_eq!(load("pop.example.net", address, 100), Some(kept.clone()));
        assert_eq!(load("pop.example.net", address, 101), None);
        assert_eq!(load("198.51.100.1", address, 100), None);
        assert_eq!(
            load("pop.example.net", "2001:db8:a::3".parse().unwrap(), 100),
            None
        );
        fs::write(directory.path().join("ways/sixxs0"), "garbage").unwrap();
        assert_eq!(load("pop.example.net", address, 100), None);
        ways.save(&name, &kept);
        ways.remove(&name);
        assert_eq!(load("pop.example.net", address, 100), None);
        ways.remove_all().unwrap();
        ways.remove_all().unwrap();
        assert!(!directory.path().join("ways").exists());
    }
}
