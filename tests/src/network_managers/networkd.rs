//! The real systemd-networkd in a lab, started, stopped, reloaded and reconfigured as systemd and
//! `networkctl` do it.

use std::fs;

use anyhow::{Context as _, Result, bail};
use nix::unistd::{User, chown};

use super::{LIMIT, Process, Sandbox, make_directory};
use crate::lab::Lab;
use crate::lab::mounts::Mounts;
use crate::lab::netns::Namespace;
use crate::lab::topology::{HOST, HOST4, TunnelPlan, UPLINK};
use crate::wait;

/// Not in any PATH.
const NETWORKD: &str = "/lib/systemd/systemd-networkd";
/// The user to which it changes.
const USER: &str = "systemd-network";

/// The .network file of the uplink, with the lab's addresses.
pub fn uplink() -> String {
    format!(
        "[Match]\nName={UPLINK}\n\n\
         [Network]\nAddress={HOST}/64\nGateway=2001:db8:1::fe\n\
         Address={HOST4}/24\nGateway=192.0.2.1\nIPv6AcceptRA=no\n"
    )
}

/// A .network file that also makes networkd manage the tunnel's interface.
pub fn tunnel(plan: &TunnelPlan) -> String {
    format!(
        "[Match]\nName={}\n\n[Network]\nAddress={}/64\nIPv6AcceptRA=no\n",
        plan.interface, plan.address
    )
}

/// The lab's host with a systemd-networkd that may run.
#[derive(Debug)]
pub struct Networkd {
    process: Option<Process>,
    host: Namespace,
    sandbox: Sandbox,
}

impl Networkd {
    /// Writes these .network files, by name; does not start it.
    pub fn new(lab: &Lab, files: &[(&str, String)]) -> Result<Self> {
        let sandbox = Sandbox::new(lab)?;
        make_directory(&sandbox.etc("systemd/network"))?;
        let networkd = Self {
            process: None,
            host: lab.host().clone(),
            sandbox,
        };
        for (name, text) in files {
            networkd.configure(name, text)?;
        }
        Ok(networkd)
    }

    /// Its mount namespace; programs that read its configuration have to run in it.
    pub fn mounts(&self) -> Mounts {
        self.sandbox.mounts.clone()
    }

    /// Adds or changes a .network file; networkd reads it when it is reloaded.
    pub fn configure(&self, name: &str, text: &str) -> Result<()> {
        // The file has to be readable for networkd's user.
        let path = self.sandbox.etc("systemd/network").join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    /// Writes settings to networkd.conf.d; networkd reads them when it starts.
    pub fn settings(&self, text: &str) -> Result<()> {
        let directory = self.sandbox.run("systemd/networkd.conf.d");
        fs::create_dir_all(&directory).context("make networkd.conf.d")?;
        fs::write(directory.join("lab.conf"), text).context("write networkd.conf.d")
    }

    /// Starts it and waits until it has set up the `managed` interfaces.
    pub fn start(&mut self, managed: &[&str]) -> Result<()> {
        self.make_runtime_directory()?;
        let command = self.sandbox.command(NETWORKD);
        let log = self.sandbox.directory.join("networkd.log");
        self.process = Some(Process::start(command, &log)?);
        self.is_configured(managed)
    }

    /// Makes the runtime directory for networkd's user, like systemd's `RuntimeDirectory=`, and removes the
    /// interface state of an earlier run.
    fn make_runtime_directory(&self) -> Result<()> {
        let user = User::from_name(USER).context("look a user up")?;
        let user = user.with_context(|| format!("there is no user {USER}"))?;
        let top = self.sandbox.run("systemd/netif");
        if top.exists() {
            fs::remove_dir_all(&top).context("forget an earlier networkd")?;
        }
        for path in ["", "links", "leases", "lldp"] {
            let path = top.join(path);
            fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
            chown(&path, Some(user.uid), Some(user.gid))
                .with_context(|| format!("give {} to {USER}", path.display()))?;
        }
        Ok(())
    }

    /// Whether it was started and not stopped since.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Stops it as systemd does.
    pub fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.stop(),
            None => bail!("networkd does not run"),
        }
    }

    /// `networkctl VERB…`.
    pub fn networkctl(&self, arguments: &[&str]) -> Result<String> {
        self.sandbox.sh("networkctl", arguments)
    }

    /// Waits until these interfaces are set up.
    pub fn is_configured(&self, interfaces: &[&str]) -> Result<()> {
        for name in interfaces {
            let index = self.host.run(|| {
                nix::net::if_::if_nametoindex(*name).with_context(|| format!("find {name}"))
            })?;
            let path = self.sandbox.run(&format!("systemd/netif/links/{index}"));
            let state = || Ok(fs::read_to_string(&path).unwrap_or_default());
            let what = format!("networkd has set {name} up");
            let is_configured = |state: &String| state.contains("ADMIN_STATE=configured");
            wait::until(&what, LIMIT, state, is_configured).with_context(|| self.log())?;
        }
        Ok(())
    }

    /// Its output.
    pub fn log(&self) -> String {
        fs::read_to_string(self.sandbox.directory.join("networkd.log")).unwrap_or_default()
    }

    /// The version that `networkctl` prints.
    pub fn version(&self) -> Result<String> {
        let printed = self.networkctl(&["--version"])?;
        Ok(printed.lines().next().unwrap_or_default().to_owned())
    }
}
