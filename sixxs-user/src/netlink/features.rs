//! The features of an interface, such as segmentation offload (`ethtool -k`), by generic netlink
//! (`uapi/linux/ethtool_netlink.h`, kernel 5.10).

use std::collections::BTreeSet;

use rtnetlink::packet_core::NlasIterator;
use sixxs_core::types::IfIndex;

use super::generic::{GenericSocket, attribute};

/// `ETHTOOL_MSG_FEATURES_GET`, and the version of the family.
const GET_FEATURES: [u8; 2] = [11, 1];

/// `ETHTOOL_A_FEATURES_HEADER`.
const HEADER: u16 = 1;
/// `ETHTOOL_A_HEADER_DEV_INDEX`.
const DEVICE_INDEX: u16 = 1;
/// `ETHTOOL_A_FEATURES_ACTIVE`.
const ACTIVE: u16 = 4;
/// `ETHTOOL_A_BITSET_BITS`.
const BITS: u16 = 3;
/// `ETHTOOL_A_BITSET_BIT_NAME`.
const BIT_NAME: u16 = 2;

/// Bit of an attribute with attributes in it (`NLA_F_NESTED`).
const NESTED: u16 = 0x8000;

/// The names of the features that are on.
pub fn features(index: IfIndex) -> anyhow::Result<BTreeSet<String>> {
    let mut socket = GenericSocket::open("ethtool")?;
    let header = attribute(DEVICE_INDEX, &index.0.to_ne_bytes());
    let mut names = BTreeSet::new();
    socket.request(
        0,
        GET_FEATURES,
        &attribute(HEADER | NESTED, &header),
        |attributes| names.extend(active(attributes)),
    )?;
    Ok(names)
}

/// The names of the active features in an answer; what is malformed ends it.
fn active(attributes: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    for set in NlasIterator::new(attributes).map_while(Result::ok) {
        if set.kind() != ACTIVE {
            continue;
        }
        for part in NlasIterator::new(set.value()).map_while(Result::ok) {
            if part.kind() != BITS {
                continue;
            }
            for bit in NlasIterator::new(part.value()).map_while(Result::ok) {
                let facts = NlasIterator::new(bit.value()).map_while(Result::ok);
                for fact in facts.filter(|fact| fact.kind() == BIT_NAME) {
                    let name = fact.value().strip_suffix(&[0]).unwrap_or(fact.value());
                    names.extend(String::from_utf8(name.to_vec()).ok());
                }
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_the_features_of_the_loopback_interface() {
        let found = features(IfIndex(1)).unwrap();
        // It cannot be turned off.
        assert!(found.contains("loopback"), "{found:?}");
        assert!(features(IfIndex(u32::MAX)).is_err());
    }

    #[test]
    fn what_is_cut_off_is_no_feature() {
        let bit = |name: &[u8]| attribute(NESTED | 1, &attribute(BIT_NAME, name));
        let bits = [bit(b"rx-lro\0"), bit(b"rx-gro-hw\0"), bit(b"\xff\0")].concat();
        let answer = [
            attribute(3 | NESTED, &attribute(BITS | NESTED, &bit(b"wanted\0"))),
            attribute(ACTIVE | NESTED, &attribute(BITS | NESTED, &bits)),
        ]
        .concat();
        assert_eq!(active(&answer), ["rx-lro", "rx-gro-hw"]);
        for end in 0..answer.len() {
            assert!(active(&answer[..end]).len() <= 2);
        }
    }
}
