//! A provider's DHCPv6 server that delegates prefixes, by Kea.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::lab::netns::Namespace;

/// A running server. It forgets its leases when it ends.
#[derive(Debug)]
pub struct DelegatingServer {
    child: Child,
}

impl DelegatingServer {
    /// Delegates prefixes of `bits` bits out of `pool` by an interface whose network is `subnet`. `directory` is for its
    /// files.
    pub fn start(
        at: &Namespace,
        interface: &str,
        directory: &Path,
        subnet: &str,
        (pool, bits): (&str, u8),
    ) -> Result<Self> {
        let (prefix, prefix_bits) = pool.split_once('/').context("a prefix with a length")?;
        let prefix_bits: u8 = prefix_bits.parse().context("a length")?;
        let config = json!({ "Dhcp6": {
            "interfaces-config": { "interfaces": [interface] },
            "lease-database": { "type": "memfile", "persist": false },
            "server-id": { "type": "EN", "enterprise-id": 0, "identifier": "0102", "persist": false },
            // Clients renew soon, so that a changed prefix reaches them during a test.
            "renew-timer": 3,
            "rebind-timer": 5,
            "preferred-lifetime": 300,
            "valid-lifetime": 600,
            "subnet6": [{
                "id": 1,
                "subnet": subnet,
                "interface": interface,
                "pd-pools": [{ "prefix": prefix, "prefix-len": prefix_bits, "delegated-len": bits }]
            }]
        } });
        let file = |suffix: &str| directory.join(format!("{}-kea.{suffix}", at.name()));
        fs::write(file("json"), config.to_string()).context("write Kea's configuration")?;
        let log = File::create(file("log")).context("make Kea's log")?;
        let mut command = at.command("kea-dhcp6");
        command
            .arg("-c")
            .arg(file("json"))
            .env("KEA_PIDFILE_DIR", directory)
            .env("KEA_LOCKFILE_DIR", "none")
            .env("KEA_LOGGER_DESTINATION", "stdout")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("open Kea's log once more")?)
            .stderr(log);
        Ok(Self {
            child: command.spawn().context("start Kea")?,
        })
    }
}

impl Drop for DelegatingServer {
    fn drop(&mut self) {
        // It has nothing to write: its leases are in memory.
        let _killed = self.child.kill();
        let _ended = self.child.wait();
    }
}
