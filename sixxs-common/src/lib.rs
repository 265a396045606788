//! Code that the kernel programs and user space share, and the packet decision as pure code.
//!
//! Nothing here does IO, allocates or needs `std`: the same functions are compiled into the eBPF
//! object and tested on the host. Wire formats are read as bytes. Shared records derive
//! [`bytemuck::Pod`], and their sizes are asserted at compile time.
//!
//! * [`address`] – IPv6 addresses in the form that the programs compare
//! * [`packet`] – finds the headers of a frame
//! * [`decide`] – classifies a packet that is about to leave: a tunnel's own, no tunnel's, a leak
//! * [`treatment`] – decides what the programs do with a leak
//! * [`flow`] – the flow that a packet belongs to
//! * [`flow_record`] – adds packets to the record of a leaking flow
//! * [`recursion`] – detects outer packets of a tunnel that would enter that same tunnel
//! * [`echo`] – pairs echo requests with their replies
//! * [`inside_test`] – an echo request that user space puts in, and what becomes of it
//! * [`outside_test`] – an echo request from one link to another over the internet
//! * [`answer`] – which echo requests the programs answer themselves
//! * [`budget`] – a limit per second
//! * [`too_big`] – the ICMPv6 Packet Too Big that answers an oversized leak
//! * [`endpoint`] – which tunnel an outer packet belongs to
//! * [`ayiya`] – the header of AYIYA datagrams
//! * [`screening`] – which outer packets that arrive are forged
//! * [`six_in_four`] – the outer header of tunnels that the programs carry
//! * [`stat`] – all counters, by name
//! * [`layout`] – keys and values of the maps
//! * [`source`] – the entry of a source prefix
#![cfg_attr(not(test), no_std)]

pub mod address;
pub mod answer;
pub mod ayiya;
pub mod budget;
pub mod decide;
pub mod echo;
pub mod endpoint;
pub mod flow;
pub mod flow_record;
pub mod inside_test;
pub mod layout;
pub mod outside_test;
pub mod packet;
pub mod recursion;
pub mod screening;
pub mod six_in_four;
pub mod source;
pub mod source_filter;
pub mod stat;
pub mod too_big;
pub mod treatment;
