//! The bodies of the fuzz targets, and the parts of the lab that they need.

pub mod bodies;
pub mod broker;
