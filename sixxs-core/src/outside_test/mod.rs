//! The outside test: packets from one link of this host to another one, over the internet.
//!
//! A request is put into the egress of one link. The programs of the other link record its arrival, and drop it. One clock
//! measures both times, so each direction has its own time.
//!
//! * [`pairs`] – which links are tested with each other
//! * [`request`] – the packet
//! * [`times`] – loss and times of several requests
//! * [`path_mtu`] – which size is tried next
//! * [`report`] – sentences about what arrived
//! * [`cause`] – sentences and hints if nothing did

pub mod cause;
pub mod pairs;
pub mod path_mtu;
pub mod report;
pub mod request;
pub mod times;
