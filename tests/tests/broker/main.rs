//! Tests of the lab's brokers with minimal clients: they follow the protocols, before the daemon is tested
//! with them.

mod client;

mod ayiya;
mod protocol41;
mod tic;
