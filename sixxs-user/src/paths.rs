//! Where things are, and what they are called.

use std::{
    path::{self, Path, PathBuf},
    process::Command,
};

/// The places that a run uses. Instances whose places differ do not meet.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The configuration file.
    pub config: PathBuf,
    /// For the control socket and the lock.
    pub run_dir: PathBuf,
    /// For what outlives a reboot.
    pub state_dir: PathBuf,
    /// For pinned maps and links.
    pub pin_dir: PathBuf,
    /// Where `ip` looks for names of tables.
    pub rt_tables_dir: PathBuf,
    /// The group whose members may look, but not change.
    pub group: String,
}

/// A path as it is from everywhere.
#[must_use]
pub fn absolute(path: &Path) -> String {
    let absolute = path::absolute(path);
    absolute
        .unwrap_or_else(|_| path.to_owned())
        .display()
        .to_string()
}

impl Paths {
    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }

    /// The lock that keeps a second daemon away.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.run_dir.join("lock")
    }

    /// What a daemon that was started on demand says.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.run_dir.join("log")
    }

    /// Lets another process of this program use the same places.
    pub(crate) fn pass_on(&self, command: &mut Command) {
        command
            .env("SIXXS_CONFIG", &self.config)
            .env("SIXXS_RUN_DIR", &self.run_dir)
            .env("SIXXS_STATE_DIR", &self.state_dir)
            .env("SIXXS_PIN_DIR", &self.pin_dir)
            .env("SIXXS_RT_TABLES_DIR", &self.rt_tables_dir)
            .env("SIXXS_GROUP", &self.group);
    }

    /// The file with our tables' names.
    #[must_use]
    pub fn table_names(&self) -> PathBuf {
        self.rt_tables_dir.join(sixxs_core::table_names::FILE)
    }
}
