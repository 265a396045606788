//! Facts about an interface that decide about XDP and screening.

use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecUnspec, InfoKind, LinkAttribute, LinkMessage, LinkXdp,
};
use sixxs_core::{
    link::{LinkDriver, XdpMode, XdpProgram},
    types::IfIndex,
};

use super::far_end;

/// The driver of an interface.
pub(super) fn driver(message: &LinkMessage) -> LinkDriver {
    match far_end::kind(message) {
        Some(InfoKind::Bond) => LinkDriver::Bond,
        Some(InfoKind::Veth) => LinkDriver::Veth,
        Some(InfoKind::SitTun) => LinkDriver::Sit,
        _ => LinkDriver::Other,
    }
}

/// The interface whose tagged frames a VLAN's interface receives; `None` for other interfaces.
pub(super) fn vlan_of(message: &LinkMessage) -> Option<IfIndex> {
    if far_end::kind(message) != Some(&InfoKind::Vlan) {
        return None;
    }
    let mut attributes = message.attributes.iter();
    attributes.find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(IfIndex(*index)),
        _ => None,
    })
}

/// Whether packets that arrive at an interface may be forwarded by IPv4. True if the kernel does not report it.
pub(super) fn forwards_ipv4(message: &LinkMessage) -> bool {
    let attributes = message.attributes.iter();
    let families = attributes.filter_map(|attribute| match attribute {
        LinkAttribute::AfSpecUnspec(families) => Some(families),
        _ => None,
    });
    let facts = families.flatten().filter_map(|family| match family {
        AfSpecUnspec::Inet(facts) => Some(facts),
        _ => None,
    });
    let mut settings = facts.flatten().filter_map(|fact| match fact {
        AfSpecInet::DevConf(settings) => Some(settings),
        _ => None,
    });
    settings
        .next()
        .is_none_or(|settings| settings.forwarding != 0)
}

/// The XDP program of an interface; if it has several, the one in the driver.
pub(super) fn xdp_program(message: &LinkMessage) -> Option<XdpProgram> {
    let attributes = message.attributes.iter();
    let facts = attributes.filter_map(|attribute| match attribute {
        LinkAttribute::Xdp(facts) => Some(facts),
        _ => None,
    });
    let programs = facts.flatten().filter_map(|fact| match fact {
        LinkXdp::DrvProgId(id) | LinkXdp::HwProgId(id) => Some((XdpMode::Native, *id)),
        LinkXdp::SkbProgId(id) => Some((XdpMode::Generic, *id)),
        _ => None,
    });
    let mut programs: Vec<_> = programs.collect();
    programs.sort_by_key(|(mode, _)| *mode == XdpMode::Generic);
    let (mode, id) = *programs.first()?;
    Some(XdpProgram { id, mode })
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::{InetDevConf, LinkInfo};

    use super::*;

    #[test]
    fn a_vlan_belongs_to_an_interface() {
        let found = |kind: InfoKind| {
            let mut message = LinkMessage::default();
            message.attributes = vec![
                LinkAttribute::Link(7),
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]),
            ];
            (vlan_of(&message), driver(&message))
        };
        assert_eq!(found(InfoKind::Vlan), (Some(IfIndex(7)), LinkDriver::Other));
        // The other end of a veth pair.
        assert_eq!(found(InfoKind::Veth), (None, LinkDriver::Veth));
        assert_eq!(found(InfoKind::Bond), (None, LinkDriver::Bond));
    }

    #[test]
    fn forwarding_is_a_setting_of_each_interface() {
        let found = |forwarding: i32| {
            let mut settings = InetDevConf::default();
            settings.forwarding = forwarding;
            let mut message = LinkMessage::default();
            let facts = vec![AfSpecUnspec::Inet(vec![AfSpecInet::DevConf(settings)])];
            message.attributes = vec![LinkAttribute::AfSpecUnspec(facts)];
            forwards_ipv4(&message)
        };
        assert!(found(1) && !found(0));
        assert!(forwards_ipv4(&LinkMessage::default()));
    }

    #[test]
    fn the_program_in_the_driver_counts() {
        let found = |facts: Vec<LinkXdp>| {
            let mut message = LinkMessage::default();
            message.attributes = vec![LinkAttribute::Xdp(facts)];
            xdp_program(&message).map(|program| (program.id, program.mode))
        };
        let (native, generic) = (LinkXdp::DrvProgId(7), LinkXdp::SkbProgId(8));
        assert_eq!(found(vec![native.clone()]), Some((7, XdpMode::Native)));
        assert_eq!(found(vec![generic.clone()]), Some((8, XdpMode::Generic)));
        assert_eq!(
            found(vec![generic, LinkXdp::HwProgId(9)]),
            Some((9, XdpMode::Native))
        );
        assert_eq!(found(vec![LinkXdp::Flags(0)]), None);
        assert_eq!(xdp_program(&LinkMessage::default()), None);
    }
}
