//! The program itself at the broker's end of a 6in4 tunnel, for what the lab's own broker cannot do: it segments
//! every packet, and is a process.

use std::fs;

use anyhow::{Context as _, Result};

use crate::lab::dirs::Paths;
use crate::lab::topology::{HOST4, TunnelPlan};
use crate::lab::{Lab, Tunnel};
use crate::program::{Daemon, Hook, Program};

/// The program at the broker's end. It ends with the drop.
#[derive(Debug)]
pub struct FarEnd {
    program: Program,
    _daemon: Daemon,
    paths: Paths,
}

/// The section of a tunnel's own end in the configuration.
pub fn near_end(plan: &TunnelPlan, mtu: u32, carrier: &str) -> String {
    format!(
        "[[tunnel]]\nname = \"{}\"\nkind = \"6in4\"\nlocal4 = \"{HOST4}\"\nremote4 = \"{}\"\n\
         address = \"{}/64\"\npeer = \"{}\"\nmtu = {mtu}\ncarrier = \"{carrier}\"\n",
        plan.interface, plan.remote4, plan.address, plan.peer
    )
}

impl FarEnd {
    /// Replaces the lab's own end of a tunnel that is no native one, and deletes the host's end. The outside's network
    /// is a prefix of this end, so that it takes packets for it.
    pub fn start(lab: &Lab, tunnel: &Tunnel, mtu: u32, carrier: &str) -> Result<Self> {
        let plan = tunnel.plan;
        tunnel.delete()?;
        let pop = tunnel.pop();
        pop.ip("link set host down\naddress flush dev host\n")?;
        let paths = lab.paths().of_host(plan.pop);
        for directory in [paths.base().to_owned(), paths.rt_tables()] {
            fs::create_dir_all(&directory).context("make the directory of the far end")?;
        }
        let text = format!(
            "uplinks = [\"core\"]\n[[tunnel]]\nname = \"far0\"\nkind = \"6in4\"\nlocal4 = \"{}\"\n\
             remote4 = \"{HOST4}\"\naddress = \"{}/64\"\npeer = \"{}\"\nmtu = {mtu}\ncarrier = \"{carrier}\"\n\
             prefixes = [\"2001:db8:ffff::/48\"]\ndirect = []\n",
            plan.remote4, plan.peer, plan.address
        );
        fs::write(paths.config(), text).context("write the far end's configuration")?;
        let program = Program::at(pop, &paths, Hook::Auto)?;
        let daemon = program.start()?;
        Ok(Self {
            program,
            _daemon: daemon,
            paths,
        })
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        // It also unmounts the pins.
        let ended = self.program.run_ok(&["down"]).map(|_| ());
        let removed = ended.and_then(|()| Ok(fs::remove_dir_all(self.paths.base())?));
        if let Err(error) = removed {
            eprintln!("the far end is left behind: {error:#}");
        }
    }
}
