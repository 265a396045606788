//! Attaches the programs that the interfaces need.

use sixxs_core::{
    config::XdpChoice,
    enforce::{
        Enforcement, Interface, Role,
        screening::{NoXdp, XdpWish},
    },
    link::Links,
    types::IfName,
};

use super::{
    AttachPoint, EGRESS, INGRESS, Kernel, Synced, UNDERLAY, UNDERLAY_IP, XDP, hook::AttachState,
    load::loaded, program,
};
use crate::{
    host::kernel_support,
    netlink::{Netlink, tc::Direction},
};

impl Kernel {
    /// Attaches all programs that are wanted and not attached. The kernel takes 15 ms for each that is new: other tasks
    /// run in between.
    pub(super) async fn attach_all(
        &mut self,
        wanted: &Enforcement,
        links: &Links,
        netlink: &Netlink,
        synced: &mut Synced,
    ) {
        for (name, interface) in &wanted.interfaces {
            let link = links.by_index(interface.index);
            let kernel_name = link.map_or(name, |link| link.kernel_name());
            for direction in directions(interface) {
                let point = AttachPoint {
                    index: interface.index,
                    direction: *direction,
                };
                let by_filter = wanted.by_filters.contains(name);
                let attachments = &mut self.attachments;
                let attached = match program(&mut self.ebpf, program_at(interface, *direction)) {
                    Ok(program) => {
                        attachments
                            .ensure(program, kernel_name, point, by_filter, netlink)
                            .await
                    }
                    Err(error) => Err(error),
                };
                tokio::task::yield_now().await;
                match attached {
                    Ok(AttachState::Detached) => {
                        synced.reattached.push((name.clone(), direction.name()));
                    }
                    Ok(AttachState::InPlace | AttachState::Missing) => {}
                    Err(error) => {
                        let direction = direction.name();
                        synced.failures.push(format!(
                            "attach to {name} {direction}: {error:#}; {}",
                            kernel_support::why_not_attached()
                        ));
                    }
                }
            }
        }
    }

    /// Attaches the XDP program where it is wanted, and detaches it elsewhere. Returns failures, as messages: with "auto",
    /// it is no failure that it is not attached.
    pub(super) fn attach_xdp(
        &mut self,
        wanted: &Enforcement,
        links: &Links,
        reattached: &mut Vec<(IfName, &'static str)>,
    ) -> Vec<String> {
        let wishes = wanted.interfaces.iter().filter_map(|(name, interface)| {
            Some((name, interface.xdp?, links.by_index(interface.index)?))
        });
        let wishes: Vec<_> = wishes.collect();
        let keep = |index| wishes.iter().any(|(_, _, link)| link.index == index);
        self.xdp.retain(links, &keep);
        let is_needed = wishes
            .iter()
            .any(|(_, wish, _)| matches!(wish, XdpWish::Attach(_)));
        if is_needed
            && self.xdp_unloaded.is_none()
            && let Err(error) = loaded(&mut self.ebpf, XDP)
        {
            self.xdp_unloaded = Some(format!("the kernel does not load it: {error:#}"));
        }
        let mut failures = Vec::new();
        for (name, wish, link) in wishes {
            let XdpWish::Attach(choice) = wish else {
                self.xdp.forget_refusal(link.index);
                continue;
            };
            let attached = match &self.xdp_unloaded {
                None => self.xdp.ensure(&mut self.ebpf, link, links, choice),
                Some(reason) => self.xdp.refuse(link, choice, reason),
            };
            match attached {
                Ok(AttachState::Detached) => reattached.push((name.clone(), "XDP")),
                Err(reason) if choice != XdpChoice::Auto && reason != NoXdp::Off => {
                    failures.push(format!("attach the XDP program to {name}: {reason}"));
                }
                Ok(AttachState::InPlace | AttachState::Missing) | Err(_) => {}
            }
        }
        failures
    }
}

/// Where an interface needs programs.
pub(super) const fn directions(interface: &Interface) -> &'static [Direction] {
    match interface.role {
        Role::Uplink | Role::Newcomer | Role::Candidate if !interface.is_underlay => {
            &[Direction::Egress]
        }
        Role::Uplink | Role::Newcomer | Role::Candidate | Role::Underlay | Role::Tunnel => {
            &[Direction::Egress, Direction::Ingress]
        }
    }
}

/// The program for one direction of an interface.
const fn program_at(interface: &Interface, direction: Direction) -> &'static str {
    match (direction, interface.role) {
        (Direction::Egress, _) => EGRESS,
        (Direction::Ingress, Role::Tunnel) => INGRESS,
        (Direction::Ingress, _) if interface.mac.is_some() => UNDERLAY,
        (Direction::Ingress, _) => UNDERLAY_IP,
    }
}
