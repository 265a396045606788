//! The lab's brokers, by clients made by hand: that they are what the protocols say, before the
//! program is tried on them.

mod client;

mod ayiya;
mod protocol41;
mod tic;
