//! Router advertisements of a provider, by radvd.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

use crate::lab::netns::Namespace;

/// A prefix in the advertisements.
#[derive(Clone, Copy, Debug)]
pub struct Advertised {
    /// The prefix.
    pub prefix: &'static str,
    /// Time for which new connections use its addresses, in seconds.
    pub preferred: u32,
}

/// A running radvd.
#[derive(Debug)]
pub struct Advertiser {
    child: Child,
}

impl Advertiser {
    /// Advertises prefixes, and a default router for `lifetime` seconds, by an interface. `directory` is for its files.
    pub fn start(
        at: &Namespace,
        interface: &str,
        directory: &std::path::Path,
        lifetime: u32,
        prefixes: &[Advertised],
    ) -> Result<Self> {
        let mut text = format!(
            "interface {interface} {{\n AdvSendAdvert on;\n MinRtrAdvInterval 3;\n MaxRtrAdvInterval 4;\n \
             AdvDefaultLifetime {lifetime};\n"
        );
        for Advertised { prefix, preferred } in prefixes {
            text += &format!(
                " prefix {prefix} {{ AdvOnLink on; AdvAutonomous on; AdvValidLifetime 600; \
                 AdvPreferredLifetime {preferred}; }};\n"
            );
        }
        text += "};\n";
        let file = |suffix: &str| directory.join(format!("{}-radvd.{suffix}", at.name()));
        std::fs::write(file("conf"), text).context("write radvd's configuration")?;
        let mut command: Command = at.command("radvd");
        command
            .args(["--nodaemon", "--logmethod", "stderr", "--config"])
            .arg(file("conf"))
            .arg("--pidfile")
            .arg(file("pid"))
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        Ok(Self {
            child: command.spawn().context("start radvd")?,
        })
    }
}

impl Drop for Advertiser {
    fn drop(&mut self) {
        // By a signal that it handles, it would announce its end; a provider that fails does not.
        let _killed = self.child.kill();
        let _ended = self.child.wait();
    }
}
