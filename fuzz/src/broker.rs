//! The lab's brokers, as far as bytes go: without everything else that the lab is made of, which
//! would take long to build with instruments.

#[path = "../../tests/src/broker/ayiya.rs"]
pub mod ayiya;
#[path = "../../tests/src/broker/heartbeat.rs"]
pub mod heartbeat;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
