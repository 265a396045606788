//! The brokers of the lab: the far ends of the native tunnels, and the TIC server that provisions them. They
//! are an independent implementation that shares no protocol code with the program, so that each checks the
//! other.
//!
//! A [`pop::Pop`] carries packets: AYIYA ([`ayiya`]), 6in4 ([`protocol41`]), and 6in4 whose client reports
//! its address by [`heartbeat`]. [`session`] has the state of a tunnel, `state` decides, the thread in
//! `datapath` moves packets, and [`impairment`] simulates a bad path. [`forge`] makes invalid datagrams.
//! [`tic`] is the server, and [`hurricane`] the web server of a broker like Hurricane Electric.

pub mod ayiya;
mod certificate;
pub mod clock;
pub mod counts;
mod datapath;
pub mod forge;
pub mod heartbeat;
pub mod hurricane;
pub mod impairment;
mod listener;
pub mod ping;
pub mod pop;
pub mod protocol41;
pub mod random;
pub mod session;
pub mod state;
pub mod tic;

/// Encapsulation of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// AYIYA.
    Ayiya,
    /// Protocol 41 to a registered IPv4 address.
    SixInFour,
    /// Protocol 41 to the source address of the client's heartbeats.
    Heartbeat,
}

impl Kind {
    /// The name in the program's configuration.
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
