//! Owns the injection of each action into the host.

use std::net::Ipv6Addr;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use super::clock;
use super::exit;
use super::fault::{Action, Loss, Port};
use super::host::{Host, QUIET, REPAIRED};
use crate::lab::topology::TUNNELS;
use crate::lab::uplink;
use crate::probe::leak;
use crate::program::owned_state;
use crate::shell;

/// Changes of one flood. A netlink socket of the default size (212,992 bytes) holds a few hundred
/// messages.
const FLOOD: usize = 1500;

/// Forged packets to each destination.
const FORGED: u64 = 5;

/// An unused address in the prefix that a broker routes to the host.
const IN_PREFIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbb, 9, 0, 0, 0, 9);

impl Host<'_> {
    pub(super) fn inject(&mut self, action: Action) -> Result<()> {
        let host = self.lab.host();
        match action {
            Action::FlushRules => self.attempt(&format!(
                "ip -6 rule flush protocol {}",
                owned_state::PROTOCOL
            )),
            Action::DeleteRule(number) => {
                let rules = owned_state::rules(host)?;
                if let Some(line) = nth(&rules, number) {
                    self.attempt(&owned_state::delete_rule(line)?);
                }
            }
            Action::DeleteRoute(number) => {
                let routes = owned_state::routes(host)?;
                if let Some(line) = nth(&routes, number) {
                    self.attempt(&owned_state::delete_route(line)?);
                }
            }
            Action::FlushTable(number) => {
                self.attempt(&format!("ip -6 route flush table {}", 200 + number));
            }
            Action::Take(port, loss) => self.take(port, loss)?,
            Action::GiveBack(port, loss) => self.give_back(port, loss)?,
            Action::Detach(_)
            | Action::DeleteLinkPin(_)
            | Action::DeleteQdisc(_)
            | Action::Foreign(..)
            | Action::Xdp(_) => {
                self.inject_at_programs(action)?;
            }
            Action::DeleteMapPin(number) => self.programs.delete_map_pin(number)?,
            Action::DeletePins => self.programs.delete_pins()?,
            Action::Kill => self.daemon.take().context("a daemon lives")?.kill()?,
            Action::Stop => {
                let code = self.daemon.take().context("a daemon lives")?.stop()?;
                ensure!(code == 0, "sixxs run ended with {code}");
            }
            Action::Start | Action::StartOnly => self.start_daemon(action == Action::StartOnly)?,
            Action::Reload(by_signal) => self.reload(by_signal)?,
            Action::Carrier => self.change_carrier()?,
            Action::Freeze => self.signal(Signal::SIGSTOP)?,
            Action::Flood => self.flood()?,
            Action::Forge(number) => self.forge(number)?,
            Action::Exit => self.exit()?,
            Action::Renumber => self.renumber()?,
            Action::Thaw => self.signal(Signal::SIGCONT)?,
            Action::Wall(seconds) => clock::displace(self.lab.paths(), seconds, 0)?,
            Action::Sleep(seconds) => clock::displace(self.lab.paths(), 0, seconds)?,
        }
        Ok(())
    }

    fn start_daemon(&mut self, may_start_later: bool) -> Result<()> {
        let run = self.program.command(&clock::MOVABLE);
        self.daemon = Some(match may_start_later {
            true => self.program.spawn_as(run)?,
            false => self.program.start_as(run)?,
        });
        self.starting = may_start_later;
        Ok(())
    }

    fn inject_at_programs(&mut self, action: Action) -> Result<()> {
        let programs = &mut self.programs;
        let outcome = match action {
            Action::Detach(place) => programs.detach(place),
            Action::DeleteLinkPin(place) => programs.delete_link_pin(place),
            Action::DeleteQdisc(port) => programs.delete_qdisc(port),
            Action::Foreign(place, first) => programs.attach_foreign(place, first),
            Action::Xdp(foreign) => programs.detach_xdp(foreign),
            _ => Ok(()),
        };
        match outcome {
            // The daemon is still creating the interface.
            Err(e) if self.native => self.log.note(format!("  no effect: {e:#}")),
            outcome => outcome?,
        }
        Ok(())
    }

    /// A command that may fail because the daemon acts at the same time. Failure is logged.
    fn attempt(&self, command: &str) {
        if let Err(e) = self.lab.host().sh(command) {
            self.log.note(format!("  no effect: {e:#}"));
        }
    }

    fn take(&mut self, port: Port, loss: Loss) -> Result<()> {
        let (host, interface) = (self.lab.host(), port.interface());
        // The program does not reuse its own interfaces after they were renamed.
        if loss == Loss::Interface || (loss == Loss::Name && self.native && port != Port::Uplink) {
            self.programs.forget(port);
        }
        let lines = match (port, loss) {
            (_, Loss::Down) => format!("link set {interface} down\n"),
            (Port::Uplink, Loss::Interface) => return uplink::delete(self.lab),
            (Port::Tunnel(number), Loss::Interface) if !self.native => {
                return self.lab.tunnels()[number].delete();
            }
            (_, Loss::Interface) => format!("link delete {interface}\n"),
            (Port::Uplink, Loss::Name) => return uplink::rename(host),
            (Port::Tunnel(number), Loss::Name) => {
                format!("link set {interface} down\nlink set {interface} name away{number}\n")
            }
            (Port::Uplink, Loss::Address) => uplink::WITHOUT_ADDRESS.to_owned(),
            (Port::Tunnel(number), Loss::Address) => {
                let address = TUNNELS[number].address;
                format!("address delete {address}/64 dev {interface}\n")
            }
        };
        let taken = host.ip(&lines);
        if self.native && taken.is_err() {
            // The daemon changes it at the same time.
            self.log.note(format!("  no effect: {taken:?}"));
            return Ok(());
        }
        taken
    }

    fn give_back(&mut self, port: Port, loss: Loss) -> Result<()> {
        let host = self.lab.host();
        match (port, loss) {
            (Port::Uplink, Loss::Interface) => uplink::create(self.lab),
            (Port::Uplink, Loss::Name) => uplink::rename_back(host),
            (Port::Uplink, Loss::Down | Loss::Address) => uplink::raise(host),
            (Port::Tunnel(number), Loss::Interface) => self.lab.tunnels()[number].create(),
            (Port::Tunnel(number), Loss::Name) => {
                let interface = port.interface();
                host.ip(&format!("link set away{number} name {interface}\n"))?;
                self.lab.tunnels()[number].raise()
            }
            (Port::Tunnel(number), Loss::Down | Loss::Address) => {
                self.lab.tunnels()[number].raise()
            }
        }
    }

    fn reload(&mut self, by_signal: bool) -> Result<()> {
        if by_signal {
            return self.signal(Signal::SIGHUP);
        }
        // A daemon that just started may not listen yet.
        let printed = self.program.run(&["reload"])?;
        ensure!(
            printed.code == 0 || printed.stderr.contains("no daemon answers"),
            "{printed:#?}"
        );
        Ok(())
    }

    fn exit(&mut self) -> Result<()> {
        exit::add_and_remove(self.lab, self.program, &self.log, (REPAIRED, QUIET))?;
        Ok(())
    }

    fn renumber(&mut self) -> Result<()> {
        let link = self.renumbering.as_mut().context("a link is followed")?;
        link.renumber(self.lab, &self.log, REPAIRED)
    }

    fn change_carrier(&mut self) -> Result<()> {
        let config = std::fs::read_to_string(self.lab.paths().config())?;
        let kind = "kind = \"6in4\"\n";
        let other = config.replace(kind, &format!("{kind}carrier = \"tun\"\n"));
        ensure!(other != config, "no 6in4 tunnel: {config}");
        for config in [other, config] {
            self.lab.write_config(&config)?;
            self.reload(false)?;
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let daemon = self.daemon.as_ref().context("a daemon lives")?;
        daemon.signal(signal)
    }

    fn forge(&self, number: usize) -> Result<()> {
        let (forged, other) = (TUNNELS[number].address, TUNNELS[1 - number].address);
        let socket = leak::forging_socket(self.lab.outside(), forged)?;
        for to in [other, IN_PREFIX] {
            // A router on the path may refuse the address; the socket reports its ICMP error.
            if let Err(e) = leak::send(&socket, to, FORGED, 100) {
                self.log.note(format!("  no effect: {e}"));
            }
        }
        Ok(())
    }

    fn flood(&self) -> Result<()> {
        let rule = "from 2001:db8:79::/48 lookup main priority 16391\n";
        let both = format!("rule add {rule}rule del {rule}");
        let mut ip = std::process::Command::new("ip");
        ip.args(["-6", "-n", self.lab.host().name(), "-batch", "-"]);
        shell::capture_with_input(&mut ip, &both.repeat(FLOOD / 2))?;
        Ok(())
    }
}

/// The line with this number modulo their count.
fn nth(lines: &str, number: usize) -> Option<&str> {
    let lines: Vec<&str> = lines.lines().collect();
    let at = number.checked_rem(lines.len())?;
    lines.get(at).copied()
}
