//! The bodies of the fuzz targets, and what they need of the lab.

pub mod bodies;
pub mod broker;
