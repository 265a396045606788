//! Checks a tunnel whose interface the daemon creates.

use super::{
    super::{
        Kind,
        section::{Field, Located},
    },
    Fields,
};
use crate::{
    broker::ayiya::wire::{HEADER_BYTES, LARGEST_BYTES},
    types::InterfaceAddress,
};

impl Fields {
    /// Checks the requirements for an interface that the daemon creates.
    pub(super) fn check_native(&mut self, kind: &Kind) {
        for Located { value, location } in self.addresses.items() {
            if !InterfaceAddress::TUNNEL_BITS.contains(&value.bits) {
                let message = format!(
                    "expected a length of 64 to 128, found {}/{}: destinations within it would be routed into \
                     the tunnel, also those of other hosts; networks that the broker routes to you go under prefixes",
                    value.address, value.bits
                );
                self.diagnostics.add(location, message);
            }
        }
        if let Kind::Ayiya(_) = kind {
            self.check_ayiya();
        }
        if let Some(location) = self.gateway.location() {
            let message =
                "expected only for interfaces with a link layer, which this tunnel is not";
            self.diagnostics.add(location, message);
        }
    }

    fn check_ayiya(&mut self) {
        // The peer is required: AYIYA signs with one identity, and identifies the broker by the broker's
        // address.
        if let Field::Absent(location) = &self.peer {
            let message = "missing; expected the broker's address in the tunnel";
            self.diagnostics.add(location, message);
        }
        if let Some(Located { value, location }) = self.mtu.as_set()
            && *value > AYIYA_MTU
        {
            let message = format!("expected at most {AYIYA_MTU} for AYIYA, found {value}");
            self.diagnostics.add(location, message);
        }
    }
}

/// The largest packet that fits into a datagram that AYIYA brokers accept, in bytes.
#[expect(clippy::cast_possible_truncation, reason = "some 2,000")]
const AYIYA_MTU: u32 = (LARGEST_BYTES - HEADER_BYTES) as u32;
