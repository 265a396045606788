//! What the kernel programs and user space agree on, and the packet decision as pure code.
//!
//! Nothing here does IO, allocates or needs `std`: the very same functions are compiled into the
//! eBPF object and tested on the host. Wire formats are read as bytes; shared records derive
//! [`bytemuck::Pod`] and have their sizes asserted at compile time.
//!
//! * [`address`] – IPv6 addresses as the programs compare them
//! * [`packet`] – where the headers of a frame are
//! * [`decide`] – what a packet on its way out of an interface is: ours, nobody's, a leak
//! * [`treatment`] – what the programs do with a leak
//! * [`flow`] – which conversation a packet belongs to
//! * [`recursion`] – outer packets of a tunnel that would go into that very tunnel
//! * [`echo`] – echo requests paired with their replies
//! * [`too_big`] – the ICMPv6 Packet Too Big that answers an oversized leak
//! * [`stat`] – everything that is counted, by name
//! * [`layout`] – keys and values of the maps
#![cfg_attr(not(test), no_std)]

pub mod address;
pub mod decide;
pub mod echo;
pub mod flow;
pub mod layout;
pub mod packet;
pub mod recursion;
pub mod stat;
pub mod too_big;
pub mod treatment;
