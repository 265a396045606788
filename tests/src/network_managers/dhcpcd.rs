//! The real dhcpcd in a lab, as a DHCPv6 client.

use std::fs;

use anyhow::{Context as _, Result, bail};

use super::{Process, Sandbox, make_directory};
use crate::lab::Lab;

/// The lab's host with a dhcpcd that may run.
#[derive(Debug)]
pub struct Dhcpcd {
    process: Option<Process>,
    sandbox: Sandbox,
}

impl Dhcpcd {
    /// Prepares one that gets addresses and a router by `uplink`, and a prefix for the network at `lan`; does not start it.
    pub fn new(lab: &Lab, uplink: &str, lan: &str) -> Result<Self> {
        let sandbox = Sandbox::new(lab)?;
        make_directory(&sandbox.run("dhcpcd"))?;
        // Without privilege separation, which needs a user of its own, and without udev.
        let settings = format!(
            "noipv4\nduid\nnodev\nallowinterfaces {uplink} {lan}\ninterface {uplink}\n \
             ipv6rs\n iaid 1\n ia_pd 1 {lan}/1/64\n"
        );
        fs::write(sandbox.etc("dhcpcd.conf"), settings).context("write its settings")?;
        Ok(Self {
            process: None,
            sandbox,
        })
    }

    /// Starts it. It takes some seconds to get a lease.
    pub fn start(&mut self, uplink: &str) -> Result<()> {
        let mut command = self.sandbox.command("dhcpcd");
        command.args([
            "--nobackground",
            "--debug",
            "--config",
            "/etc/dhcpcd.conf",
            // No hooks, which set host names and resolvers.
            "--script",
            "/bin/true",
            uplink,
        ]);
        let log = self.sandbox.directory.join("dhcpcd.log");
        self.process = Some(Process::start(command, &log)?);
        Ok(())
    }

    /// Stops it as an init system does.
    pub fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.stop(),
            None => bail!("dhcpcd does not run"),
        }
    }
}
