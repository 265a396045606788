//! The real NetworkManager in a lab, with connections from keyfiles, controlled by `nmcli`.
//!
//! It need not be installed, and should not be, since it would then manage the machine. It runs from a
//! directory with its unpacked packages.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{LIMIT, Process, Sandbox, make_directory};
use crate::lab::Lab;
use crate::lab::mounts::Mounts;
use crate::lab::native::write_secret;
use crate::lab::topology::{HOST, HOST4, TunnelPlan, UPLINK};
use crate::{deb_programs, shell, wait};

/// Settings: default, but for paths and DNS, which must not affect the machine.
const SETTINGS: &str = "[main]\nplugins=keyfile\ndns=none\nrc-manager=unmanaged\n\n\
     [keyfile]\npath=/run/nm/connections\n";

/// The keyfile of the uplink, with the lab's addresses.
pub fn uplink() -> String {
    format!(
        "[connection]\nid={UPLINK}\ntype=ethernet\ninterface-name={UPLINK}\n\
         uuid=00000000-0000-4000-8000-000000000001\n\
         [ipv4]\nmethod=manual\naddress1={HOST4}/24,192.0.2.1\n\
         [ipv6]\nmethod=manual\naddress1={HOST}/64,2001:db8:1::fe\n"
    )
}

/// A keyfile that also makes NetworkManager manage a tunnel's interface, a TUN device.
pub fn tunnel(plan: &TunnelPlan) -> String {
    let name = plan.interface;
    format!(
        "[connection]\nid={name}\ntype=tun\ninterface-name={name}\n\
         uuid=00000000-0000-4000-8000-000000000002\n\
         [tun]\n[ipv4]\nmethod=disabled\n\
         [ipv6]\nmethod=manual\naddress1={}/64\n",
        plan.address
    )
}

/// The lab's host with a NetworkManager that may run.
#[derive(Debug)]
pub struct NetworkManager {
    process: Option<Process>,
    /// Directory with its unpacked packages.
    root: PathBuf,
    sandbox: Sandbox,
}

impl NetworkManager {
    /// Writes these keyfiles; does not start it.
    pub fn new(lab: &Lab, keyfiles: &[String]) -> Result<Self> {
        let root = deb_programs::root(
            "SIXXS_NETWORK_MANAGER",
            "network-manager",
            "usr/sbin/NetworkManager",
        )?;
        let sandbox = Sandbox::new(lab)?;
        for path in ["NetworkManager", "nm/connections", "nm/empty"] {
            make_directory(&sandbox.run(path))?;
        }
        make_directory(&sandbox.etc("NetworkManager/conf.d"))?;
        let settings = sandbox.etc("NetworkManager/NetworkManager.conf");
        fs::write(settings, SETTINGS).context("write its settings")?;
        for (number, text) in keyfiles.iter().enumerate() {
            let path = format!("nm/connections/{number}.nmconnection");
            write_secret(sandbox.run(&path), text)?;
        }
        Ok(Self {
            process: None,
            root,
            sandbox,
        })
    }

    /// Starts it and waits until these interfaces are set up.
    pub fn start(&mut self, managed: &[&str]) -> Result<()> {
        let mut command = self.command("sbin/NetworkManager");
        command.args([
            "--no-daemon",
            "--config=/etc/NetworkManager/NetworkManager.conf",
            "--config-dir=/etc/NetworkManager/conf.d",
            "--system-config-dir=/run/nm/empty",
            "--intern-config=/run/nm/intern.conf",
            "--state-file=/run/nm/state",
            "--pid-file=/run/nm/pid",
        ]);
        let log = self.sandbox.directory.join("network-manager.log");
        self.process = Some(Process::start(command, &log)?);
        self.is_connected(managed)
    }

    /// Stops it as systemd does.
    pub fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.stop(),
            None => bail!("NetworkManager does not run"),
        }
    }

    /// Its mount namespace; programs that read its configuration have to run in it.
    pub fn mounts(&self) -> Mounts {
        self.sandbox.mounts.clone()
    }

    /// Environment variables with which the unpacked `nmcli` runs as an ordinary command.
    pub fn environment(&self) -> [(&'static str, PathBuf); 2] {
        deb_programs::environment(&self.root, "bin")
    }

    /// `nmcli WORD…`.
    pub fn nmcli(&self, arguments: &[&str]) -> Result<String> {
        shell::capture(self.command("bin/nmcli").args(arguments))
    }

    /// Waits until NetworkManager has activated connections on these interfaces.
    pub fn is_connected(&self, interfaces: &[&str]) -> Result<()> {
        let fields = ["--terse", "--fields", "DEVICE,STATE", "device"];
        for name in interfaces {
            let what = format!("NetworkManager has set {name} up");
            let line = format!("{name}:connected");
            let is_up = |printed: &String| printed.lines().any(|printed| printed == line);
            wait::until(&what, LIMIT, || self.nmcli(&fields), is_up).with_context(|| self.log())?;
        }
        Ok(())
    }

    /// Its output.
    pub fn log(&self) -> String {
        let path = self.sandbox.directory.join("network-manager.log");
        fs::read_to_string(path).unwrap_or_default()
    }

    /// The version that `nmcli` prints.
    pub fn version(&self) -> Result<String> {
        let printed = self.nmcli(&["--version"])?;
        Ok(printed.trim().to_owned())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.sandbox.command(self.root.join("usr").join(program));
        let libraries = deb_programs::libraries(&self.root);
        command.env("LD_LIBRARY_PATH", libraries).env("LC_ALL", "C");
        command
    }
}
