//! Owns the brokers of the lab: the other ends of the native tunnels, and the server that hands
//! out their parameters. They are an implementation of their own, which shares no code with the
//! program's: each checks the other.
//!
//! A [`pop::Pop`] carries packets: AYIYA ([`ayiya`]), 6in4 ([`protocol41`]), and 6in4 whose
//! client says by [`heartbeat`] where it is. What it knows of a tunnel is in [`session`], what it
//! decides in `state`; the thread that moves packets is `datapath`; what the path does to them in [`impairment`].
//! [`forge`] makes the datagrams that must not get through. [`tic`] is the server.

pub mod ayiya;
pub mod clock;
pub mod counts;
mod datapath;
pub mod forge;
pub mod heartbeat;
pub mod impairment;
pub mod ping;
pub mod pop;
pub mod protocol41;
pub mod random;
pub mod session;
pub mod state;
pub mod tic;

/// What carries a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// AYIYA.
    Ayiya,
    /// Protocol 41 to a registered IPv4 address.
    SixInFour,
    /// Protocol 41 to the IPv4 address that a heartbeat came from.
    Heartbeat,
}

impl Kind {
    /// The word of the program's configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ayiya => "ayiya",
            Self::SixInFour => "6in4",
            Self::Heartbeat => "6in4-heartbeat",
        }
    }
}

/// Lowercase hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
