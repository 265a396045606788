//! The wire formats of the lab's brokers, without the rest of the lab, which would take long to build with
//! instrumentation.

#[path = "../../tests/src/broker/ayiya.rs"]
pub mod ayiya;
#[path = "../../tests/src/broker/heartbeat.rs"]
pub mod heartbeat;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
