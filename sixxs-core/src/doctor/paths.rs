//! Compares the packet sizes that tunnels carry with their MTU.

use super::{Finding, Verdict};

/// The path through a tunnel, tested with packets that must not be fragmented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The tunnel.
    pub tunnel: String,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// The largest packet that was answered, in bytes. A small one was answered.
    pub fits: u32,
}

pub(super) fn findings(paths: &[Path]) -> impl Iterator<Item = Finding> {
    paths.iter().map(|path| {
        let Path { tunnel, mtu, fits } = path;
        if fits >= mtu {
            return Finding::good("mtu", format!("{tunnel} carries packets of {mtu} bytes"));
        }
        Finding::not(
            "mtu",
            Verdict::Bad,
            format!("{tunnel} has an MTU of {mtu} bytes, and packets of more than {fits} are lost in transit"),
            if *fits >= 1280 {
                format!("mtu = {fits} for {tunnel}; and at the broker")
            } else {
                "IPv6 needs 1280 bytes: something between here and the broker drops fragments or long packets"
                    .to_owned()
            },
        )
    })
}
