//! Injects each fault.

use std::net::Ipv6Addr;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use super::act::{Act, Loss, Port};
use super::clock;
use super::host::Host;
use crate::topology::TUNNELS;
use crate::{leak, own, shell, uplink};

/// Changes in a flood. A socket with the default buffer (212,992 bytes) holds a few hundred of their
/// messages.
const FLOOD: usize = 1500;

/// Forged packets to each destination.
const FORGED: u64 = 5;

/// An address without a host, in the prefix that a broker routes to the host.
const IN_PREFIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xbb, 9, 0, 0, 0, 9);

impl Host<'_> {
    pub(super) fn strike(&mut self, act: Act) -> Result<()> {
        let host = self.lab.host();
        match act {
            Act::FlushRules => {
                self.attempt(&format!("ip -6 rule flush protocol {}", own::PROTOCOL))
            }
            Act::DeleteRule(number) => {
                let rules = own::rules(host)?;
                if let Some(line) = nth(&rules, number) {
                    self.attempt(&own::delete_rule(line)?);
                }
            }
            Act::DeleteRoute(number) => {
                let routes = own::routes(host)?;
                if let Some(line) = nth(&routes, number) {
                    self.attempt(&own::delete_route(line)?);
                }
            }
            Act::FlushTable(number) => {
                self.attempt(&format!("ip -6 route flush table {}", 200 + number));
            }
            Act::Take(port, loss) => self.take(port, loss)?,
            Act::GiveBack(port, loss) => self.give_back(port, loss)?,
            Act::Detach(_) | Act::DeleteLinkPin(_) | Act::DeleteQdisc(_) | Act::Foreign(..) => {
                self.strike_programs(act)?;
            }
            Act::DeleteMapPin(number) => self.programs.delete_map_pin(number)?,
            Act::DeletePins => self.programs.delete_pins()?,
            Act::Kill => self.daemon.take().context("a daemon lives")?.kill()?,
            Act::Stop => {
                let code = self.daemon.take().context("a daemon lives")?.stop()?;
                ensure!(code == 0, "sixxs run ended with {code}");
            }
            Act::Start => {
                let run = self.program.command(&clock::MOVABLE);
                self.daemon = Some(self.program.start_as(run)?);
                self.starting = false;
            }
            Act::StartOnly => {
                let run = self.program.command(&clock::MOVABLE);
                self.daemon = Some(self.program.spawn_as(run)?);
                self.starting = true;
            }
            Act::Reload(by_signal) => self.reload(by_signal)?,
            Act::Freeze => self.signal(Signal::SIGSTOP)?,
            Act::Flood => self.flood()?,
            Act::Forge(number) => self.forge(number)?,
            Act::Exit => self.exit_comes_and_goes()?,
            Act::Thaw => self.signal(Signal::SIGCONT)?,
            Act::Wall(seconds) => clock::displace(self.lab.paths(), seconds, 0)?,
            Act::Sleep(seconds) => clock::displace(self.lab.paths(), 0, seconds)?,
        }
        Ok(())
    }

    fn strike_programs(&mut self, act: Act) -> Result<()> {
        let programs = &mut self.programs;
        let struck = match act {
            Act::Detach(place) => programs.detach(place),
            Act::DeleteLinkPin(place) => programs.delete_link_pin(place),
            Act::DeleteQdisc(port) => programs.delete_qdisc(port),
            Act::Foreign(place, first) => programs.attach_foreign(place, first),
            _ => Ok(()),
        };
        match struck {
            // The daemon has not finished the interface yet.
            Err(e) if self.native => self.chronicle.note(format!("  in vain: {e:#}")),
            struck => struck?,
        }
        Ok(())
    }

    /// Runs a command that fails if the daemon does the same at that moment: logs a failure, and returns no
    /// error.
    fn attempt(&self, command: &str) {
        if let Err(e) = self.lab.host().sh(command) {
            self.chronicle.note(format!("  in vain: {e:#}"));
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
            // The daemon changed the interface at the same time.
            self.chronicle.note(format!("  in vain: {taken:?}"));
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
        // A daemon that was just started may not listen yet.
        let printed = self.program.run(&["reload"])?;
        ensure!(
            printed.code == 0 || printed.stderr.contains("no daemon answers"),
            "{printed:#?}"
        );
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
            // A router may reject the forged address; the socket then reports its ICMPv6 error.
            if let Err(e) = leak::send(&socket, to, FORGED, 100) {
                self.chronicle.note(format!("  in vain: {e}"));
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

/// A line by index, modulo their number.
fn nth(lines: &str, number: usize) -> Option<&str> {
    let lines: Vec<&str> = lines.lines().collect();
    let at = number.checked_rem(lines.len())?;
    lines.get(at).copied()
}
