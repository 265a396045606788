//! Paths and names that a run uses.

use std::{
    path::{self, Path, PathBuf},
    process::Command,
};

/// The paths that a run uses. Instances with different paths do not conflict.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The configuration file.
    pub config: PathBuf,
    /// Directory for the control socket and the lock.
    pub run_dir: PathBuf,
    /// Directory for data that outlives a reboot.
    pub state_dir: PathBuf,
    /// Directory for pinned maps and links.
    pub pin_dir: PathBuf,
    /// Directory where `ip` reads names of routing tables.
    pub rt_tables_dir: PathBuf,
    /// The group whose members may read, but not change anything.
    pub group: String,
}

/// The absolute path, as text.
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

    /// The lock that prevents a second daemon.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.run_dir.join("lock")
    }

    /// The log of a daemon that was started on demand.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.run_dir.join("log")
    }

    /// Sets the environment of another process of this program, so that it uses the same paths.
    pub(crate) fn pass_on(&self, command: &mut Command) {
        command
            .env("SIXXS_CONFIG", &self.config)
            .env("SIXXS_RUN_DIR", &self.run_dir)
            .env("SIXXS_STATE_DIR", &self.state_dir)
            .env("SIXXS_PIN_DIR", &self.pin_dir)
            .env("SIXXS_RT_TABLES_DIR", &self.rt_tables_dir)
            .env("SIXXS_GROUP", &self.group);
    }

    /// The file with the names of the routing tables of sixxs.
    #[must_use]
    pub fn table_names(&self) -> PathBuf {
        self.rt_tables_dir.join(sixxs_core::table_names::FILE)
    }
}
